"""token, string, date, reference: how each is indexed and how it is matched, side by side; and the table of all kinds.

A kind is a table, `rows` (value → index rows), `asked` (wanted text → in which form, and the values in it) and
`condition` (that form → SQL over the table's columns).
Source: https://hl7.org/fhir/R4/search.html#ptypes
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import refs, times
from fhir_secondop.store import tables
from fhir_secondop.store.database import now_ms
from fhir_secondop.store.search_numbers import Number
from fhir_secondop.store.search_text import TEXT_BYTES, at_bar, cut, fold, key, parted, unescape
from fhir_secondop.store.search_uris import Uri, forms

Row = dict[str, Any]
Asked = tuple[str, tuple[Any, ...]]
"""In which form of its kind one alternative is asked, and the values in it."""


class Kind(Protocol):
    """A search parameter type."""

    table: sa.Table

    def rows(self, value_type: str, value: Any, base_url: str) -> Iterator[Row]:
        """Index rows of one value, without rid, type and param."""

    def asked(self, wanted: str, modifier: str, base_url: str) -> Asked:
        """One alternative. Raises Invalid."""

    def condition(self, columns: tables.Columns, form: str, values: Sequence[Any]) -> ColumnElement[bool]:
        """What an index row must satisfy to match what is asked in that form; the values may be bound parameters."""


class Token:
    """Coded values: system and code; `|code` means a code without a system."""

    table = tables.token

    def rows(self, value_type: str, value: Any, base_url: str) -> Iterator[Row]:
        if value_type == "CodeableConcept":
            for coding in value.get("coding", ()):
                yield from self.rows("Coding", coding, base_url)
        elif value_type == "Coding":
            if "code" in value or "system" in value:  # a system alone is found by `system|`
                yield self._row(value.get("system", ""), value.get("code", ""))
        elif value_type == "Identifier":
            if "value" in value or "system" in value:
                yield self._row(value.get("system", ""), value.get("value", ""))
        elif value_type == "ContactPoint":
            if "value" in value:
                yield self._row("", value["value"])
        elif isinstance(value, bool):
            yield self._row("", "true" if value else "false")
        elif isinstance(value, str):
            yield self._row("", value)

    def _row(self, system: str, code: str) -> Row:
        return {"system": key(system), "code": key(code)}

    def asked(self, wanted: str, modifier: str, base_url: str) -> Asked:
        if modifier == "of-type":
            parts = [unescape(part) for part in parted(wanted, "|")]
            if len(parts) != 3 or not all(parts):
                raise Invalid("With :of-type an identifier is searched by system|code|value, those of its type first.")
            return "both", (key(parts[0]), key(f"{parts[1]}|{parts[2]}"))
        first, bar, second = at_bar(wanted)
        if not bar:
            return "code", (key(first),)
        if not second:
            return "system", (key(first),)
        return "both", (key(first), key(second))

    def condition(self, columns: tables.Columns, form: str, values: Sequence[Any]) -> ColumnElement[bool]:
        if form == "both":
            return sa.and_(columns.system == values[0], columns.code == values[1])
        found: ColumnElement[bool] = columns[form] == values[0]
        return found


def of_modifiers(value_type: str, value: Any) -> Iterator[tuple[sa.Table, str, Row]]:
    """What the modifiers :text, :of-type and :identifier compare: table, modifier and row.

    Source: https://hl7.org/fhir/R4/search.html#token and #reference
    """
    if value_type == "Reference":
        for row in TOKEN.rows("Identifier", value.get("identifier", {}), ""):
            yield tables.token, "identifier", row
    if value_type == "Identifier":
        kind = value.get("type", {})
        for coding in kind.get("coding", ()):
            if "code" in coding and "value" in value:
                code = f"{coding['code']}|{value['value']}"
                yield tables.token, "of-type", {"system": key(coding.get("system", "")), "code": key(code)}
    else:
        kind = value
    if value_type not in ("CodeableConcept", "Coding", "Identifier"):
        return
    for text in (kind.get("text"), kind.get("display"), *(c.get("display") for c in kind.get("coding", ()))):
        if isinstance(text, str):
            yield from ((tables.string, "text", row) for row in STRING.rows("string", text, ""))


class String:
    """Names and text: begins-with, without case and accents, unless `:exact`."""

    table = tables.string
    _parts = ("family", "text", "city", "state", "country", "postalCode", "district")
    _lists = ("given", "prefix", "suffix", "line")

    def rows(self, value_type: str, value: Any, base_url: str) -> Iterator[Row]:
        if isinstance(value, str):
            yield {"folded": cut(fold(value), TEXT_BYTES), "exact": key(value)}
        elif isinstance(value, dict):
            for part in self._parts:
                if isinstance(value.get(part), str):
                    yield from self.rows("string", value[part], base_url)
            for part in self._lists:
                for text in value.get(part, ()):
                    if isinstance(text, str):
                        yield from self.rows("string", text, base_url)

    def asked(self, wanted: str, modifier: str, base_url: str) -> Asked:
        text = unescape(wanted)
        low = cut(fold(text), TEXT_BYTES)
        if modifier == "exact":
            return "exact", (low, key(text))
        if not low:
            raise Invalid("A text to search for is empty but for space and accents.")
        if modifier == "contains":
            return "contains", (re.sub("([/%_])", r"/\1", low),)
        return "begins", (low, low + "\U0010ffff")

    def condition(self, columns: tables.Columns, form: str, values: Sequence[Any]) -> ColumnElement[bool]:
        if form == "exact":
            # What is the same is the same folded, and by that there is an index.
            return sa.and_(columns.folded == values[0], columns.exact == values[1])
        if form == "contains":
            return columns.folded.contains(values[0], escape="/")
        return sa.and_(columns.folded >= values[0], columns.folded < values[1])


class Date:
    """Moments and spans, compared as half-open UTC intervals.

    Source: https://hl7.org/fhir/R4/search.html#prefix
    """

    table = tables.date
    _prefixed = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)?(.+)")

    def rows(self, value_type: str, value: Any, base_url: str) -> Iterator[Row]:
        if value_type in ("date", "dateTime", "instant"):
            span = times.interval(value)
            yield {"low": span.low, "high": span.high}
        elif value_type == "Period":
            low = times.interval(value["start"]).low if "start" in value else times.MIN_MS
            high = times.interval(value["end"]).high if "end" in value else times.MAX_MS
            yield {"low": low, "high": high}
        elif value_type == "Timing":
            spans = [times.interval(event) for event in value.get("event", ())]
            bounds = value.get("repeat", {}).get("boundsPeriod")
            if spans:
                yield {"low": min(s.low for s in spans), "high": max(s.high for s in spans)}
            if bounds:
                yield from self.rows("Period", bounds, base_url)

    def asked(self, wanted: str, modifier: str, base_url: str) -> Asked:
        return self.span(wanted)

    def span(self, wanted: str, *, wide_ms: int = 0) -> Asked:
        """What "ge2024-05" and the like asks of an interval [low, high): the prefix, and four bounds.

        `wide_ms` is what `high` stands below the end: an instant is one column, not a sum that no index knows.
        """
        match = self._prefixed.fullmatch(wanted)
        if match is None:
            raise Invalid("A date to search for is empty.")
        try:
            prefix, span = match[1] or "eq", times.interval(match[2])
        except Invalid as error:
            # The value may be a birth date: it does not go into the message.
            raise Invalid(
                "A date to search for is not one; write ge2024, 2024-05-17 or lt2024-05-17T09:30:00Z."
            ) from error
        low, high = span.low, span.high
        if prefix == "ap":
            # R4: a tenth of the gap between now and the date. Around today there is none, and it is overlapped alone.
            now = now_ms()
            margin = max(now - high, low - now, 0) // 10
            low, high = low - margin, high + margin
        return prefix, (low, high, low - wide_ms, high - wide_ms)

    def condition(self, columns: tables.Columns, form: str, values: Sequence[Any]) -> ColumnElement[bool]:
        return self.compare(columns.low, columns.high, form, values)

    def compare(
        self, low: ColumnElement[int], high: ColumnElement[int], form: str, values: Sequence[Any]
    ) -> ColumnElement[bool]:
        """The condition on an indexed interval [low, high)."""
        begin, beyond, first, end = values  # the latter two are compared with high
        # low < high always: what follows from that is said, because an index is gone through between two bounds.
        within = sa.and_(low >= begin, high <= end, low < beyond)
        conditions: dict[str, ColumnElement[bool]] = {
            "eq": within,
            "ne": sa.or_(low < begin, high > end),
            "gt": high > end,
            "lt": low < begin,
            "ge": sa.and_(high > first, sa.or_(high > end, within)),
            "le": sa.and_(low < beyond, sa.or_(low < begin, within)),
            "sa": low >= beyond,
            "eb": sa.and_(high <= first, low < begin),
            "ap": sa.and_(low < beyond, high > first),
        }
        return conditions[form]


class Reference:
    """References: by "Type/id", a bare id, an absolute URL; with `:identifier` as a token (`of_modifiers`)."""

    table = tables.reference

    def rows(self, value_type: str, value: Any, base_url: str) -> Iterator[Row]:
        if isinstance(value, str):  # canonical, uri
            for form in forms(value):
                yield {"target": key(form, TEXT_BYTES)}
            return
        literal = value.get("reference", "")
        if literal and not literal.startswith("#"):
            yield {"target": self._target(literal, base_url)}

    def asked(self, wanted: str, modifier: str, base_url: str) -> Asked:
        return "is", (self._target(unescape(wanted), base_url),)

    def condition(self, columns: tables.Columns, form: str, values: Sequence[Any]) -> ColumnElement[bool]:
        found: ColumnElement[bool] = columns.target == values[0]
        return found

    def _target(self, literal: str, base_url: str) -> str:
        ref = refs.parse(literal)
        if ref is None:
            return key(literal, TEXT_BYTES)
        return ref.local if ref.base in ("", base_url) else key(f"{ref.base}/{ref.local}", TEXT_BYTES)


PRESENT = "present"
"""Stands like a modifier at a parameter that a resource has a value of, but none that it could be found by."""
TOKEN, STRING = Token(), String()
KINDS: dict[str, Kind] = {
    "token": TOKEN, "string": STRING, "date": Date(), "reference": Reference(), "number": Number(),
    "quantity": Number(), "uri": Uri(),
}  # fmt: skip
DATE = Date()
