"""Links that paint pictures again: the other direction of `PaintingRequest.link`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .requests import BETWEEN, LINKED, LINKED_BETWEEN, Limits, PaintingRequest, parse_request

# What links that say all the rest do not say if they are older, and what they mean by that.
ADDED_TO_LINKS = {"variation": "0", "guidance_from": "0", "guidance_to": "1"}
TEXTS = ("prompt", "second_prompt", "negative_prompt", "algorithm")


class Link(NamedTuple):
    """The request of a link, and what of it the link says.

    Attributes:
        request: The request, with defaults of `parse_request` for what is missing or wrong.
        names: The names of the fields that the link says.
        faults: A sentence for each part that is wrong.
    """

    request: PaintingRequest
    names: frozenset[str]
    faults: list[str]


def parse_link(query: Mapping[str, str], limits: Limits) -> Link | None:
    """Reads a link, which may be incomplete or written by hand; `None` for queries without fields of links.

    Raises:
        ValueError: If its task cannot be linked.
    """
    task = query.get("task", "paint")
    own = (*LINKED, *LINKED_BETWEEN.get(task, ()))
    if query.keys().isdisjoint(own):
        return None
    if task not in ("paint", *BETWEEN):
        raise ValueError(f"The link's task must be paint, between or animate, not {task[:20]}.")
    if query.keys() >= {*own} - ADDED_TO_LINKS.keys():
        query = {**ADDED_TO_LINKS, **query}
    values, faults = {}, []
    for name in own:
        if name not in query:
            continue
        value = query[name] if name in TEXTS else _number(query[name])
        try:
            parse_request(task, {name: value}, limits, may_lack_prompt=True)
            values[name] = value
        except ValueError as error:
            faults.append(str(error))
    try:
        request = parse_request(task, values, limits, may_lack_prompt=True)
    except ValueError as error:  # of two parts that do not fit each other
        faults.append(str(error))
        values = {name: value for name, value in values.items() if name not in ("guidance_from", "guidance_to")}
        request = parse_request(task, values, limits, may_lack_prompt=True)
    return Link(request, frozenset(values), faults)


def _number(text: str) -> Any:
    """The number that a text is; another text as it is, for `parse_request` to refuse."""
    try:
        return float(text)
    except ValueError:
        return text
