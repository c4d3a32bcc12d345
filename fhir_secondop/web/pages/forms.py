"""A posted form → the plain JSON of an operation, by the operation's own schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.datastructures import MultiDict

from fhir_secondop.errors import Invalid

NOT_INPUT = frozenset({"csrf"})
_WHERE_NEEDED = "+"


def plain_of(form: MultiDict[str, str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The filled-in fields of a form; "reviewer.family" is a member of a member.

    A field left empty is not sent; "+reviewer.specialty.system" is a constant that is sent where its neighbours are.
    What the schema does not know goes along as text: the operation refuses it.
    """
    plain: dict[str, Any] = {}
    for name in sorted(form, key=lambda name: name.startswith(_WHERE_NEEDED)):
        values = [text for text in map(tidy, form.getlist(name)) if text]
        *path, leaf = name.removeprefix(_WHERE_NEEDED).split(".")
        if name in NOT_INPUT or not values or (name.startswith(_WHERE_NEEDED) and not _within(plain, path)):
            continue
        place, wanted = plain, schema
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise Invalid("The form names a field twice; open the page again.", path=name)
            wanted = wanted.get("properties", {}).get(part, {})
        place[leaf] = _typed(values, wanted.get("properties", {}).get(leaf, {}))
    return plain


def _within(plain: dict[str, Any], path: list[str]) -> bool:
    for part in path:
        plain = plain.get(part, {}) if isinstance(plain, dict) else {}
    return bool(plain)


def tidy(text: str) -> str:
    """A text field without the outer white space, its lines ended as we end them: forms send CRLF."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _typed(values: list[str], schema: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "array":
        return [line.strip() for value in values for line in value.split("\n") if line.strip()]
    if kind == "integer" and values[0].isascii() and values[0].isdigit() and len(values[0]) < 10:
        return int(values[0])
    if kind == "boolean":
        return values[0] in ("on", "true", "yes")
    return values[0]
