"""What is wrong with a file."""


class CheckpointError(ValueError):
    """A file is not what it should be. The message says what is wrong and what to do about it."""


class HostileFileError(CheckpointError):
    """A file is made to do harm: to run code, or to unfold into more than it holds."""
