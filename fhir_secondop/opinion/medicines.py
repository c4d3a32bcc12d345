"""Medicines compared: whether two lines are about the same one, and where each stands.

No drug database stands behind this: a brand name without a code is not known to be the generic.
"""

from __future__ import annotations

import re
from functools import lru_cache

from fhir_secondop.model import Resource
from fhir_secondop.opinion.likeness import contradict
from fhir_secondop.opinion.sourced import Sourced, fold, text_of

RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
TYPES = ("MedicationRequest", "MedicationStatement")
_UNIT = r"(?:mg|mcg|ug|g|ng|kg|ml|l|iu|units?|unt|meq|mmol|%|actuat|hr?|hours?)"
_STRENGTH = re.compile(
    rf"\b\d[\d.,]*\s*{_UNIT}(?![a-z0-9])(?:\s*/\s*(?:\d[\d.,]*\s*)?(?:{_UNIT}|m2|day|dose)(?![a-z0-9]))?"
)
_RELEASE = (
    (re.compile(r"\b(extended release|sustained release|er|xr|xl|sr)\b"), "er"),
    (re.compile(r"\b(delayed release|enteric coated|dr|ec)\b"), "dr"),
    (re.compile(r"\boral (solution|suspension)\b"), ""),
)
# Forms that are swallowed are one medicine; a cream or an inhaler is another.
_SWALLOWED = frozenset(
    [
        "tablet",
        "tablets",
        "tab",
        "tabs",
        "capsule",
        "capsules",
        "cap",
        "caps",
        "pill",
        "pills",
        "oral",
        "film",
        "coated",
    ]
)
# Salts that a list leaves out as often as not; succinate and tartrate are not the same medicine.
_SALTS = frozenset(["hydrochloride", "hcl", "sodium", "calcium", "maleate", "besylate", "mesylate"])
_PLANNED = frozenset({"plan", "proposal", "option"})
_PHASES = {
    "active": "current", "draft": "planned", "intended": "planned", "stopped": "stopped", "cancelled": "stopped",
    "on-hold": "stopped", "not-taken": "stopped", "completed": "past", "entered-in-error": "error",
}  # fmt: skip


def phase(resource: Resource) -> str:
    """Where a line stands: current, planned, stopped (on hold too), past, error or unknown."""
    return "planned" if resource.get("intent") in _PLANNED else _PHASES.get(resource.get("status", ""), "unknown")


def names(item: Sourced) -> frozenset[str]:
    """The medicine without strength, form and brand: "lisinopril" of "Lisinopril 20 mg tablet"."""
    words = [item.concept.get("text", ""), *(c.get("display", "") for c in item.concept.get("coding", []))]
    return frozenset(map(_name, words)) - {""}


@lru_cache(maxsize=2048)
def _name(text: str) -> str:
    plain = re.sub(r"\[[^]]*\]|\([^)]*\)", " ", text.casefold().replace("µ", "u"))
    parts = [_ingredient(_STRENGTH.sub(" ", part)) for part in re.split(r"\s/\s|\s\+\s", _STRENGTH.sub(" ", plain))]
    return " / ".join(sorted(part for part in parts if part))


def _ingredient(text: str) -> str:
    plain = fold(text)
    for pattern, said in _RELEASE:
        plain = pattern.sub(said, plain)
    words = [w for w in plain.split() if w not in _SWALLOWED and not re.fullmatch(r"\d+|nda\d+", w)]
    return " ".join([*words[:1], *(w for w in words[1:] if w not in _SALTS)])


def same_medicine(a: Sourced, b: Sourced) -> str:
    """Why two lines are about the same medicine, whatever the dose; "" when that can't be told."""
    if _routes_contradict(a.resource, b.resource):
        return ""
    shared = sorted(a.codes & b.codes)
    if shared:
        return f"same medicine ({shared[0][0].rstrip('/').rpartition('/')[2]} {shared[0][1]})"
    # The codes of two strengths differ, so different codes say nothing.
    common = sorted(names(a) & names(b))
    return f'same medicine ("{common[0]}")' if common else ""


def _routes_contradict(one: Resource, other: Resource) -> bool:
    found = [[i["route"] for i in instructions(r) if "route" in i] for r in (one, other)]
    codes = [
        frozenset((c.get("system", ""), c.get("code", "")) for r in rs for c in r.get("coding", [])) for rs in found
    ]
    if contradict(codes[0], codes[1]):
        return True
    words = [{w.removesuffix(" route") for r in rs if (w := fold(text_of(r)))} for rs in found]
    return all(words) and not codes[0] & codes[1] and not words[0] & words[1] and words != [{"oral"}, {"by mouth"}]


def instructions(resource: Resource) -> list[Resource]:
    """The dosage instructions of a line, whichever of the two types it is."""
    return [*resource.get("dosageInstruction", []), *resource.get("dosage", [])]
