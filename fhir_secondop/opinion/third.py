"""A third opinion: a request of its own, linked to the first; its reviewer is independent of both and blind to both."""

from __future__ import annotations

from typing import Any

from fhir_secondop.fhir import refs
from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, codes, report
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.intake import Sent

_KEPT = (
    "extension", "requisition", "category", "priority", "code", "orderDetail", "subject", "performerType", "requester",
    "reasonCode", "reasonReference", "insurance", "supportingInfo",
)  # fmt: skip
_BLIND = {"url": codes.BLIND_FIRST, "valueBoolean": True}


def suggested(case: Case) -> str:
    """Why a third opinion is suggested, "" when it is not: it may always be asked for."""
    if case.report is None or case.report["status"] == "entered-in-error":
        return ""
    total = case.find("Observation", derived_id(case.id, "overall")) or {}
    if codes.has(total.get("valueCodeableConcept"), codes.OVERALL_CONCORDANCE, "discordant"):
        return "the two opinions are discordant"
    wanting = [t for t in case.deliveries if alignment.held(t).decision == "seek-third-opinion"]
    return "a provider wants to seek a third opinion" if wanting else ""


def request(case: Case, why: str, number: int, document: Resource) -> list[Sent]:
    """What opens the case of the third opinion: the request as it was, what it cites, and the second's reviewer.

    `number` counts the third opinions of this case; `document` (an Attachment) is the signed report, which is withheld
    until the first read is locked, like what is under review.
    """
    second = case.report or {}
    reviewer = str(second["performer"][0]["reference"])
    letter = compose(
        "DocumentReference",
        id="second-opinion",
        status="current",
        type=report.CODE,
        subject={"reference": reference(case.patient)},
        date=second["issued"],
        author=[{"reference": reviewer}],
        content=[{"attachment": document}],
    )
    kept: dict[str, Any] = {name: case.request.get(name) for name in _KEPT}
    extensions = [e for e in kept.pop("extension", None) or [] if e["url"] not in (codes.BLIND_FIRST, codes.EARLIER)]
    extensions += [{"url": codes.EARLIER, "valueReference": {"reference": r}} for r in (*earlier(case), reviewer)]
    kept["supportingInfo"] = [*(kept["supportingInfo"] or []), {"reference": reference(letter)}]
    kept["reasonCode"] = [*(kept["reasonCode"] or []), {"text": why}]
    made = compose(
        "ServiceRequest",
        id="third-opinion",
        meta={"profile": [codes.REQUEST_PROFILE]},
        extension=[*extensions, _BLIND],
        identifier=[{
            "type": codes.concept(codes.V2_IDENTIFIER_TYPE, "PLAC"), "system": f"{codes.CANONICAL}/third-opinion",
            "value": f"{case.id}/{number}",
        }],
        basedOn=[{"reference": reference(case.request)}],
        status="active",
        intent="order",
        **kept,
    )  # fmt: skip
    resources = [made, letter, *_cited(case, [made, letter, *case.of_type("Consent")]), *case.of_type("Consent")]
    return [
        Sent(reference(r), _bare(r), f"{r['resourceType']}[{place}]")
        for place, r in enumerate({reference(r): r for r in resources}.values())
    ]


def earlier(case: Case) -> list[str]:
    """The references of the reviewers of earlier opinions on the same question."""
    found = codes.extension_values(case.request, codes.EARLIER)
    return [str(value["reference"]) for value in found if isinstance(value, dict)]


def _cited(case: Case, begin: list[Resource]) -> list[Resource]:
    """What these cite in the case, and what that cites in turn; a case of its own is not copied."""
    known = {reference(r): r for r in case.resources}
    found: dict[str, Resource] = {}
    todo = list(begin)
    while todo:
        for text in refs.find(todo.pop()):
            cited = known.get(text)
            if cited is not None and text not in found and text != reference(case.request):
                found[text] = cited
                todo.append(cited)
    return list(found.values())


def _bare(resource: Resource) -> Resource:
    """Without the version that the store gave it."""
    meta = {k: v for k, v in resource.get("meta", {}).items() if k not in ("versionId", "lastUpdated", "source")}
    rest = {name: value for name, value in resource.items() if name != "meta"}
    return {**rest, **({"meta": meta} if meta else {})}
