"""Finds pickles that are made to do harm, by a walk through them that makes nothing."""

from pickletools import genops, markobject
from typing import BinaryIO, NamedTuple

from ..errors import HostileFileError

# Beyond what any checkpoint has: the parts of a pickle, tuples in one another, and text that is used repeatedly.
MOST_OPCODES = 300_000
MOST_NESTED = 32
MOST_PARTS = 10**5
MOST_REPEATED = 2**24


class _Value(NamedTuple):
    """The type and content of a value on a pickle's stack, as far as they are known.

    Attributes:
        depth: How deep tuples are nested in it.
        parts: How many parts they have.
        text: How many characters of text.
    """

    depth: int = 0
    parts: int = 1
    text: int = 0


_PLAIN = _Value()


def check_pickle(file: BinaryIO) -> None:
    """Walks through a pickle without making anything of it.

    Python's unpicklers can be made to use up memory and time by a few bytes: with huge numbers in their memo, with
    tuples of tuples that are hashed as keys, with `bytearray(10**12)`.

    Args:
        file: The file, at the pickle's beginning; afterwards at its end.

    Raises:
        HostileFileError: If the pickle is of that kind.
        ValueError: If it is none.
    """
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, _Value] = {}
    read = passed = 0  # characters of text in the file, and as arguments of calls
    for count, (opcode, argument, _) in enumerate(genops(file)):
        name = opcode.name
        if count > MOST_OPCODES:
            raise HostileFileError("the file is made of more parts than any checkpoint.")
        text = len(argument) if isinstance(argument, str) else 0
        read += text
        if name == "GLOBAL" and argument.endswith(" bytearray"):
            raise HostileFileError("the file makes an array of bytes of any size.")
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if argument is None else argument
            if index > count:
                raise HostileFileError("the file numbers its parts beyond their number.")
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
        if passed > read + MOST_REPEATED:  # by `_codecs.encode` of the same text again and again
            raise HostileFileError("the file unfolds into more bytes than it holds.")


def _pop(stack, opcode):
    """Takes off a stack what an opcode takes; of a stack that is not as it should be, what is there."""
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
