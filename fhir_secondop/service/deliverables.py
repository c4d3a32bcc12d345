"""What a delivery Task carries: the report or plan of its version, with the renderings that go to everybody."""

from __future__ import annotations

import base64
from typing import Any

from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.model import EVERYTHING, Resource
from fhir_secondop.opinion import alignment, codes, facts, records, render, report
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.people import Person
from fhir_secondop.service import sealing
from fhir_secondop.service.context import Context
from fhir_secondop.service.sealing import Sealed
from fhir_secondop.store import resources

NOTICE = "deliver-notice"
PLAN_TYPE = codes.concept(codes.LOINC, "18776-5", "Plan of care note")
DOC_STATUS = {
    "final": "final", "amended": "amended", "corrected": "amended", "appended": "amended",
    "entered-in-error": "entered-in-error",
}  # fmt: skip


def deliverable(context: Context, case: Case, task: Resource, person: Person) -> Deliverable:
    """The document of a delivery Task, from the version that its focus names.

    Raises Conflict when that is a report whose signature does not hold.
    """
    if codes.has(task["code"], codes.TASK, NOTICE):
        return _notice(context, case, task, person)
    kind, resource_id, _, version = task["focus"]["reference"].split("/")
    number = alignment.version_of(task)
    if kind == "ServiceRequest":
        return _proposal(context, case, task, person)
    signed: Sealed | None = None
    if kind == "DiagnosticReport":
        # Out of the signed bytes: what leaves can't be anything else than what was signed.
        signed = sealing.require(context, case, number)
        focus = signed.report
    else:
        with context.database.reading() as connection:
            focus = resources.history(connection, EVERYTHING, kind, resource_id, version=int(version))[0].resource
    clinicians = frozenset(person.identifiers) | (case.requester.identifiers if case.requester else frozenset())
    name = "report" if signed else "plan"
    author = focus["performer"][0] if name == "report" else focus["author"]
    common: dict[str, Any] = {
        "set_id": f"urn:uuid:{derived_id(case.id, 'set', name)}",
        "version_id": f"urn:uuid:{derived_id(case.id, name, number)}",
        "version": number,
        "previous_version_id": f"urn:uuid:{derived_id(case.id, name, number - 1)}" if number > 1 else "",
        "author": _contained(case, author.get("reference", "")),
        "placer": _placer(case),
        "clinicians": clinicians,
        "period": _period(case),
        "whole": f"{context.public_url}/cases/{case.id}" + (f" ({context.contact})" if context.contact else ""),
        "labels": tuple(records.labels(case)),
    }
    if signed:
        cited = {r["reference"] for r in focus.get("result", [])}
        observations = tuple(r for r in signed.resources if reference(r) in cited)
        forms = _by_type(focus["presentedForm"])
        return Deliverable(
            title=_title("Second opinion", case, number, focus["status"]),
            issued=focus["issued"],
            doc_status=DOC_STATUS[focus["status"]],
            type=report.CODE,
            pdf=forms["application/pdf"],
            text=forms["text/plain"].decode(),
            report=focus,
            observations=observations,
            withdrawn=tuple(
                o
                for o in case.of_type("Observation")
                if o["status"] == "entered-in-error" and o["id"] not in {x["id"] for x in observations}
            ),
            signed=signed.data,
            signature=signed.jws,
            **common,
        )
    forms = _forms(case, derived_id(case.id, "plan-document", number))
    return Deliverable(
        title=_title("Plan of record", case, number, ""),
        issued=focus["created"],
        doc_status="final" if number == 1 else "amended",
        type=PLAN_TYPE,
        pdf=forms["application/pdf"],
        text=forms["text/plain"].decode(),
        **common,
    )


def _proposal(context: Context, case: Case, task: Resource, person: Person) -> Deliverable:
    """A test or change that the reviewer proposes; its second version says that it was taken back."""
    kind, resource_id, _, version = task["focus"]["reference"].split("/")
    with context.database.reading() as connection:
        focus = resources.history(connection, EVERYTHING, kind, resource_id, version=int(version))[0].resource
    number = alignment.version_of(task)
    said = facts.of_proposal(case, focus, number, task["authoredOn"])
    return Deliverable(
        title=_title(f"Proposal {said['number']}", case, number, "withdrawn" if said["withdrawn"] else ""),
        set_id=said["setId"],
        version_id=said["versionId"],
        version=number,
        previous_version_id=facts.proposal_version_id(case, focus, number - 1) if number > 1 else "",
        issued=task["authoredOn"],
        doc_status="final" if number == 1 else "amended",
        type=PLAN_TYPE,
        author=_contained(case, focus["requester"]["reference"]),
        pdf=render.pdf("proposal", said),
        text=render.proposal_text(said),
        placer=_placer(case),
        clinicians=frozenset(person.identifiers) | (case.requester.identifiers if case.requester else frozenset()),
        period=_period(case),
        labels=tuple(records.labels(case)),
    )


def _notice(context: Context, case: Case, task: Resource, person: Person) -> Deliverable:
    """A notice in the place of a version that may not be sent: of the same set, so that it supersedes what is there."""
    number = alignment.version_of(task)
    kind, resource_id, _, version = task["focus"]["reference"].split("/")
    with context.database.reading() as connection:
        focus = resources.history(connection, EVERYTHING, kind, resource_id, version=int(version))[0].resource
    held = int(alignment.evidence(task)["held-version"])
    withdrawn = focus["status"] == "entered-in-error"
    said = facts.of_notice(case, held, number, withdrawn, task["authoredOn"], context.contact)
    return Deliverable(
        title=_title("Notice", case, number, ""),
        set_id=report.set_id(case),
        version_id=said["versionId"],
        version=number,
        previous_version_id=f"urn:uuid:{derived_id(case.id, 'report', held)}",
        issued=task["authoredOn"],
        doc_status="final",
        type=report.CODE,
        author={"resourceType": "Practitioner"},
        pdf=render.pdf("notice", said),
        text=render.notice_text(said),
        placer=_placer(case),
        clinicians=frozenset(person.identifiers),
    )


def _forms(case: Case, document_id: str) -> dict[str, bytes]:
    """The renderings of a document of the case, by media type: rendered once, sent to everybody."""
    document = next(d for d in case.of_type("DocumentReference") if d["id"] == document_id)
    return _by_type([content["attachment"] for content in document["content"]])


def _by_type(attachments: list[Resource]) -> dict[str, bytes]:
    return {a["contentType"].partition(";")[0]: base64.b64decode(a["data"]) for a in attachments}


def _title(what: str, case: Case, version: int, status: str) -> str:
    # An EHR may drop every identifier: case and version must stand where people and searches see them.
    mark = f", {status.upper()}" if status not in ("", "final") else ""
    return f"{what}, case {case.id}, version {version}{mark}"


def _contained(case: Case, author: str) -> Resource:
    person = case.directory.person(author)
    found = case.directory.resource(person.practitioner) if person else None
    kept = ("identifier", "name", "telecom")
    return {"resourceType": "Practitioner", **{k: (found or {})[k] for k in kept if k in (found or {})}}


def _placer(case: Case) -> tuple[str, str]:
    for identifier in case.request.get("identifier", []):
        if "value" in identifier:
            return identifier.get("system", ""), identifier["value"]
    return "", ""


def _period(case: Case) -> Resource:
    period: Resource = case.encounter.get("period", {})
    return period
