"""What was gathered: pages of an EHR → the case's copies, and the coverage manifest that says what is not there.

A copy keeps its text but for references: those to something gathered point at our copy, the rest get the source's
absolute URL, because two EHRs both have a Patient/1.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace

from fhir_secondop.fhir import codec, refs, times
from fhir_secondop.fhir.codec import Body
from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.compose import compose

COVERAGE = codes.extension("coverage")
# Not about one patient: read because something cites them.
_SHARED = frozenset({"Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device", "Binary"})


@dataclass(frozen=True, slots=True)
class Copy:
    """Our copy of one resource of an EHR. `page` is the Binary with the bytes it came in."""

    id: str
    body: Body
    resource: Resource
    source_url: str
    page: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """The copies of one source; `answers` with the strangers that were dropped and the notices it gave."""

    copies: tuple[Copy, ...]
    answers: tuple[Answer, ...]


def merge(
    case_id: str, source: str, base: str, patient_id: str, pages: Iterable[tuple[str, str]], answers: Iterable[Answer]
) -> Gathered:
    """The copies in the pages of one EHR.

    `pages` are (text of one resource as it came, reference to its page); `patient_id` is the matched patient's id
    there. A clinical resource about anyone else is dropped and counted: a server that ignored our `patient`
    parameter must not leak a stranger into the case.
    """
    taken: dict[str, tuple[Body, Resource, str]] = {}
    strangers: dict[str, int] = {}
    for text, page in pages:
        body, resource = codec.split(text)
        if "id" not in resource or resource["resourceType"] == "OperationOutcome":
            continue
        if not _is_about(resource, patient_id, base):
            strangers[resource["resourceType"]] = strangers.get(resource["resourceType"], 0) + 1
            continue
        key = reference(resource)
        before = taken.get(key)
        # Pages may overlap: the newest version is kept.
        if before is None or _version(before[1]) <= _version(resource):
            taken[key] = (body, resource, page)
    for key in [k for k in taken if k.startswith("Provenance/")]:
        if not _about_taken(taken[key][1], taken, base):
            del taken[key]
            strangers["Provenance"] = strangers.get("Provenance", 0) + 1
    local = {key: f"{key.partition('/')[0]}/{derived_id(case_id, source, key)}" for key in taken}

    def replacement(text: str) -> str | None:
        ref = refs.parse(text)
        if ref is None or ref.base not in ("", base):
            return None
        # Not gathered: the source's own address, with the version that was meant.
        return local.get(ref.local) or (text if ref.base else f"{base}/{text}")

    copies = []
    for key, (body, resource, page) in taken.items():
        version = resource.get("meta", {}).get("versionId")
        url = f"{base}/{key}" + (f"/_history/{version}" if version else "")
        rewritten = refs.rewritten(resource, replacement)
        rewritten["meta"] = {**resource.get("meta", {}), "source": url}
        copies.append(Copy(local[key].partition("/")[2], refs.rewrite(body, replacement), rewritten, url, page))
    counted = tuple(replace(a, strangers=strangers.pop(a.type, 0)) for a in answers)
    counted += tuple(Answer(kind, "not-asked", strangers=number) for kind, number in sorted(strangers.items()))
    return Gathered(tuple(copies), counted)


def _version(resource: Resource) -> tuple[int, str]:
    meta = resource.get("meta", {})
    updated = times.interval(meta["lastUpdated"]).low if "lastUpdated" in meta else times.MIN_MS
    return (updated, str(meta.get("versionId", "")).rjust(20, "0"))


def _is_about(resource: Resource, patient_id: str, base: str) -> bool:
    """Whether a resource is the matched patient's, or nobody's: a person, a place, a file that was read by name."""
    kind = resource["resourceType"]
    if kind == "Patient":
        return bool(resource["id"] == patient_id)
    for element in ("subject", "patient", "beneficiary", "individual", "for"):
        target = resource.get(element)
        if isinstance(target, dict):
            ref = refs.parse(target.get("reference", ""))
            return ref is not None and ref.local == f"Patient/{patient_id}" and ref.base in ("", base)
    return kind in _SHARED or kind == "Provenance"


def _about_taken(provenance: Resource, taken: Container[str], base: str) -> bool:
    """Whether a Provenance is about something of this patient's: decided when all pages are in."""
    targets = [refs.parse(text) for text in refs.find(provenance.get("target", []))]
    return any(ref is not None and ref.base in ("", base) and ref.local in taken for ref in targets)


def package(case: Case, source: str, title: str, gathered: Gathered, as_of: str) -> Resource:
    """The List (snapshot) of one source: its copies, and in its coverage extensions the manifest."""
    return compose(
        "List",
        id=derived_id(case.id, source, "package"),
        extension=[_coverage(answer) for answer in gathered.answers],
        status="current",
        mode="snapshot",
        title=title,
        subject={"reference": reference(case.patient)},
        date=as_of,
        entry=[{"item": {"reference": f"{c.resource['resourceType']}/{c.id}"}} for c in gathered.copies],
    )


def _coverage(answer: Answer) -> Resource:
    parts: list[Resource] = [
        {"url": "type", "valueCode": answer.type},
        {"url": "outcome", "valueCode": answer.outcome},
        {"url": "received", "valueUnsignedInt": answer.received},
        {"url": "strangers", "valueUnsignedInt": answer.strangers},
    ]
    if answer.asked:
        parts.append({"url": "asked", "valueString": answer.asked})
    if answer.detail:
        parts.append({"url": "detail", "valueString": answer.detail})
    return {"url": COVERAGE, "extension": parts}


def coverage(package_list: Resource) -> list[Answer]:
    """The manifest of one source, read back from its List."""
    answers = []
    for ext in package_list.get("extension", []):
        if ext["url"] == COVERAGE:
            said = {part["url"]: next(v for k, v in part.items() if k.startswith("value")) for part in ext["extension"]}
            answers.append(
                Answer(
                    said["type"], said["outcome"], said.get("asked", ""), said["received"], said["strangers"],
                    said.get("detail", ""),
                )
            )  # fmt: skip
    return answers


def packages(case: Case) -> list[Resource]:
    """The Lists of the case's sources."""
    return [r for r in case.of_type("List") if r.get("mode") == "snapshot"]


def gathered_resources(case: Case) -> list[Resource]:
    """The case's copies from all sources."""
    wanted = {entry["item"]["reference"] for package_list in packages(case) for entry in package_list.get("entry", [])}
    return [r for r in case.resources if reference(r) in wanted]
