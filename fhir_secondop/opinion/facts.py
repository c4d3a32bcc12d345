"""What the report says, as plain facts: every rendering (PDF, text, narrative) is made of these and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import (
    blinding,
    codes,
    concordance,
    conflicts,
    consultation,
    independence,
    proposals,
    records,
    report,
)
from fhir_secondop.opinion import checklist as lists
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.opinion.people import display_name

Facts = dict[str, Any]


def of_report(
    case: Case, draft: report.Draft, *, status: str, version: int, issued: str, reviewer: str,
    items: list[lists.Item], stated: Resource | None, before: Resource | None = None, reason: str = "",
) -> Facts:  # fmt: skip
    """The facts of a signed report. `before` is the DiagnosticReport that it replaces."""
    judgements = report.judgements(draft)
    total = concordance.overall(judgements)
    person = case.directory.person(reviewer)
    return {
        "caseId": case.id,
        "setId": report.set_id(case),
        "version": version,
        "versionId": f"urn:uuid:{derived_id(case.id, 'report', version)}",
        "status": status,
        "issued": moment(issued),
        "patient": patient(case),
        "reviewer": {
            "name": person.name if person else "",
            "organization": person.organization_name if person else "",
            "identifier": person.key.rpartition("|")[2] if person else "",
        },
        "requester": case.requester.name if case.requester else "the patient",
        "consultation": consultation.said(case),
        "reasons": [reason_text(r) for r in case.request.get("reasonCode", []) if reason_text(r)],
        "decision": decision(case),
        "conclusion": draft.get("conclusion", report.UNWRITTEN),
        "overall": total.text if total else "not assessed",
        "significance": concordance.highest_significance(judgements),
        "items": [_item(case, item) for item in draft["items"]],
        "answers": [_answer(case, answer) for answer in sorted(draft.get("answers", []), key=lambda a: a["question"])],
        "options": [
            {name: one.get(name, "") for name in ("text", "preference", *report.OPTION_PARTS)}
            for one in draft.get("options", [])
        ],
        "recommendations": [
            {"text": r["text"], "strength": r.get("strength", ""), "kind": r.get("kind", "")}
            for r in draft.get("recommendations", [])
        ],
        "prose": [{"title": title, "text": draft[name]} for name, title, _ in report.PROSE if name in draft],
        "independence": _independence(stated),
        "blindness": _blindness(case),
        "records": [_source(package_list) for package_list in records.packages(case)],
        "missing": [_lacking(item) for item in items if item.state in lists.GAPS],
        "conflicts": [_conflict(c) for c in conflicts.find(case)],
        "recipients": [{"name": m.person.name, "role": m.role} for m in case.audience],
        "amendment": _amendment(before, status, reason),
        "notices": [*records.notices(case), *_preliminary(case, draft)],
    }


def _preliminary(case: Case, draft: report.Draft) -> Iterator[str]:
    """What differs from the report that was shown before it was signed."""
    shown = case.preliminary
    if shown is None:
        return
    before = case.find("Observation", derived_id(case.id, "overall")) or {}
    was = codes.code_of(before.get("valueCodeableConcept"), codes.OVERALL_CONCORDANCE)
    total = concordance.overall(report.judgements(draft))
    same = "stands" if shown["conclusion"] == draft.get("conclusion") else "was changed"
    rated = "the same" if total and total.code == was else f"{was}"
    yield (
        f"A preliminary opinion was shown on {moment(shown['issued'])}; this report takes its place. Its conclusion "
        f"{same}; its overall concordance was {rated}."
    )


def _blindness(case: Case) -> Facts:
    """Whether the first opinion was known, what was written before it was, and what was changed of that later."""
    reads = [
        {"title": f"{'First read, changed' if place else 'First read, locked'} {moment(read['date'])}",
         "text": blinding.read_in_words(read)}
        for place, read in enumerate(blinding.first_reads(case))
    ]  # fmt: skip
    return {"said": blinding.words(blinding.of_case(case)), "reads": reads}


def of_plan(case: Case, plan: Resource, version: int) -> Facts:
    """The facts of a plan of record."""
    author = case.directory.person(plan.get("author", {}).get("reference", ""))
    decision = codes.extension_value(plan, codes.DECISION_EXTENSION)
    return {
        "caseId": case.id,
        "setId": f"urn:uuid:{derived_id(case.id, 'set', 'plan')}",
        "version": version,
        "versionId": f"urn:uuid:{derived_id(case.id, 'plan', version)}",
        "issued": moment(plan["created"]),
        "patient": patient(case),
        "author": author.name if author else "",
        "decision": str(decision),
        "cites": f"report version {codes.extension_value(plan, codes.CITES_REPORT)}",
        "text": plan["description"],
        "notices": records.notices(case),
        "items": [a["detail"]["description"] for a in plan.get("activity", [])],
    }


def proposal_version_id(case: Case, proposal: Resource, version: int) -> str:
    """The id of a version of a proposal's document."""
    return f"urn:uuid:{derived_id(case.id, 'proposal-document', proposal['id'], version)}"


def of_proposal(case: Case, proposal: Resource, version: int, issued: str) -> Facts:
    """The facts of a proposal: what, why and until when; `withdrawn` why it was taken back, or ""."""
    author = case.directory.person(proposal["requester"]["reference"])
    kind, text = proposals.stated(proposal)
    ended = proposals.outcome(proposal) if version == proposals.TAKEN_BACK else {}
    return {
        "caseId": case.id,
        "number": proposals.number_of(proposal),
        "setId": f"urn:uuid:{derived_id(case.id, 'set', 'proposal', proposal['id'])}",
        "version": version,
        "versionId": proposal_version_id(case, proposal, version),
        "issued": moment(issued),
        "patient": patient(case),
        "author": author.name if author else "",
        "kind": {"test": "further test or examination", "plan": "change of the plan"}.get(kind, kind),
        "text": text,
        "why": proposals.why(proposal),
        "until": proposals.until(proposal),
        "withdrawn": ended.get("reason", ""),
        "notices": records.notices(case),
    }


def of_notice(case: Case, held: int, version: int, withdrawn: bool, issued: str, contact: str) -> Facts:
    """The facts of a notice to somebody who holds version `held` and may not be sent the newer one: no content."""
    what = "withdrawn" if withdrawn else "superseded"
    return {
        "caseId": case.id,
        "version": version,
        "versionId": f"urn:uuid:{derived_id(case.id, 'notice', version)}",
        "issued": moment(issued),
        "text": f"Version {held} of the second opinion in case {case.id}, which was sent to you, is {what} as of "
                f"{moment(issued)}. Do not rely on it any more.\n\n"
                f"What has taken its place may not be sent to you. {contact or 'Ask whoever sent it to you.'}",
    }  # fmt: skip


def moment(instant: str) -> str:
    """A FHIR instant for people, to the minute: "2026-11-23 09:30 UTC"."""
    return f"{times.instant(times.interval(instant).low)[:16].replace('T', ' ')} UTC"


def patient(case: Case) -> Facts:
    """Who it is about, for the head of a document."""
    found = case.patient
    return {
        "name": display_name(found),
        "birthDate": found.get("birthDate", ""),
        "gender": found.get("gender", ""),
        "identifiers": [i["value"] for i in found.get("identifier", []) if "value" in i],
    }


def item_title(item: Resource) -> str:
    """What stands under review, in words."""
    code: Resource = item.get("code") or next(iter(item.get("category", [])), {})
    coded = next((c.get("display", "") for c in code.get("coding", [])), "")
    return item.get("description") or code.get("text") or coded or item["resourceType"]


def reason_text(reason: Resource) -> str:
    """Why a second opinion is asked, in the sender's words or ours."""
    code = codes.code_of(reason, codes.REASON)
    return reason.get("text") or (code.replace("-", " ") if code else "")


def decision(case: Case) -> Facts:
    """The decision in question: what is planned, until when and by whom it is decided."""
    under_review = codes.extension_value(case.request, codes.DECISION_UNDER_REVIEW)
    planned = case.directory.resource(under_review["reference"]) if isinstance(under_review, dict) else None
    owner = case.decision_owner
    return {
        "text": item_title(planned) if planned else "",
        "deadline": str(codes.extension_value(case.request, codes.DECISION_DEADLINE) or ""),
        "owner": owner.name if owner else "",
    }


def _item(case: Case, item: dict[str, Any]) -> Facts:
    reviewed = case.items[item["item"]]
    return {
        "title": item_title(reviewed),
        "axis": item["axis"],
        "concordance": item["concordance"],
        "significance": item.get("significance", ""),
        "proposed": item.get("proposed", {}).get("text", ""),
        "basis": item.get("basis", ""),
        "confidence": item.get("confidence", ""),
        "wouldChange": item.get("wouldChange", ""),
        "missing": item.get("missing", ""),
    }


def _answer(case: Case, answer: dict[str, Any]) -> Facts:
    return {
        "question": case.questions[answer["question"]],
        "text": answer.get("text", ""),
        "cannotAnswer": answer.get("cannotAnswer", ""),
    }


def _independence(stated: Resource | None) -> Facts:
    said = independence.stated({"extension": [stated]}) if stated else {}
    return {
        "result": next(iter(said.get("result", [])), "not assessed"),
        "findings": said.get("finding", []),
        "attestation": next(iter(said.get("attestation", [])), ""),
        "override": next(iter(said.get("override", [])), ""),
    }


def _conflict(conflict: conflicts.Conflict) -> Facts:
    """What sources say differently, each with its own words: none of them is chosen."""
    sides = [{"source": s.source, "text": s.text, "date": s.date} for s in conflict.sides]
    return {"kind": conflicts.WORDS[conflict.kind], "about": conflict.about, "sides": sides}


_STATES = {"missing": "", "stale": " (only older ones)", "withheld": " (withheld)", "requested": " (asked for)"}


def _lacking(item: lists.Item) -> str:
    """A checklist item that is not there, in words."""
    return item.title + _STATES[item.state]


def _source(package_list: Resource) -> Facts:
    answers = records.coverage(package_list)
    return {
        "name": package_list.get("title", ""),
        "asOf": moment(package_list["date"]),
        "received": len(package_list.get("entry", [])),
        "gaps": [
            gap(a)
            for a in answers
            if a.outcome != "answered" or a.strangers or a.withheld or a.unresolved or _narrowed(a)
        ],
    }


def gap(answer: Any) -> str:
    """A line of the manifest in words: what of one type is not there, and why."""
    words = {
        "refused": "refused", "not-offered": "not offered", "truncated": "incomplete",
        "failed": "could not be read", "not-asked": "not asked",
    }  # fmt: skip
    parts = [words.get(answer.outcome, "")]
    if answer.withheld:
        parts.append("the source says that it withholds data")
    if answer.unresolved:
        parts.append(f"{answer.unresolved} cited could not be read")
    if answer.strangers:
        parts.append(f"{answer.strangers} about somebody else dropped")
    narrowed = _narrowed(answer)
    if narrowed:
        parts.append(f"asked for by {' and '.join(narrowed)} only")
    return f"{answer.type}: " + ", ".join(part for part in parts if part)


def _narrowed(answer: Any) -> list[str]:
    """What else an EHR made us name ("category"): whatever has another one, or none, did not come."""
    searches = answer.asked.split("; ")
    return sorted({part.partition("=")[0] for search in searches for part in search.split("&")[1:]})


def _amendment(before: Resource | None, status: str, reason: str) -> Facts | None:
    if before is None:
        return None
    return {"kind": status, "reason": reason, "replaces": report.version_of(before), "issued": moment(before["issued"])}
