"""What it means that there is no known allergy: to which of the allergies of another source it says no."""

from __future__ import annotations

from fhir_secondop.opinion import codes
from fhir_secondop.opinion.medicines import RXNORM
from fhir_secondop.opinion.sourced import Sourced

_EVERYTHING = frozenset({"medication", "food", "environment", "biologic"})
# Source: http://hl7.org/fhir/uv/ips, value set of absent allergies, and its code system absent-unknown-uv-ips
_ABSENT = {
    (codes.SNOMED, "716186003"): _EVERYTHING,
    (codes.SNOMED, "409137002"): frozenset({"medication"}),
    (codes.SNOMED, "428607008"): frozenset({"environment"}),
    (codes.SNOMED, "429625007"): frozenset({"food"}),
    ("http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips", "no-known-allergies"): _EVERYTHING,
}
_IN_WORDS = {
    "no known allergy": _EVERYTHING, "no known allergies": _EVERYTHING, "nka": _EVERYTHING,
    "no known drug allergy": frozenset({"medication"}), "no known drug allergies": frozenset({"medication"}),
    "no known medication allergies": frozenset({"medication"}), "nkda": frozenset({"medication"}),
    "no known food allergies": frozenset({"food"}), "no known environmental allergies": frozenset({"environment"}),
}  # fmt: skip


def _absent(item: Sourced) -> frozenset[str]:
    coded = [_ABSENT[code] for code in item.codes if code in _ABSENT]
    said = [_IN_WORDS[text] for text in item.texts if text in _IN_WORDS]
    return frozenset().union(*coded, *([] if coded else said))


def is_absence(item: Sourced) -> bool:
    """Whether it says that an allergy of some kind is not known; that nothing is known about allergies is none."""
    return bool(_absent(item))


def rules_out(absence: Sourced, allergy: Sourced) -> bool:
    """Whether "no known allergy" of one source is about this allergy of another; so it is when no kind is said."""
    kinds = set(allergy.resource.get("category", []))
    if not kinds and any(system == RXNORM for system, _ in allergy.codes):
        kinds = {"medication"}
    return not kinds or bool(kinds & _absent(absence))
