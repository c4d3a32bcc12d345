"""Does the patient's payer cover this opinion? What is asked of it, and what its answer says; never more than that.

Source: https://hl7.org/fhir/R4/coverageeligibilityrequest-operation-submit.html,
https://hl7.org/fhir/R4/coverageeligibilityresponse.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fhir_secondop.fhir import refs, times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose

CODE = "check-coverage"
OPEN = ("requested", "accepted", "in-progress")
"""The states of a Task whose payer has not answered yet."""
PURPOSES = ["benefits", "auth-requirements"]
_ITEM = ("category", "productOrService", "excluded", "name", "description", "network", "authorizationRequired",
         "authorizationSupporting", "authorizationUrl")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """`covered` is "covered", "not-covered" or "unknown"; `authorization` "required", "not-required" or "unknown"."""

    covered: str
    authorization: str
    why: str


class NotOurs(Exception):
    """What came is no answer to what was asked: its message says why, without quoting it."""


def of_case(case: Case) -> list[Resource]:
    """The Tasks of the payers that were asked, oldest first."""
    return case.tasks_of(CODE)


def insurer(case: Case, coverage: Resource) -> Resource | None:
    """The Organization that pays; None where the patient or a relative does."""
    named = (case.directory.resource(p.get("reference", "")) for p in coverage.get("payor", []))
    return next((one for one in named if one is not None and one["resourceType"] == "Organization"), None)


def request(case: Case, coverage: Resource, payer: Resource, number: int, now: str) -> Resource:
    """What is asked: whether this coverage is in force and includes the opinion, and whether it must be authorised."""
    return compose(
        "CoverageEligibilityRequest",
        id=derived_id(case.id, "eligibility", reference(coverage), number),
        status="active",
        purpose=PURPOSES,
        patient={"reference": reference(case.patient)},
        created=now,
        provider=PLATFORM,
        insurer={"reference": reference(payer)},
        insurance=[{"focal": True, "coverage": {"reference": reference(coverage)}}],
        item=[{"productOrService": case.request["code"], "detail": [{"reference": reference(case.request)}]}],
    )


def sent(case: Case, asked: Resource, base_url: str) -> Resource:
    """The Bundle for the payer: who is insured and for what, and nothing of why: no diagnosis, no address."""
    coverage = case.directory.resource(asked["insurance"][0]["coverage"]["reference"]) or {}
    payer = case.directory.resource(asked["insurer"]["reference"]) or {}
    person: Resource = {
        k: case.patient[k] for k in ("resourceType", "id", "name", "birthDate", "gender") if k in case.patient
    }
    policy = {k: v for k, v in coverage.items() if k not in ("meta", "text", "contained", "extension")}
    organization: Resource = {k: payer[k] for k in ("resourceType", "id", "identifier", "name") if k in payer}
    item = {"productOrService": asked["item"][0]["productOrService"]}
    whole: list[Resource] = [{**asked, "item": [item]}, person, policy, organization]
    entries = [{"fullUrl": f"{base_url}/{reference(one)}", "resource": one} for one in whole]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def task(
    case: Case, payer: Resource | None, asked: Resource | None, connection: str, number: int, now: str
) -> Resource:
    """The Task of one payer that is asked; without `asked` there is nothing to ask, which is said on it."""
    inputs = [{"type": codes.concept(codes.EVIDENCE, "connection"), "valueString": connection or "none"}]
    if asked is not None:
        kind = codes.concept(codes.EVIDENCE, "eligibility-request")
        inputs.append({"type": kind, "valueReference": {"reference": reference(asked)}})
    name = (payer or {}).get("name", "the patient's payer")
    return compose(
        "Task",
        meta=profile("case-task"),
        id=derived_id(case.id, CODE, number),
        partOf=[{"reference": reference(case.coordination)}],
        status="requested",
        intent="order",
        code=codes.concept(codes.TASK, CODE),
        focus={"reference": reference(case.request)},
        for_={"reference": reference(case.patient)},
        authoredOn=now,
        lastModified=now,
        requester=PLATFORM,
        owner={**({"reference": reference(payer)} if payer is not None else {}), "display": name},
        input=inputs,
    )


def cited(case: Case, task_: Resource, element: str, code: str) -> Resource | None:
    """What an input or output of such a Task refers to."""
    for one in task_.get(element, []):
        if codes.has(one["type"], codes.EVIDENCE, code):
            return case.directory.resource(one["valueReference"]["reference"])
    return None


def kept(asked: Resource, answer: Resource, answer_id: str, source: str) -> Resource:
    """The answer as the case keeps it: about our request, with the items of our service alone. Raises NotOurs."""
    if answer.get("resourceType") != "CoverageEligibilityResponse":
        raise NotOurs("it is no CoverageEligibilityResponse")
    about = refs.parse(answer.get("request", {}).get("reference", ""))
    patient = refs.parse(answer.get("patient", {}).get("reference", ""))
    if about is not None and about.local != reference(asked):
        raise NotOurs("it is about another request")
    if about is None and (patient is None or patient.local != asked["patient"]["reference"]):
        raise NotOurs("it does not say that it is about this request or this patient")
    insurance = [
        {
            "coverage": asked["insurance"][0]["coverage"],
            **{k: one[k] for k in ("inforce", "benefitPeriod") if k in one},
            **({"item": items} if (items := list(_items(asked, one))) else {}),
        }
        for one in answer.get("insurance", [])
    ]
    elements: Resource = {k: answer[k] for k in ("disposition", "preAuthRef", "error") if k in answer}
    return {
        "resourceType": "CoverageEligibilityResponse",
        "id": answer_id,
        "meta": {"source": source},
        "status": answer["status"],
        "purpose": answer["purpose"],
        "patient": asked["patient"],
        "created": answer["created"],
        "request": {"reference": reference(asked)},
        "outcome": answer["outcome"],
        **elements,
        "insurer": asked["insurer"],
        **({"insurance": insurance} if insurance else {}),
    }


def _items(asked: Resource, insurance: Resource) -> Iterator[Resource]:
    wanted = _codings(asked["item"][0]["productOrService"])
    for item in insurance.get("item", []):
        if _codings(item.get("productOrService", {})) & wanted:
            yield {k: item[k] for k in _ITEM if k in item}


def _codings(concept: Resource) -> set[tuple[str, str]]:
    return {(c.get("system", ""), c["code"]) for c in concept.get("coding", []) if "code" in c}


def read(answer: Resource) -> Answer:
    """What a kept answer says, as of its own date. Whatever it does not say is unknown."""
    if answer["status"] != "active":
        return Answer("unknown", "unknown", f"the payer's answer is {answer['status']}")
    if answer["outcome"] == "queued":
        return Answer("unknown", "unknown", "the payer has not decided yet")
    if answer["outcome"] == "error":
        said = [text for error in answer.get("error", []) if (text := _words(error["code"]))]
        return Answer("unknown", "unknown", ": ".join(["the payer could not answer", *said[:1]]))
    insurance = answer.get("insurance", [])
    found = [_covered(one, times.interval(answer["created"]).low) for one in insurance]
    needed = {item.get("authorizationRequired") for one in insurance for item in one.get("item", [])}
    authorization = "required" if True in needed else "not-required" if needed == {False} else "unknown"
    if not found:
        return Answer("unknown", authorization, "the payer's answer names no coverage")
    if len({covered for covered, _ in found}) > 1:
        return Answer("unknown", authorization, "the payer's answer contradicts itself")
    covered, why = found[0]
    return Answer(covered, authorization, why)


def told(case: Case) -> list[Resource]:
    """For each payer that was asked, newest first: covered or not, why, as of when, and who says so."""
    return [_told(case, task_) for task_ in reversed(of_case(case))]


def _told(case: Case, task_: Resource) -> Resource:
    row = {"payer": task_["owner"]["display"], "task": reference(task_), "asOf": task_["lastModified"], "source": ""}
    answer = cited(case, task_, "output", "eligibility-response")
    if answer is None:
        asking = task_["status"] in OPEN
        why = "the payer is being asked" if asking else task_.get("statusReason", {}).get("text", "")
        return {**row, "status": "asking" if asking else "unknown", "authorization": "unknown", "why": why, "said": ""}
    found = read(answer)
    return {
        **row, "status": found.covered, "authorization": found.authorization, "why": found.why,
        "asOf": answer["created"], "source": answer["meta"]["source"], "said": answer.get("disposition", ""),
    }  # fmt: skip


def _words(concept: Resource) -> str:
    codings = concept.get("coding", [])
    said = [concept.get("text"), *(c.get("display") for c in codings), *(c.get("code") for c in codings)]
    return str(next((text for text in said if text), ""))


def _covered(insurance: Resource, as_of: int) -> tuple[str, str]:
    items = insurance.get("item", [])
    period = insurance.get("benefitPeriod", {})
    if insurance.get("inforce") is False:
        return "not-covered", "the coverage is not in force"
    if "inforce" not in insurance:
        return "unknown", "the payer does not say whether the coverage is in force"
    if ("end" in period and times.interval(period["end"]).high <= as_of) or (
        "start" in period and times.interval(period["start"]).low > as_of
    ):
        return "unknown", "the payer's answer is about another period"
    # R4: an item that is listed and not excluded is included.
    excluded = {bool(item.get("excluded")) for item in items}
    if excluded == {False}:
        return "covered", "the coverage is in force and includes this"
    if excluded == {True}:
        return "not-covered", "the coverage is in force and excludes this"
    return (
        "unknown",
        "the payer's answer says nothing of this" if not items else "the payer's answer contradicts itself",
    )
