"""JSON whose numbers keep their text: a mutation changes what it names, and 1.10 stays 1.10."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Number:
    """A JSON number as written."""

    text: str

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Any:
    """The value of a JSON text, with each number as a Number."""
    return json.loads(text, parse_float=Number, parse_int=Number)


def dump(value: Any, comma: str = ",", colon: str = ":") -> str:
    """The JSON text of a value, members in their order."""
    if isinstance(value, Number):
        return value.text
    if isinstance(value, dict):
        return "{" + comma.join(dump(k) + colon + dump(v, comma, colon) for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + comma.join(dump(item, comma, colon) for item in value) + "]"
    # Half of a surrogate pair has no UTF-8: it stays an escape.
    return json.dumps(value, ensure_ascii=isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value))
