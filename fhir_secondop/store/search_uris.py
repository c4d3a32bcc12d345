"""uri: how it is indexed and how it is matched, side by side.

Source: https://hl7.org/fhir/R4/search.html#uri
"""

from __future__ import annotations

from collections.abc import Iterator
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

    def condition(self, columns: tables.Columns, wanted: str, modifier: str, base_url: str) -> ColumnElement[bool]:
        text = unescape(wanted)
        if modifier == "below":
            within = cut(text if text.endswith("/") else text + "/", TEXT_BYTES)
            return sa.or_(
                columns.uri == key(text, TEXT_BYTES),
                sa.and_(columns.uri >= within, columns.uri < within[:-1] + "0"),  # "0" stands right after "/"
            )
        if modifier == "above":
            ends = [at for at, character in enumerate(text) if character == "/"]
            above = {text, *(text[:at] for at in ends), *(text[: at + 1] for at in ends)}
            return columns.uri.in_(sorted(key(each, TEXT_BYTES) for each in above))
        return columns.uri == key(text, TEXT_BYTES)


def forms(canonical: str) -> list[str]:
    """The texts by which a canonical URL is found: itself, and without its version.

    Source: https://hl7.org/fhir/R4/search.html#versions
    """
    bare, _, version = canonical.partition("|")
    return [canonical, bare] if version and bare else [canonical]
