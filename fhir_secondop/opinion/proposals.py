"""What the reviewer proposes: tests and changes of the plan, each a ServiceRequest of intent proposal. Pure.

It never leaves as an order. It is open until somebody who looks after the patient takes it up or does not, its date
passes, or the reviewer takes it back.
"""

from __future__ import annotations

from typing import Any

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose

ACCEPTED, DECLINED, AGED_OUT, WITHDRAWN = OUTCOMES = ("accepted", "declined", "aged-out", "withdrawn")
SYSTEM = f"{codes.CANONICAL}/proposal"
KINDS = ("test", "plan")
"""The kinds of recommendations that are proposals; "information" asks nothing of anybody."""
PROPOSED, TAKEN_BACK = 1, 2
"""The versions of the document that a proposal is delivered as."""
_STATUS = {ACCEPTED: "completed", DECLINED: "revoked", AGED_OUT: "revoked", WITHDRAWN: "revoked"}


def resource(
    case: Case, *, kind: str, text: str, why: str, reviewer: str, now: str, until: str, carried_by: str = ""
) -> Resource:
    """The next proposal of the case; `until` the day on which it ages out, `carried_by` the report that states it."""
    number = max(map(number_of, of_case(case)), default=0) + 1
    return compose(
        "ServiceRequest",
        meta=profile("proposal"),
        id=_id(case, number),
        identifier=[{"system": SYSTEM, "value": f"{case.id}/{number}"}],
        basedOn=[{"reference": reference(case.request)}],
        status="active",
        intent="proposal",
        priority=case.request.get("priority"),
        code=codes.concept(codes.system("recommendation"), kind, text=text),
        subject={"reference": reference(case.patient)},
        encounter={"reference": reference(case.encounter)},
        occurrencePeriod={"end": until},
        authoredOn=now,
        requester={"reference": reviewer},
        supportingInfo=[{"reference": carried_by}] if carried_by else None,
        note=[{"text": why}] if why else None,
    )


def of_case(case: Case) -> list[Resource]:
    """The proposals of the case, by their numbers; who reads blind may lack some."""
    found = [r for r in case.of_type("ServiceRequest") if _value(r) and r["id"] == _id(case, number_of(r))]
    return sorted(found, key=number_of)


def _id(case: Case, number: int) -> str:
    return derived_id(case.id, "proposal", number)


def _value(request: Resource) -> str:
    values = (i.get("value", "") for i in request.get("identifier", []) if i.get("system") == SYSTEM)
    return next((value for value in values if value.rpartition("/")[2].isdecimal()), "")


def is_one(request: Resource) -> bool:
    """Whether a ServiceRequest of a case is a proposal."""
    return bool(_value(request))


def number_of(proposal: Resource) -> int:
    """Its number in the case, from 1."""
    return int(_value(proposal).rpartition("/")[2])


def is_open(proposal: Resource) -> bool:
    """Whether nothing has become of it yet."""
    return bool(proposal["status"] == "active")


def is_carried(proposal: Resource) -> bool:
    """Whether the signed report states it, and is how it reaches everybody."""
    return bool(proposal.get("supportingInfo"))


def stated(proposal: Resource) -> tuple[str, str]:
    """(kind, text): what tells proposals of a case apart."""
    return codes.code_of(proposal["code"], codes.system("recommendation")) or "", proposal["code"]["text"]


def why(proposal: Resource) -> str:
    """Why it is proposed, or ""."""
    return " ".join(note["text"] for note in proposal.get("note", []))


def until(proposal: Resource) -> str:
    """The day at whose end it ages out."""
    return str(proposal["occurrencePeriod"]["end"])


def ended(proposal: Resource, outcome: str, *, by: str, at: str, reason: str = "") -> Resource:
    """The proposal with what became of it; said again by somebody who may, the later word stands."""
    parts: list[Resource] = [
        {"url": "outcome", "valueCode": outcome}, {"url": "at", "valueInstant": at}, {"url": "by", "valueString": by},
    ]  # fmt: skip
    if reason:
        parts.append({"url": "reason", "valueString": reason})
    kept = [e for e in proposal.get("extension", []) if e["url"] != codes.PROPOSAL_OUTCOME]
    extension = [*kept, {"url": codes.PROPOSAL_OUTCOME, "extension": parts}]
    return {**proposal, "extension": extension, "status": _STATUS[outcome]}


def outcome(proposal: Resource) -> dict[str, str]:
    """What became of it: outcome, at, by, reason; {} while it is open."""
    for extension in proposal.get("extension", []):
        if extension["url"] == codes.PROPOSAL_OUTCOME:
            return {part["url"]: next(v for k, v in part.items() if k != "url") for part in extension["extension"]}
    return {}


def with_result(proposal: Resource, cited: str) -> Resource:
    """The proposal that this resource of the record answers."""
    extension = {"url": codes.PROPOSAL_RESULT, "valueReference": {"reference": cited}}
    return {**proposal, "extension": [*proposal.get("extension", []), extension]}


def results(proposal: Resource) -> list[str]:
    """The references of the results that arrived for it."""
    found = codes.extension_values(proposal, codes.PROPOSAL_RESULT)
    return [str(value["reference"]) for value in found if isinstance(value, dict)]


def told(case: Case) -> list[dict[str, Any]]:
    """The proposals for JSON and pages."""
    return [
        {"number": number_of(one), "reference": reference(one), "kind": stated(one)[0], "text": stated(one)[1],
         "why": why(one), "until": until(one), "open": is_open(one), "inReport": is_carried(one),
         "outcome": outcome(one) or None, "results": results(one)}
        for one in of_case(case)
    ]  # fmt: skip
