"""The copies of a case, each with the source that brought it, and what of it two sources can be compared by."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fhir_secondop.fhir import attachments, refs
from fhir_secondop.model import Resource
from fhir_secondop.opinion import records
from fhir_secondop.opinion.case import Case, reference

Code = tuple[str, str]
_CONCEPTS = ("code", "vaccineCode", "medicationCodeableConcept", "type")
_WHEN = (
    "effectiveDateTime", "effectiveInstant", "effectivePeriod", "performedDateTime", "performedPeriod",
    "occurrenceDateTime", "onsetDateTime", "onsetPeriod", "started", "authoredOn", "date", "created", "recordedDate",
    "issued",
)  # fmt: skip
# Two that say "unknown" do not say the same.
_NOTHING = frozenset({"", "unknown", "other", "none", "not available", "see note", "n a", "unspecified"})
_NEGATIVE = frozenset({"refuted", "entered-in-error"})
_OVER = frozenset({"inactive", "resolved", "remission"})
_NO_CODE = re.compile("data-absent-reason|NullFlavor")


@dataclass(frozen=True, slots=True, eq=False)
class Sourced:
    """One copy. `source` is the reference of the package that lists it, `title` the source's name.

    `concept` is what it is about: its code, or that of the Medication that it cites; `codes` and `texts` are that
    concept's, the texts folded.
    """

    source: str
    title: str
    reference: str
    resource: Resource
    concept: Resource
    codes: frozenset[Code]
    texts: frozenset[str]

    @property
    def type(self) -> str:
        """The resource type."""
        return str(self.resource["resourceType"])

    @property
    def when(self) -> str:
        """The date that it is about, as written; "" when it says none."""
        for name in _WHEN:
            value = self.resource.get(name)
            if isinstance(value, dict):
                value = value.get("start")
            if isinstance(value, str):
                return value
        return ""

    @property
    def text(self) -> str:
        """What it is about, in its own words."""
        return text_of(self.concept) or str(self.resource.get("description", "")) or self.type

    @property
    def identifiers(self) -> frozenset[Code]:
        """Its business identifiers; one without a system could be anybody's."""
        found = self.resource.get("identifier", [])
        return frozenset((i["system"], i["value"]) for i in found if i.get("system") and i.get("value"))

    @property
    def negative(self) -> bool:
        """Whether it says that it is not so: refuted, or entered in error."""
        return bool(_codes(self.resource.get("verificationStatus")) & _NEGATIVE)

    @property
    def over(self) -> bool:
        """Whether it says that it is no longer so."""
        return bool(_codes(self.resource.get("clinicalStatus")) & _OVER)

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-1 (base64, as Attachment.hash has it) → content type, of the files in it whose hash is known."""
        attached = [c.get("attachment", {}) for c in self.resource.get("content", [])]
        attached += self.resource.get("presentedForm", [])
        digests = {_digest(a): str(a.get("contentType", "")).partition(";")[0] for a in attached}
        return {digest: kind for digest, kind in digests.items() if digest}


def _codes(concept: Resource | None) -> frozenset[str]:
    return frozenset(c["code"] for c in (concept or {}).get("coding", []) if "code" in c)


def of_case(case: Case) -> list[Sourced]:
    """Every copy that the packages of the case list and that is about its patient, in the order of the packages.

    A package with two Patients was gathered for one person first and for another later: which copy is whose can't be
    told any more, and nobody is compared with somebody else.
    """
    by_reference = {reference(r): r for r in case.resources}
    return [
        sourced(package, resource, by_reference)
        for package in records.packages(case)
        for resource in _of_the_patient(case, package, by_reference)
    ]


def _of_the_patient(case: Case, package: Resource, by_reference: Mapping[str, Resource]) -> Iterator[Resource]:
    listed = [e["item"]["reference"] for e in package.get("entry", [])]
    patients = {r for r in listed if r.startswith("Patient/")}
    mine = (patients if len(patients) == 1 else set()) | {reference(case.patient)}
    for resource in (by_reference[r] for r in listed if r in by_reference):
        about = resource.get("subject") or resource.get("patient") or {}
        if about.get("reference") in mine:
            yield resource


def sourced(package: Resource, resource: Resource, by_reference: Mapping[str, Resource]) -> Sourced:
    """One copy of a package; `by_reference` finds the Medication that it may cite."""
    concept = concept_of(resource, by_reference)
    codings = [c for c in concept.get("coding", []) if c.get("system") and c.get("code")]
    codes = frozenset((c["system"], c["code"]) for c in codings if not _NO_CODE.search(c["system"]))
    words = [concept.get("text", ""), *(c.get("display", "") for c in concept.get("coding", []))]
    texts = frozenset(map(fold, words)) - _NOTHING
    return Sourced(
        reference(package), package.get("title", ""), reference(resource), resource, concept, codes, texts
    )  # fmt: skip


def concept_of(resource: Resource, by_reference: Mapping[str, Resource]) -> Resource:
    """What a resource is about: its code, or that of the Medication that it cites."""
    cited = resource.get("medicationReference", {}).get("reference", "")
    if cited.startswith("#"):
        inner: list[Resource] = [c for c in resource.get("contained", []) if c.get("id") == cited[1:]]
        return dict(inner[0].get("code", {})) if inner else {}
    if cited:
        ref = refs.parse(cited)
        medication: Resource = by_reference.get(ref.local if ref else "", {})
        return dict(medication.get("code", {}))
    if "code" not in resource and resource["resourceType"] == "AllergyIntolerance":
        return dict(next((r["substance"] for r in resource.get("reaction", []) if "substance" in r), {}))
    return dict(next((resource[n] for n in _CONCEPTS if isinstance(resource.get(n), dict)), {}))


def concept_words(resource: Resource) -> frozenset[Code | str]:
    """What a resource says that it is about: its codes, and its words folded."""
    concepts = [resource[n] for n in _CONCEPTS if isinstance(resource.get(n), dict)]
    # A plan has its code there; elsewhere a category says only what sort of thing it is.
    concepts += resource.get("category", []) if resource["resourceType"] == "CarePlan" else []
    codings = [c for concept in concepts for c in concept.get("coding", [])]
    said = [*(concept.get("text", "") for concept in concepts), *(c.get("display", "") for c in codings)]
    coded = {(c["system"], c["code"]) for c in codings if c.get("system") and c.get("code")}
    return frozenset(coded | (set(map(fold, [*said, resource.get("description", "")])) - _NOTHING))


def substances(item: Sourced) -> frozenset[str]:
    """The words of a substance: "lisinopril" of "Lisinopril (ACE inhibitor)", "latex" of "Allergy to latex"."""
    words = [item.concept.get("text", ""), *(c.get("display", "") for c in item.concept.get("coding", []))]
    plain = (fold(text.partition("(")[0]) for text in words)
    return frozenset(w.removeprefix("allergy to ").removesuffix(" allergy") for w in plain) - _NOTHING


def text_of(concept: Resource) -> str:
    """A concept in words: its text, else the first display, else the first code."""
    codings = concept.get("coding", [])
    words: Iterator[str] = (c[name] for name in ("display", "code") for c in codings if c.get(name))
    return str(concept.get("text") or next(words, ""))


def fold(text: str) -> str:
    """Words without case, accents and punctuation."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(re.findall(r"\w+", plain))


def _digest(attachment: Resource) -> str:
    if attachment.get("data"):
        try:
            return attachments.digest(base64.b64decode(attachment["data"]))
        except (binascii.Error, ValueError):
            return ""
    return str(attachment.get("hash", ""))
