"""The example cases as values: what intake, acceptance and gathering leave behind, without a store."""

from __future__ import annotations

import copy
import json
import uuid
from pathlib import Path
from typing import Any

from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, independence, intake_json, report
from fhir_secondop.opinion.case import Case, derived_id, opened, reference
from fhir_secondop.opinion.independence import Assessment, Finding

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ("breast-treatment-plan", "spine-surgery")
CASE_ID = "0b0c7d1e-6a57-4a55-9a53-6f2f3f6f9a10"
NOW = "2026-11-23T14:30:00.000Z"
STARTED = "2026-11-23T09:00:00.000Z"


def read(example: str, name: str) -> dict[str, Any]:
    """A JSON file of an example."""
    loaded: dict[str, Any] = json.loads((ROOT / "examples" / example / name).read_text("utf-8"))
    return loaded


def request_of(example: str, **changes: Any) -> dict[str, Any]:
    """The plain request of an example, with members replaced (None removes one)."""
    plain = {**read(example, "request.json"), **changes}
    return {key: value for key, value in plain.items() if value is not None}


def with_reviewer(plain: dict[str, Any], example: str) -> dict[str, Any]:
    """The request with the reviewer of the example among its providers, already asked."""
    reviewer = copy.deepcopy(read(example, "review.json")["reviewer"])
    organization = reviewer.pop("organization")
    return {
        **plain,
        "organizations": {**plain["organizations"], "the-reviewers": organization},
        "providers": {**plain["providers"], "the-reviewer": {**reviewer, "organization": "the-reviewers"}},
        "reviewer": "the-reviewer",
    }


def resources_of(plain: dict[str, Any], case_id: str = CASE_ID) -> list[Resource]:
    """The resources of a plain request as they stand in the case: every urn:uuid is a Type/id of it."""
    entries = intake_json.to_bundle(plain)["entry"]
    local = {}
    for entry in entries:
        kind = entry["resource"]["resourceType"]
        is_request = entry["fullUrl"] == intake_json.urn("request")
        local[entry["fullUrl"]] = f"{kind}/{case_id if is_request else derived_id(case_id, entry['fullUrl'])}"
    return [{**refs.rewritten(e["resource"], local.get), "id": local[e["fullUrl"]].partition("/")[2]} for e in entries]


def case_of(example: str, *more: Resource, plain: dict[str, Any] | None = None) -> Case:
    """The opened case of an example, its consultation begun, and `more` resources."""
    sent = resources_of(plain or with_reviewer(request_of(example), example))
    request = next(r for r in sent if r["id"] == CASE_ID)
    reviewer = next((p["reference"] for p in request.get("performer", [])), "")
    added = opened(request, CASE_ID, request["subject"]["reference"], NOW, reviewer)
    for resource in added:
        if resource["resourceType"] == "Encounter":
            resource |= {"status": "in-progress", "period": {"start": STARTED}}
    return Case(CASE_ID, [*sent, *added, *more])


def person_ref(key: str) -> str:
    """The reference of a provider of the request, by its key there."""
    return f"PractitionerRole/{derived_id(CASE_ID, intake_json.urn(f'role/{key}'))}"


def draft_of(example: str) -> report.Draft:
    """The draft report of an example's reviewer."""
    drafted: report.Draft = read(example, "review.json")["draft"]
    return drafted


def amended_draft_of(example: str) -> report.Draft:
    """The same after the example's amendment."""
    review = read(example, "review.json")
    return {**review["draft"], **review["amendment"]["changes"]}


STATED = independence.extension(
    Assessment((Finding("pass", "same specialty", "the first doctor"),)), attestation="", override=""
)


def composed(case: Case, draft: report.Draft, **how: Any) -> list[Resource]:
    """What the draft of the case's reviewer becomes; `how` goes to report.to_fhir."""
    given: dict[str, Any] = {
        "status": "registered", "version": 1, "reviewer": person_ref("the-reviewer"), "now": NOW, "stated": STATED,
    }  # fmt: skip
    return report.to_fhir(case, draft, **{**given, **how})


def with_report(case: Case, draft: report.Draft, **how: Any) -> Case:
    """The case with the report of a draft in it, final if nothing else is said."""
    made = composed(case, draft, **{"status": "final", **how})
    kept = {reference(r) for r in made}
    return Case(case.id, [*(r for r in case.resources if reference(r) not in kept), *made])


def signed(case: Case, draft: report.Draft) -> Case:
    """The case with a final report as the store gives it back: each resource is at version 4."""
    return Case(
        case.id,
        [{**r, "meta": {**r.get("meta", {}), "versionId": "4"}} for r in with_report(case, draft).resources],
    )


def stored(resource: Resource) -> Resource:
    """The resource as it comes back from the store: through JSON text, decimals as Decimal."""
    return codec.parse(codec.dumps(resource))


def new_uuid(name: str) -> str:
    """A UUID that is the same in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def delivery(
    owner: str, version: int = 1, *, kind: str = "deliver-report", business: str = "", status: str = "completed",
    **facts: str,
) -> Resource:  # fmt: skip
    """A delivery Task with these facts (sent, copy, ack, decision, superseded …)."""
    task: Resource = {
        "resourceType": "Task",
        "id": new_uuid(f"{owner}/{kind}/{version}"),
        "partOf": [{"reference": f"Task/{derived_id(CASE_ID, 'coordination', 1)}"}],
        "status": status,
        "intent": "order",
        "code": codes.concept(codes.TASK, kind),
        "owner": {"reference": owner},
        "input": [{"type": codes.concept(codes.EVIDENCE, "version"), "valuePositiveInt": version}],
        "output": [
            {"type": codes.concept(codes.EVIDENCE, name.replace("_", "-")), "valueString": value}
            for name, value in facts.items()
        ],
    }
    if business:
        task["businessStatus"] = codes.concept(codes.DELIVERY_STATUS, business)
    return task
