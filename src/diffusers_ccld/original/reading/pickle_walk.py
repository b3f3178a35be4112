"""Detects malicious pickles by reading their opcodes, without creating objects."""

from pickletools import genops, markobject
from typing import BinaryIO, NamedTuple

from ..errors import HostileFileError

# Limits above those of any checkpoint: opcodes, depth and parts of nested tuples, characters of repeated text.
MOST_OPCODES = 300_000
MOST_NESTED = 32
MOST_PARTS = 10**5
MOST_REPEATED = 2**24


class _Value(NamedTuple):
    """The type and content of a value on a pickle's stack, as far as they are known.

    Attributes:
        depth: Depth of its nested tuples.
        parts: Number of their parts.
        text: Number of characters of text.
    """

    depth: int = 0
    parts: int = 1
    text: int = 0


_PLAIN = _Value()


def check_pickle(file: BinaryIO) -> None:
    """Checks a pickle without creating objects.

    A few bytes can make Python's unpicklers use up memory and time: huge indices of the memo, nested tuples that are
    hashed as keys, or `bytearray(10**12)`.

    Args:
        file: The file, at the start of the pickle. It is left at the end.

    Raises:
        HostileFileError: If the pickle is malicious.
        ValueError: If it is not a pickle.
    """
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, _Value] = {}
    read = passed = 0  # characters of text in the file, and as arguments of calls
    for count, (opcode, argument, _) in enumerate(genops(file)):
        name = opcode.name
        if count > MOST_OPCODES:
            raise HostileFileError("the file has more parts than any checkpoint.")
        text = len(argument) if isinstance(argument, str) else 0
        read += text
        if name == "GLOBAL" and argument.endswith(" bytearray"):
            raise HostileFileError("the file creates an array of bytes of arbitrary size.")
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if argument is None else argument
            if index > count:
                raise HostileFileError("the file has an index larger than the number of its parts.")
            memo[index] = stack[-1] if stack and stack[-1] is not None else _PLAIN
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument, _PLAIN))
        elif name == "MARK":
            stack.append(None)
        else:
            popped = _pop(stack, opcode)
            if name == "REDUCE":
                passed += sum(value.text for value in popped)
            for _ in opcode.stack_after:
                if name.startswith("TUPLE") or name == "EMPTY_TUPLE":
                    depth = 1 + max((value.depth for value in popped), default=0)
                    parts, text = 1 + sum(v.parts for v in popped), sum(v.text for v in popped)
                    value = _Value(depth, parts, text)
                    if value.depth > MOST_NESTED or value.parts > MOST_PARTS:
                        raise HostileFileError("the file nests tuples in tuples.")
                else:
                    value = popped[0] if name == "DUP" and popped else _Value(text=text) if text else _PLAIN
                stack.append(value)
        if passed > read + MOST_REPEATED:  # by repeated `_codecs.encode` of the same text
            raise HostileFileError("the file expands into more bytes than it contains.")


def _pop(stack, opcode):
    """Pops the arguments of an opcode off a stack. Missing ones count as plain values."""
    popped = []
    if markobject in opcode.stack_before:
        while stack and (value := stack.pop()) is not None:
            popped.append(value)
        number = opcode.stack_before.index(markobject)
    else:
        number = len(opcode.stack_before)
    for _ in range(number):
        value = stack.pop() if stack else None
        popped.append(value or _PLAIN)
    return popped
