"""What was sent → a request that we can carry, or every fault of it by its path.

Whatever the door, the input here is the same: the resources as sent, with the fullUrl by which they cite each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.compose import compose


@dataclass(frozen=True, slots=True)
class Sent:
    """One resource of an intake. `path` is where it stood in what was sent."""

    full_url: str
    resource: Resource
    path: str


@dataclass(frozen=True, slots=True)
class Request:
    """A second-opinion request that may be opened."""

    sent: tuple[Sent, ...]
    request: Sent
    placer: str  # "system|value", or "" when the sender gave none
    warnings: tuple[Issue, ...]


def is_second_opinion(resource: Resource) -> bool:
    """Whether a ServiceRequest asks for a second opinion (DOMAIN section 1).

    It does by v2-0282 SO in orderDetail, by v2-0336 S or a code of our reason system in reasonCode, or by our profile.
    """
    if resource.get("resourceType") != "ServiceRequest":
        return False
    return (
        any(codes.has(detail, codes.V2_DISPOSITION, "SO") for detail in resource.get("orderDetail", []))
        or any(
            codes.has(reason, codes.V2_REFERRAL_REASON, "S") or codes.has(reason, codes.REASON)
            for reason in resource.get("reasonCode", [])
        )
        or codes.REQUEST_PROFILE in resource.get("meta", {}).get("profile", [])
    )


def check(sent: Sequence[Sent]) -> Request:
    """The request in what was sent. Raises Invalid with every fault, each at its path."""
    requests = [s for s in sent if is_second_opinion(s.resource)]
    if len(requests) != 1:
        raise Invalid(
            f"There must be exactly one second-opinion ServiceRequest, there are {len(requests)}; "
            "mark it by orderDetail v2-0282 SO.",
            path=requests[1].path if len(requests) > 1 else "ServiceRequest",
        )
    request = requests[0]
    by_url = {s.full_url: s for s in sent if s.full_url}
    issues = [*_request_faults(request, by_url), *_subject_faults(sent, request)]
    errors = [issue for issue in issues if issue.severity == "error"]
    if errors:
        raise Invalid(f"{len(errors)} fault(s); nothing was stored.", issues=errors)
    return Request(tuple(sent), request, _placer(request.resource), tuple(issues))


def _placer(request: Resource) -> str:
    identifiers = [i for i in request.get("identifier", []) if "value" in i]
    for identifier in identifiers:
        if codes.has(identifier.get("type"), codes.V2_IDENTIFIER_TYPE, "PLAC"):
            return f"{identifier.get('system', '')}|{identifier['value']}"
    return f"{identifiers[0].get('system', '')}|{identifiers[0]['value']}" if identifiers else ""


_TARGETS = {
    codes.RECORD_SOURCE: ("Organization",),
    codes.INFORM: ("PractitionerRole", "Practitioner"),
    codes.EARLIER: ("PractitionerRole", "Practitioner"),
    codes.DECISION_OWNER: ("PractitionerRole", "Practitioner"),
    codes.ITEM_UNDER_REVIEW: ("Condition", "CarePlan", "MedicationRequest", "ServiceRequest"),
}
_REQUESTERS = ("PractitionerRole", "Practitioner", "Patient", "RelatedPerson")


def _request_faults(request: Sent, by_url: dict[str, Sent]) -> list[Issue]:
    resource, path = request.resource, request.path
    issues: list[Issue] = []

    def fault(code: str, where: str, message: str) -> None:
        issues.append(Issue("error", code, f"{path}.{where}", message))

    if not resource.get("code"):
        fault("required", "code", "Say what is asked for, SNOMED CT 11429006 Consultation for instance.")
    if resource.get("status") not in ("active", "draft"):
        fault("business-rule", "status", "A new request is active or draft.")
    if resource.get("intent") not in ("order", "original-order", "filler-order", "proposal", "plan"):
        fault("business-rule", "intent", "Use order, or proposal when it still has to be authorised.")
    subject = resource.get("subject", {}).get("reference", "")
    patient = by_url.get(subject)
    if patient is None or patient.resource["resourceType"] != "Patient":
        fault("not-found", "subject", "It must point at the Patient sent along.")
    elif not any("value" in i for i in patient.resource.get("identifier", [])):
        issues.append(Issue("error", "required", f"{patient.path}.identifier", "Say how the EHRs know the patient."))
    requester = resource.get("requester", {}).get("reference", "")
    if requester not in by_url or by_url[requester].resource["resourceType"] not in _REQUESTERS:
        fault("not-found", "requester", "It must point at a PractitionerRole, Patient or RelatedPerson sent along.")
    reasons = resource.get("reasonCode", [])
    if not reasons:
        fault("required", "reasonCode", "Say why: " + ", ".join(codes.REASONS) + ".")
    for place, reason in enumerate(reasons):
        code = codes.code_of(reason, codes.REASON)
        if code is not None and code not in codes.REASONS:
            fault("code-invalid", f"reasonCode[{place}]", "Use one of: " + ", ".join(codes.REASONS) + ".")
    if reasons and not any(codes.has(reason, codes.REASON) for reason in reasons):
        issues.append(
            Issue("warning", "informational", f"{path}.reasonCode", "No reason of our code system; taken as text.")
        )
    cited = [*resource.get("reasonReference", []), *resource.get("supportingInfo", [])]
    kinds = {by_url[c["reference"]].resource["resourceType"] for c in cited if c.get("reference") in by_url}
    if not kinds & set(_TARGETS[codes.ITEM_UNDER_REVIEW]):
        fault("required", "reasonReference", "Name the diagnosis, or in supportingInfo the plan, that is under review.")
    for place, ext in enumerate(resource.get("extension", [])):
        if ext.get("url") == codes.PATHWAY_EXTENSION:
            code = codes.code_of(ext.get("valueCodeableConcept"), codes.PATHWAY)
            if code not in codes.PATHWAYS:
                fault("code-invalid", f"extension[{place}]", "Use one of: " + ", ".join(codes.PATHWAYS) + ".")
        elif ext.get("url") in _TARGETS:
            target = ext.get("valueReference", {}).get("reference", "")
            wanted = _TARGETS[ext["url"]]
            if target not in by_url or by_url[target].resource["resourceType"] not in wanted:
                fault("not-found", f"extension[{place}]", f"It must point at a {wanted[0]} sent along.")
    return issues


def _subject_faults(sent: Sequence[Sent], request: Sent) -> list[Issue]:
    """One patient across everything that was sent."""
    patients = [s for s in sent if s.resource["resourceType"] == "Patient"]
    subject = request.resource.get("subject", {}).get("reference", "")
    issues = [
        Issue("error", "business-rule", other.path, "A request is about one patient; send the others on their own.")
        for other in patients
        if other.full_url != subject
    ]
    for item in sent:
        for element in ("subject", "patient", "beneficiary", "for"):
            target = item.resource.get(element, {})
            reference = target.get("reference", "") if isinstance(target, dict) else ""
            if reference and item is not request and reference != subject:
                issues.append(Issue("error", "business-rule", f"{item.path}.{element}", "It is about somebody else."))
    return issues


def digest(sent: Sequence[Sent]) -> str:
    """A hash of the content, whatever the door and the order: without ids, meta, narrative and citing names."""
    return _hash("".join(sorted(names(sent).values())))


def names(sent: Sequence[Sent]) -> dict[str, str]:
    """A name by content for each resource, by its fullUrl.

    Each is the hash of its content, in rounds, until the names of what it cites are in it too.
    """
    found: dict[str, str] = {s.full_url: "-" for s in sent}
    for _ in range(_ROUNDS):
        found = {s.full_url: _hash(codec.dumps(_ordered(_content(s.resource, found.get)))) for s in sent}
    return found


_ROUNDS = 4  # request → role → practitioner and organisation → parent organisation


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _content(resource: Resource, label: Callable[[str], str | None]) -> Resource:
    without = {k: v for k, v in resource.items() if k not in ("id", "meta", "text")}
    result: Resource = refs.rewritten(without, label)
    return result


def _ordered(value: object) -> object:
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_ordered(child) for child in value]
    return value


def adoption(request: Resource, url: str, requester: Resource) -> Resource:
    """The order by which we take on a proposal: basedOn it, same requisition; its intent never changes."""
    kept = ("extension", "requisition", "category", "priority", "code", "orderDetail", "subject", "performerType",
            "performer", "reasonCode", "reasonReference", "insurance", "supportingInfo")  # fmt: skip
    return compose(
        "ServiceRequest",
        meta={"profile": [codes.REQUEST_PROFILE]},
        **{name: request.get(name) for name in kept},
        status="active",
        intent="order",
        basedOn=[{"reference": url}],
        requester=requester,
    )
