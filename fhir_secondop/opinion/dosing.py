"""What is taken, how much each time and how often a day, read from a line and compared.

What can't be read for certain is None, and is never made into a difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from fhir_secondop.model import Resource
from fhir_secondop.opinion.likeness import fold_unit
from fhir_secondop.opinion.medicines import instructions
from fhir_secondop.opinion.sourced import Sourced, fold, text_of

_COUNTED = frozenset(["tablet", "tablets", "tab", "tabs", "tbl", "capsule", "capsules", "cap", "caps", "each", "1"])
_MILLIGRAMS = {"g": Decimal(1000), "mg": Decimal(1), "ug": Decimal("0.001"), "ng": Decimal("0.000001")}
# v3-GTSAbbreviation. Source: https://hl7.org/fhir/R4/valueset-timing-abbreviation.html
_ABBREVIATIONS: dict[str, Fraction] = {
    code: Fraction(often)
    for code, often in (
        ("QD", "1"), ("AM", "1"), ("PM", "1"), ("BED", "1"), ("BID", "2"), ("TID", "3"), ("QID", "4"), ("Q4H", "6"),
        ("Q6H", "4"), ("Q8H", "3"), ("QOD", "1/2"), ("WK", "1/7"),
    )
}  # fmt: skip
_DAYS = {"h": Fraction(1, 24), "d": Fraction(1), "wk": Fraction(7), "min": Fraction(1, 1440)}
_OFTEN = (
    (r"every other day|q\.?o\.?d\b", Fraction(1, 2)),
    (r"(once|one time|1 time)( a| per|) ?(week|weekly)|once weekly", Fraction(1, 7)),
    (r"(twice|two times|2 times)( a| per|) ?(day|daily)|\bb\.?i\.?d\b", Fraction(2)),
    (r"(three|3) times( a| per|) ?(day|daily)|\bt\.?i\.?d\b", Fraction(3)),
    (r"(four|4) times( a| per|) ?(day|daily)|\bq\.?i\.?d\b", Fraction(4)),
    (r"(once|one time|1 time)( a| per|) ?(day|daily)|every day|\bdaily\b|\bq\.?d\b", Fraction(1)),
)
# "2 tablets of 20 mg": neither number is the dose.
_SEVERAL = re.compile(r"(?:\b(?:[2-9]|1\d|two|three|half|1/2)|½)\s*(?:a |of )?(?:tab|cap|pill)")


@dataclass(frozen=True, slots=True)
class Dose:
    """One instruction: the amount each time, and how often a day; None is what can't be told."""

    amount: Decimal | None
    unit: str
    per_day: Fraction | None


def doses(item: Sourced) -> list[Dose]:
    """What is taken, instruction by instruction."""
    return [_dose(item, each) for each in instructions(item.resource)]


def wording_differs(a: Sourced, b: Sourced) -> bool:
    """Whether two lines say another dose, or say it in other words that can't be compared."""
    if doses_differ([a], [b]):
        return True
    texts = [[fold(str(i.get("text", ""))) for i in instructions(item.resource)] for item in (a, b)]
    told = all(d.amount is not None and d.per_day is not None for item in (a, b) for d in doses(item))
    return all(map(any, texts)) and texts[0] != texts[1] and not told


def doses_differ(ones: Iterable[Sourced], others: Iterable[Sourced]) -> bool:
    """Whether the lines of one source surely say another dose than those of the other source."""
    first, second = ([dose for item in items for dose in doses(item)] for items in (ones, others))
    if len(first) == len(second) == 1:
        [one], [other] = first, second
        comparable = one.amount is not None and other.amount is not None and one.unit == other.unit
        often = one.per_day is not None and other.per_day is not None
        return (comparable and one.amount != other.amount) or (often and one.per_day != other.per_day)
    if not first or not second or any(d.amount is None or d.per_day is None for d in [*first, *second]):
        return False
    units = {d.unit for d in [*first, *second]}
    return len(units) == 1 and set(first) != set(second)


def _dose(item: Sourced, instruction: Resource) -> Dose:
    text = str(instruction.get("text") or instruction.get("patientInstruction", "")).casefold()
    amount, unit = _amount(item, instruction, text)
    return Dose(amount, unit, _per_day(instruction.get("timing", {}), text))


def _amount(item: Sourced, instruction: Resource, text: str) -> tuple[Decimal | None, str]:
    found = [d["doseQuantity"] for d in instruction.get("doseAndRate", []) if "doseQuantity" in d]
    if len(found) == 1 and "value" in found[0]:
        value = Decimal(str(found[0]["value"]))
        unit = fold_unit(str(found[0].get("code") or found[0].get("unit", ""))).casefold()
        if unit in _MILLIGRAMS:
            return value * _MILLIGRAMS[unit], "mg"
        strength = _mass(" ".join([item.concept.get("text", ""), text_of(item.concept)]))
        if unit.strip("{}") in _COUNTED or not unit:
            return (value * strength, "mg") if strength is not None else (value, "count")
        return value, unit
    within = _mass(" ".join(re.findall(r"\(([^)]*)\)", text)))
    if found or (within is None and _SEVERAL.search(text)):
        return None, ""
    return within if within is not None else _mass(text), "mg"


def _mass(text: str) -> Decimal | None:
    """The one mass that a text names, in mg; None for none, for several and for one per volume or area."""
    found = re.findall(r"(\d+(?:\.\d+)?)\s*(mg|mcg|ug|g)\b(\s*/)?", text.casefold().replace("µ", "u"))
    masses = {Decimal(value) * _MILLIGRAMS[fold_unit(unit)] for value, unit, _ in found}
    return masses.pop() if len(masses) == 1 and not any(per for _, _, per in found) else None


def _per_day(timing: Resource, text: str) -> Fraction | None:
    repeat = timing.get("repeat", {})
    if {"frequencyMax", "periodMax", "dayOfWeek", "when", "timeOfDay"} & repeat.keys():
        return None
    if "period" in repeat and repeat.get("periodUnit") in _DAYS:
        period = Fraction(str(repeat["period"])) * _DAYS[repeat["periodUnit"]]
        return Fraction(repeat.get("frequency", 1)) / period if period else None
    for code in (str(c.get("code")) for c in timing.get("code", {}).get("coding", [])):
        if code in _ABBREVIATIONS:
            return _ABBREVIATIONS[code]
    hours = re.search(r"every (\d+) (?:hours|hrs|h)\b|\bq(\d+)h\b", text)
    if hours and int(hours[1] or hours[2]):
        return Fraction(24, int(hours[1] or hours[2]))
    return next((often for pattern, often in _OFTEN if re.search(pattern, text)), None)
