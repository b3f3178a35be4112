"""What messages are made of."""


def first_line(error: BaseException) -> str:
    """What an error says, without the advice and the traces that libraries put after it."""
    return str(error).strip().partition("\n")[0]
