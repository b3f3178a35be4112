"""Helpers for error messages."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, without the advice and traces that libraries append."""
    return str(error).strip().partition("\n")[0]
