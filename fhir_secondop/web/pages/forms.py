"""A posted form → the plain JSON of an operation, by the operation's own schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.datastructures import MultiDict

NOT_INPUT = frozenset({"csrf"})


def plain_of(form: MultiDict[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The filled-in fields of a form; "reviewer.family" is a member of a member.

    A field left empty is not sent. What the schema does not know goes along as text: the operation refuses it.
    """
    plain: dict[str, Any] = {}
    for name in form:
        values = [text for text in map(tidy, form.getlist(name)) if text]
        if name in NOT_INPUT or not values:
            continue
        place, wanted = plain, schema
        *path, leaf = name.split(".")
        for part in path:
            place = place.setdefault(part, {})
            wanted = wanted.get("properties", {}).get(part, {})
        place[leaf] = _typed(values, wanted.get("properties", {}).get(leaf, {}))
    return plain


def tidy(text: str) -> str:
    """A text field without the outer white space, its lines ended as we end them: forms send CRLF."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _typed(values: list[str], schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "array":
        return [line.strip() for value in values for line in value.split("\n") if line.strip()]
    if kind == "integer" and values[0].isascii() and values[0].isdigit():
        return int(values[0])
    if kind == "boolean":
        return values[0] in ("on", "true", "yes")
    return values[0]
