"""number and quantity: how they are indexed and how they are matched, side by side.

Numbers are compared digit by digit, never as floating point: they stand in the index as text whose order is theirs.
Source: https://hl7.org/fhir/R4/search.html#number and #quantity
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import primitives
from fhir_secondop.store import tables
from fhir_secondop.store.search_text import key, parted, unescape

Row = dict[str, Any]
LEAST, MOST = "-", "~"
"""Below and above every number."""
_COMPLEMENT = str.maketrans("0123456789", "9876543210")
_BIAS = primitives.MAX_DECIMAL + 1000
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,3})?")
_PREFIXED = re.compile(f"(eq|ne|gt|lt|ge|le|sa|eb|ap)?({_NUMBER.pattern})")
_CURRENCIES = "urn:iso:std:iso:4217"


def sortable(number: Decimal | int) -> str:
    """Text that stands before another's if the number is smaller: exponent, then digits; of negative ones the rest to
    nine.
    """
    sign, digits, _ = (number := Decimal(number)).as_tuple()
    if not number:
        return "1"
    text = f"{number.adjusted() + _BIAS:04d}" + "".join(map(str, digits)).strip("0")
    # After the last digit of a negative number comes more than any digit: -1.2 is more than -1.23.
    return "0" + text.translate(_COMPLEMENT) + "~" if sign else "2" + text


def _beside(at: str, *, above: bool) -> str:
    """What stands next to a number's text: after (or before) it, and before (after) every other number."""
    if at.endswith("~"):
        return at + "~" if above else at[:-1] + "}"
    if above or at == "1":
        return at + "!" if above else "0~"
    return at[:-1] + str(int(at[-1]) - 1) + "~"  # 2.99… all stand before "2~": a last digit is never 0


class Number:
    """Numbers and quantities, as spans from `low` to `high`, both included: most are one number."""

    table = tables.number

    def rows(self, value_type: str, value: Any, base_url: str) -> Iterator[Row]:
        if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
            yield _row(sortable(value), sortable(value))
        elif value_type == "Money":
            if "value" in value:
                at = sortable(value["value"])
                yield _row(at, at, _CURRENCIES, value.get("currency", ""))
        elif value_type == "Range":
            low, high = value.get("low", {}), value.get("high", {})
            unit = high if "value" in high else low
            if "value" in unit:
                yield _of_quantity(
                    sortable(low["value"]) if "value" in low else LEAST,
                    sortable(high["value"]) if "value" in high else MOST,
                    unit,
                )
        elif value_type == "SampledData":
            yield from _sampled(value)
        elif isinstance(value, dict) and "value" in value:
            at = sortable(value["value"])
            comparator = value.get("comparator", "")
            # "<5" is not 5: what may be 5 or more does not find it.
            end = _beside(at, above=comparator == ">") if comparator in ("<", ">") else at
            yield _of_quantity(
                LEAST if comparator.startswith("<") else end, MOST if comparator.startswith(">") else end, value
            )

    def asked(self, wanted: str, modifier: str, base_url: str) -> tuple[str, tuple[str, ...]]:
        parts = [unescape(part) for part in parted(wanted, "|")]
        if len(parts) not in (1, 3):
            raise Invalid("A quantity to search for is a number, number|system|code, or number||unit.")
        match = _PREFIXED.fullmatch(parts[0])
        if match is None:
            raise Invalid("A number to search for is not one; write 5.4, 1.0e-3 or ge100.")
        form = match[1] or "eq"
        values = _bounds(form, Decimal(match[2]))
        for part, text in zip(("system", "code"), parts[1:], strict=False):
            if text:
                form, values = f"{form} {part}", (*values, key(text))
        return form, values

    def condition(self, columns: tables.Columns, form: str, values: Sequence[Any]) -> ColumnElement[bool]:
        prefix, *more = form.split()
        compared = _compared(prefix, values, columns.low, columns.high)
        if "system" in more:
            compared = sa.and_(compared, columns.system == values[-len(more)])
        if "code" in more:
            named = columns.code == values[-1]
            compared = sa.and_(compared, named if "system" in more else sa.or_(named, columns.unit == values[-1]))
        return compared


def _bounds(prefix: str, number: Decimal) -> tuple[str, ...]:
    """What a number's index row is compared with, for `_compared`."""
    if number and not -primitives.MAX_DECIMAL < number.adjusted() < primitives.MAX_DECIMAL:
        raise Invalid("A number to search for is too large or too small.")
    if prefix == "ap":
        margin = abs(number) / 10
        return sortable(number - margin), sortable(number + margin)
    if prefix in ("eq", "ne"):
        first, end = _implied(number)
        return sortable(first), sortable(end)
    return (sortable(number),)


def _compared(
    prefix: str, bounds: Sequence[Any], low: ColumnElement[str], high: ColumnElement[str]
) -> ColumnElement[bool]:
    first, end = bounds[0], bounds[1] if prefix in ("ap", "eq", "ne") else bounds[0]
    conditions: dict[str, ColumnElement[bool]] = {
        "eq": sa.and_(low >= first, low < end, high < end),
        "ne": sa.or_(low < first, high >= end),
        "ap": sa.and_(low <= end, high >= first),
        "gt": high > first,
        "lt": low < first,
        "ge": high >= first,
        "le": low <= first,
        "sa": low > first,
        "eb": high < first,
    }
    return conditions[prefix]


def _implied(number: Decimal) -> tuple[Decimal, Decimal]:
    """What a number as it is written stands for: 100 for 99.5 to 100.5, 100.00 for 99.995 to 100.005; 1e2 for 95 to
    105.

    Source: https://hl7.org/fhir/R4/search.html#number
    """
    exponent = int(number.as_tuple().exponent)
    half = Decimal(5).scaleb(exponent - 1 if exponent <= 0 else exponent - 2)
    return number - half, number + half


def _of_quantity(low: str, high: str, quantity: Row) -> Row:
    return _row(low, high, quantity.get("system", ""), quantity.get("code", ""), quantity.get("unit", ""))


def _row(low: str, high: str, system: str = "", code: str = "", unit: str = "") -> Row:
    return {"low": low, "high": high, "system": key(system), "code": key(code), "unit": key(unit)}


def _sampled(value: Row) -> Iterator[Row]:
    """From the least to the most that was measured; E, U and L stand for errors and what is beyond the limits."""
    origin = value.get("origin", {})
    if "value" not in origin:
        return
    factor = value.get("factor", 1)
    measured = [one for one in value.get("data", "").split() if _NUMBER.fullmatch(one)]
    found = [origin["value"] + Decimal(one) * factor for one in measured]
    found += [value[limit] for limit in ("lowerLimit", "upperLimit") if limit in value]
    if found:
        yield _of_quantity(sortable(min(found)), sortable(max(found)), origin)
