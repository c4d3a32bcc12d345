"""Blind-first: which resources of a case are the first opinion, and how far the blind first read has come. Pure.

Withheld are the diagnosis and the plan under review, and what in the gathered record says the same: copies of that
diagnosis, plans, assessments, and documents that are one. Never allergies, medicines taken, results, images or
pathology: an opinion without them would not be safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, links, notices, proposals, records, workflow
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.sourced import concept_words

ASKED, LOCKED, OPENED = "asked", "locked", "opened-early"
_PLANS = frozenset({"CarePlan", "ClinicalImpression", "Goal", "RequestGroup"})
_DOCUMENTS = frozenset({"DocumentReference", "Composition", "DiagnosticReport"})
# LOINC codes of documents that are an opinion or a plan (DOMAIN section 3).
_OPINIONS = frozenset({"47040-1", "47041-9", "11488-4", "51848-0", "18776-5"})


@dataclass(frozen=True, slots=True)
class Blindness:
    """How a blind first read stands: asked for, locked, or opened early with a reason. `at` is a FHIR instant."""

    state: str
    at: str = ""
    reason: str = ""


def of_case(case: Case) -> Blindness | None:
    """How it stands in the current round of the case; None when nobody asked for a blind first read."""
    return of_task(case.coordination)


def of_task(task: Resource) -> Blindness | None:
    """The same, read from a coordination Task."""
    for ext in task.get("extension", []):
        if ext["url"] == codes.BLINDNESS:
            said = {part["url"]: next(v for k, v in part.items() if k != "url") for part in ext["extension"]}
            return Blindness(said["state"], said.get("at", ""), said.get("reason", ""))
    return None


def stated(task: Resource, blindness: Blindness | None) -> Resource:
    """A coordination Task that says so."""
    kept = [ext for ext in task.get("extension", []) if ext["url"] != codes.BLINDNESS]
    if blindness is not None:
        parts: list[Resource] = [{"url": "state", "valueCode": blindness.state}]
        if blindness.at:
            parts.append({"url": "at", "valueInstant": blindness.at})
        if blindness.reason:
            parts.append({"url": "reason", "valueString": blindness.reason})
        kept.append({"url": codes.BLINDNESS, "extension": parts})
    rest = {name: value for name, value in task.items() if name != "extension"}
    return {**rest, **({"extension": kept} if kept else {})}


def first_reads(case: Case) -> list[Resource]:
    """The first reads of the current round, oldest first: the one that was locked, then what was changed later."""
    found: list[Resource] = []
    while (read := case.find("ClinicalImpression", first_read_id(case, len(found)))) is not None:
        found.append(read)
    return found


def first_read_id(case: Case, number: int) -> str:
    """The id of a first read of the current round; 0 is the one that was locked."""
    return derived_id(case.id, "first-read", case.coordination["id"], number)


def is_asked(request: Resource) -> bool:
    """Whether a request asks for a blind first read."""
    return codes.extension_value(request, codes.BLIND_FIRST) is True


def withheld(case: Case) -> frozenset[str]:
    """The references of what is withheld. The case must have been loaded with its record."""
    decision = codes.extension_value(case.request, codes.DECISION_UNDER_REVIEW)
    opinion = {reference(item) for item in case.items}
    opinion |= {str(decision["reference"])} if isinstance(decision, dict) else set()
    told = [concept_words(r) for r in case.resources if reference(r) in opinion]
    groups = [frozenset(links.members(link)) for link in links.of_case(case) if link["active"]]
    for copy in _record(case):
        if _is_opinion(copy) or (
            copy["resourceType"] in ("Condition", "ServiceRequest")
            and any(concept_words(copy) & words for words in told)
        ):
            opinion.add(reference(copy))
    # What was taken for the same fact as something withheld is withheld too, and the group that says so.
    opinion |= {member for group in groups if group & opinion for member in group}
    opinion |= {reference(link) for link in links.of_case(case) if set(links.members(link)) & opinion}
    opinion |= {*_of_urgent(case), *_of_proposals(case)}
    return frozenset(opinion | {file for copy in case.resources if reference(copy) in opinion for file in _files(copy)})


def _of_proposals(case: Case) -> Iterator[str]:
    """What was proposed in an earlier round by who had read the first opinion, and why a proposal ended."""
    begun = times.interval(case.coordination["authoredOn"]).low
    for one in proposals.of_case(case):
        if times.interval(one["authoredOn"]).low < begun:
            yield reference(one)
    for notice in notices.of_case(case, notices.PROPOSAL_ENDED, notices.RESULT):
        earlier = notice["about"][0]["reference"] != reference(case.coordination)
        if earlier or notices.topic_of(notice) == notices.PROPOSAL_ENDED:
            yield reference(notice)


def _of_urgent(case: Case) -> Iterator[str]:
    """Who is called may tell the first opinion, and who called in an earlier round had read it."""
    contacts = [task for task in case.of_type("Task") if workflow.is_urgent(task)]
    for task in contacts:
        if task["partOf"][0]["reference"] != reference(case.coordination):
            yield reference(task)
    known = {reference(task) for task in contacts}
    for said in case.of_type("Communication", "Provenance"):
        if any(part.get("reference") in known for part in (*said.get("partOf", []), *said.get("target", []))):
            yield reference(said)


def _record(case: Case) -> Iterator[Resource]:
    """What came from the EHRs, and what was sent by an upload link (our own documents have a masterIdentifier)."""
    yield from records.gathered_resources(case)
    for document in case.of_type("DocumentReference"):
        if "masterIdentifier" not in document and "source" not in document.get("meta", {}):
            yield document


def _is_opinion(copy: Resource) -> bool:
    kind = copy["resourceType"]
    if kind in _PLANS:
        return True
    if kind == "Observation":  # an opinion that was delivered into that EHR comes back with its record
        return codes.has(copy.get("code"), codes.SECTION)
    if kind == "ServiceRequest":
        return copy.get("intent") in ("proposal", "plan")
    stated_as = copy.get("type") or copy.get("code") or {}
    return kind in _DOCUMENTS and codes.code_of(stated_as, codes.LOINC) in _OPINIONS


def _files(document: Resource) -> Iterator[str]:
    attached = [content.get("attachment", {}) for content in document.get("content", [])]
    for attachment in [*attached, *document.get("presentedForm", [])]:
        if attachment.get("url", "").startswith("Binary/"):
            yield attachment["url"]


def read_in_words(read: Resource) -> str:
    """A first read as plain text."""
    found = [read["summary"], *(f"Diagnosis: {f['itemCodeableConcept']['text']}" for f in read.get("finding", []))]
    found += [f"Plan: {note['text']}" for note in read.get("note", [])]
    found += [f"Changed because: {read['description']}"] if "description" in read else []
    return "\n".join(found)


def words(blindness: Blindness | None) -> str:
    """What a report says of it."""
    if blindness is None:
        return "Not blind: the reviewer could read the first opinion from the start."
    if blindness.state == ASKED:
        return "Blind: the first opinion is withheld until the first read is locked."
    if blindness.state == LOCKED:
        return (
            f"The first read was written without the first opinion and locked on {blindness.at[:10]}; only then was "
            "the first opinion opened. Free text in the record may have told of it before."
        )
    return f"Opened on {blindness.at[:10]}, before a first read was locked. Reason: {blindness.reason}"
