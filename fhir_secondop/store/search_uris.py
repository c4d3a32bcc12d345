"""uri: how it is indexed and how it is matched, side by side.

Source: https://hl7.org/fhir/R4/search.html#uri
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.store import tables
from fhir_secondop.store.search_text import TEXT_BYTES, cut, key, unescape

Row = dict[str, Any]


class Uri:
    """URIs as they are written, case and all; `:below` and `:above` along their slashes."""

    table = tables.uri

    def rows(self, value_type: str, value: Any, base_url: str) -> Iterator[Row]:
        if isinstance(value, str):
            for form in forms(value):
                yield {"uri": key(form, TEXT_BYTES)}

    def asked(self, wanted: str, modifier: str, base_url: str) -> tuple[str, tuple[str, ...]]:
        text = unescape(wanted)
        if modifier == "below":
            within = cut(text if text.endswith("/") else text + "/", TEXT_BYTES)
            return "below", (key(text, TEXT_BYTES), within, within[:-1] + "0")  # "0" stands right after "/"
        if modifier == "above":
            ends = [at for at, character in enumerate(text) if character == "/"]
            above = {text, *(text[:at] for at in ends), *(text[: at + 1] for at in ends)}
            return "above", tuple(sorted(key(each, TEXT_BYTES) for each in above))
        return "is", (key(text, TEXT_BYTES),)

    def condition(self, columns: tables.Columns, form: str, values: Sequence[Any]) -> ColumnElement[bool]:
        if form == "below":
            return sa.or_(columns.uri == values[0], sa.and_(columns.uri >= values[1], columns.uri < values[2]))
        if form == "above":
            return columns.uri.in_(values)
        found: ColumnElement[bool] = columns.uri == values[0]
        return found


def forms(canonical: str) -> list[str]:
    """The texts by which a canonical URL is found: itself, and without its version.

    Source: https://hl7.org/fhir/R4/search.html#versions
    """
    bare, _, version = canonical.partition("|")
    return [canonical, bare] if version and bare else [canonical]
