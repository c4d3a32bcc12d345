"""The original and the second opinion side by side, item by item: what a machine can say of them, and what it can't.

Same, refined or different is said from codes and stages alone, and never against the reviewer's own judgement. Free
text is for a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_secondop.model import Resource
from fhir_secondop.opinion import facts, staging
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.opinion.report import Draft
from fhir_secondop.opinion.sourced import concept_of, text_of

SAME, REFINED, DIFFERENT, NEEDS_JUDGEMENT = "same", "refined", "different", "needs-judgement"
_ICD10 = ("http://hl7.org/fhir/sid/icd-10", "http://hl7.org/fhir/sid/icd-10-cm")
_AGREES = frozenset({"confirmed", "agreed"})
_ALTERS = frozenset({"changed", "refuted", "alternative", "not-recommended"})
Code = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Side:
    """What one opinion says of an item: in words, and by codes (system, code) of what it is and where."""

    text: str
    codes: frozenset[Code] = frozenset()
    sites: frozenset[Code] = frozenset()
    by: str = ""
    date: str = ""

    @property
    def stages(self) -> staging.Stages:
        """The stages that the words say."""
        return staging.of_texts([self.text])


@dataclass(frozen=True, slots=True)
class Pair:
    """An item on one axis: both sides, the reviewer's judgement, and what follows of the codes, with why."""

    item: int
    axis: str
    original: Side
    second: Side
    judgement: str
    verdict: str
    why: str


def side_by_side(case: Case, draft: Draft) -> list[Pair]:
    """A pair for each judgement of the draft or report, in the order of the items."""
    found = []
    for said in sorted(draft["items"], key=lambda i: (i["item"], i["axis"])):
        original = _original(case, case.items[said["item"]])
        second = _second(said)
        verdict, why = _verdict(original, second, said["concordance"])
        found.append(Pair(said["item"], said["axis"], original, second, said["concordance"], verdict, why))
    return found


def _original(case: Case, item: Resource) -> Side:
    concept = concept_of(item, {reference(r): r for r in case.resources})
    staged = [text_of(stage.get("summary", {})) for stage in item.get("stage", [])]
    activities = [a.get("detail", {}).get("description", "") for a in item.get("activity", [])]
    return Side(
        "; ".join(filter(None, [facts.item_title(item), *staged, *activities])),
        _codes(concept),
        frozenset(code for site in item.get("bodySite", []) for code in _codes(site)),
        ", ".join(person.name for person in case.authors_of(item)),
        str(item.get("recordedDate") or item.get("created") or item.get("authoredOn") or ""),
    )


def _second(said: dict[str, Any]) -> Side:
    proposed = said.get("proposed", {})
    return Side(
        proposed.get("text", ""),
        _codes({"coding": [proposed["code"]]} if "code" in proposed else {}),
        _codes({"coding": [proposed["site"]]} if "site" in proposed else {}),
    )


def _codes(concept: Resource) -> frozenset[Code]:
    return frozenset((c["system"], c["code"]) for c in concept.get("coding", []) if "system" in c and "code" in c)


def _verdict(original: Side, second: Side, judgement: str) -> tuple[str, str]:
    by_codes, why = _by_codes(original, second)
    if judgement in _ALTERS and by_codes in (SAME, REFINED):
        return NEEDS_JUDGEMENT, f"the codes say {by_codes}, the reviewer {judgement}"
    if judgement in _AGREES and by_codes in (REFINED, DIFFERENT):
        return NEEDS_JUDGEMENT, f"the codes say {by_codes}, the reviewer {judgement}"
    if by_codes == NEEDS_JUDGEMENT and judgement in _ALTERS and second.codes and original.codes:
        return DIFFERENT, f"{why}; the reviewer says {judgement}"
    return by_codes, why


def _by_codes(original: Side, second: Side) -> tuple[str, str]:
    if not original.codes or not second.codes:
        whose = "neither opinion is coded" if not (original.codes or second.codes) else (
            "the first opinion is not coded" if not original.codes else "the second opinion is not coded")  # fmt: skip
        return NEEDS_JUDGEMENT, f"{whose}; free text is for a person to compare"
    if not original.codes & second.codes:
        categories = [{code[:3] for system, code in side.codes if system in _ICD10} for side in (original, second)]
        if all(categories):
            return (REFINED, "another code of the same ICD-10 category") if categories[0] & categories[1] else (
                DIFFERENT, "another ICD-10 category")  # fmt: skip
        return NEEDS_JUDGEMENT, "the codes differ; whether one is a kind of the other is not known here"
    details = _details(original, second)
    return (REFINED, f"same code; {', '.join(details)}") if details else (SAME, "same code, nothing else differs")


def _details(original: Side, second: Side) -> list[str]:
    """What of the same disease is said otherwise, or by one opinion only."""
    found = []
    if original.sites != second.sites:
        found.append("the site differs" if original.sites and second.sites else "one opinion names a site")
    for axis in sorted({*original.stages, *second.stages}):
        said = original.stages.get(axis), second.stages.get(axis)
        if said[0] != said[1]:
            found.append(f"stage ({axis}) " + ("differs" if all(said) else "is said by one opinion only"))
    return found
