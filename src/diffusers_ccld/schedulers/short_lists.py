"""Long lists in configurations, which are printed in short."""

import json
from collections.abc import Mapping
from typing import Any

NUM_PRINTED = 4


class ShortList(list):
    """A list that is printed without its middle. It is saved, copied and compared like any other."""

    def __repr__(self) -> str:
        if len(self) <= NUM_PRINTED:
            return super().__repr__()
        first, last = self[: NUM_PRINTED // 2], self[-NUM_PRINTED // 2 :]
        between = f"… {len(self) - NUM_PRINTED} more …"
        return f"[{', '.join([*map(repr, first), between, *map(repr, last)])}]"


def printed_config(config: Mapping[str, Any]) -> str:
    """A configuration in lines like those of JSON, with each `ShortList` in short and without private entries."""
    public = {name: value for name, value in sorted(config.items()) if not name.startswith("_")}
    lines = [f'  "{name}": {_printed(value)}' for name, value in public.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def _printed(value):
    return repr(value) if isinstance(value, ShortList) else json.dumps(value, default=str)
