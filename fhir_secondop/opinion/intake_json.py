"""Plain JSON (profiles/schemas/second-opinion-request.json) → the transaction Bundle that a FHIR sender would post.

From there on the three doors are one.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.compose import compose

Plain = dict[str, Any]


def to_bundle(plain: Plain) -> Resource:
    """The transaction Bundle of a request that satisfies the schema. Raises Invalid on a key that names nothing."""
    _check_keys(plain)
    entries: dict[str, Resource] = {}

    def add(key: str, resource: Resource) -> None:
        entries[urn(key)] = resource

    for key, organization in plain["organizations"].items():
        add(f"organization/{key}", _organization(organization))
    for key, provider in plain["providers"].items():
        add_provider(add, key, provider)
    add("patient", _patient(plain))
    reviewed: list[tuple[str, Plain]] = []
    for place, item in enumerate(plain.get("underReview", [])):
        key = f"item/{place}"
        reviewed.append((key, item))
        add(key, _condition(item) if item["kind"] == "diagnosis" else _care_plan(item))
    if "decision" in plain:
        add("decision", _decision(plain["decision"]))
    if plain.get("questions"):
        add("questions", _questions(plain))
    for place, insurance in enumerate(plain.get("insurance", [])):
        add(f"insurance/{place}", _coverage(insurance))
    if "consent" in plain:
        add("consent", consent(plain["consent"], _ref("patient"), _ref))
    add("request", _request(plain, reviewed))
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}
            for url, resource in entries.items()
        ],
    }


def urn(key: str) -> str:
    """The fullUrl of a part of a plain request."""
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, codes.CANONICAL + '/' + key)}"


def _ref(key: str) -> Resource:
    return {"reference": urn(key)}


def _role(key: str) -> Resource:
    return _ref("patient" if key == "patient" else f"role/{key}")


def _check_keys(plain: Plain) -> None:
    providers, organizations = set(plain["providers"]), set(plain["organizations"])
    wanted: list[tuple[str, str, set[str]]] = [("requester", plain["requester"], providers | {"patient"})]
    wanted += [(name, plain[name], providers) for name in ("pcp", "reviewer") if name in plain]
    wanted += [(f"sources[{i}]", key, organizations) for i, key in enumerate(plain.get("sources", []))]
    wanted += [(f"inform[{i}]", key, providers) for i, key in enumerate(plain.get("inform", []))]
    wanted += [
        (f"underReview[{i}].author", item["author"], providers)
        for i, item in enumerate(plain.get("underReview", []))
        if "author" in item
    ]
    wanted += [(f"providers.{k}.organization", p["organization"], organizations) for k, p in plain["providers"].items()]
    wanted += [
        (f"organizations.{k}.partOf", o["partOf"], organizations)
        for k, o in plain["organizations"].items()
        if "partOf" in o
    ]
    if "decision" in plain:
        wanted.append(("decision.owner", plain["decision"]["owner"], providers))
    wanted += [
        (f"insurance[{i}].payer", one["payer"], organizations) for i, one in enumerate(plain.get("insurance", []))
    ]
    wanted += [
        (f"consent.except[{i}]", key, organizations) for i, key in enumerate(plain.get("consent", {}).get("except", []))
    ]
    if "patient" in providers:
        raise Invalid('No provider may have the key "patient".', path="providers.patient")
    issues = [
        Issue("error", "not-found", path, "This key is not defined; known are " + ", ".join(sorted(known)) + ".")
        for path, key, known in wanted
        if key not in known
    ]
    if issues:
        raise Invalid(f"{len(issues)} key(s) name nothing; nothing was stored.", issues=issues)


def _organization(plain: Plain) -> Resource:
    return compose(
        "Organization",
        identifier=[plain["identifier"]] if "identifier" in plain else None,
        name=plain["name"],
        telecom=_telecom(plain),
        partOf=_ref(f"organization/{plain['partOf']}") if "partOf" in plain else None,
    )


def add_provider(add: Any, key: str, plain: Plain) -> None:
    """Adds the Practitioner and the PractitionerRole of a provider under "practitioner/key" and "role/key"."""
    identifiers = [*plain.get("identifier", [])]
    if "npi" in plain:
        identifiers.insert(0, {"system": codes.NPI, "value": plain["npi"]})
    name = {"family": plain["family"], "given": plain.get("given"), "prefix": [plain["prefix"]] if "prefix" in plain
            else None}  # fmt: skip
    add(
        f"practitioner/{key}",
        compose(
            "Practitioner", identifier=identifiers, name=[{k: v for k, v in name.items() if v}], telecom=_telecom(plain)
        ),
    )
    add(
        f"role/{key}",
        compose(
            "PractitionerRole",
            practitioner=_ref(f"practitioner/{key}"),
            organization=_ref(f"organization/{plain['organization']}"),
            specialty=[{"coding": [plain["specialty"]]}] if "specialty" in plain else None,
        ),
    )


def _telecom(plain: Plain) -> list[Resource]:
    return [{"system": kind, "value": plain[kind]} for kind in ("phone", "email") if kind in plain]


def _patient(plain: Plain) -> Resource:
    sent = plain["patient"]
    return compose(
        "Patient",
        identifier=sent["identifier"],
        name=[{"family": sent["family"], **({"given": sent["given"]} if sent.get("given") else {})}],
        telecom=_telecom(sent),
        gender=sent["gender"],
        birthDate=sent["birthDate"],
        address=[{"use": "home", **sent["address"]}] if sent.get("address") else None,
        communication=[{"language": _language(sent["language"]), "preferred": True}] if "language" in sent else None,
        generalPractitioner=[_role(plain["pcp"])] if "pcp" in plain else None,
    )


_TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")


def _language(said: str) -> Resource:
    return codes.concept(codes.LANGUAGE, said) if _TAG.fullmatch(said) else {"text": said}


def _coverage(insurance: Plain) -> Resource:
    plan = codes.concept(codes.COVERAGE_CLASS, "plan")
    return compose(
        "Coverage",
        status="active",
        beneficiary=_ref("patient"),
        subscriberId=insurance.get("memberId"),
        payor=[_ref(f"organization/{insurance['payer']}")],
        network=insurance.get("network"),
        class_=[{"type": plan, "value": insurance["plan"]}] if "plan" in insurance else None,
    )


def _condition(item: Plain) -> Resource:
    return compose(
        "Condition",
        clinicalStatus=codes.concept("http://terminology.hl7.org/CodeSystem/condition-clinical", "active"),
        code=_coded(item),
        subject=_ref("patient"),
        recordedDate=item.get("recorded"),
        recorder=_role(item["author"]) if "author" in item else None,
    )


def _care_plan(item: Plain) -> Resource:
    return compose(
        "CarePlan",
        status="active",
        intent="plan",
        category=[_coded(item)] if "code" in item else None,
        description=item["text"],
        subject=_ref("patient"),
        created=item.get("recorded"),
        author=_role(item["author"]) if "author" in item else None,
    )


def _coded(item: Plain) -> Resource:
    return {**({"coding": [item["code"]]} if "code" in item else {}), "text": item["text"]}


def _decision(decision: Plain) -> Resource:
    return compose(
        "ServiceRequest",
        status="active",
        intent="plan",
        code=_coded(decision),
        subject=_ref("patient"),
        occurrenceDateTime=decision.get("deadline"),
        requester=_role(decision["owner"]),
    )


def _questions(plain: Plain) -> Resource:
    return compose(
        "QuestionnaireResponse",
        status="completed",
        subject=_ref("patient"),
        item=[
            {"linkId": f"question-{n}", "text": f"Question {n}", "answer": [{"valueString": question}]}
            for n, question in enumerate(plain["questions"], 1)
        ],
    )


def consent(plain: Plain, patient: Resource, ref: Any) -> Resource:
    """The Consent of a plain decision; `ref(key)` gives the reference of "organization/key"."""
    opposite = "permit" if plain["decision"] == "deny" else "deny"
    exceptions = [
        {
            "type": opposite,
            "actor": [{"role": codes.concept(codes.PARTICIPATION, "PRCP"), "reference": ref(f"organization/{key}")}],
        }
        for key in plain.get("except", [])
    ]
    return compose(
        "Consent",
        status="active",
        scope=codes.concept("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy"),
        category=[codes.concept(codes.LOINC, "64292-6")],
        patient=patient,
        dateTime=plain["date"],
        policyRule=codes.concept(codes.ACT_CODE, "OPTIN" if plain["decision"] == "permit" else "OPTOUT"),
        provision={"type": plain["decision"], **({"provision": exceptions} if exceptions else {})},
    )


def _request(plain: Plain, reviewed: list[tuple[str, Plain]]) -> Resource:
    extensions: list[Resource] = []
    if "pathway" in plain:
        extensions.append(
            {"url": codes.PATHWAY_EXTENSION, "valueCodeableConcept": codes.concept(codes.PATHWAY, plain["pathway"])}
        )
    if plain.get("blindFirst"):
        extensions.append({"url": codes.BLIND_FIRST, "valueBoolean": True})
    if "decision" in plain:
        extensions.append({"url": codes.DECISION_UNDER_REVIEW, "valueReference": _ref("decision")})
        if "deadline" in plain["decision"]:
            extensions.append({"url": codes.DECISION_DEADLINE, "valueDate": plain["decision"]["deadline"]})
        extensions.append({"url": codes.DECISION_OWNER, "valueReference": _role(plain["decision"]["owner"])})
    for key, _ in reviewed:
        # reasonReference and supportingInfo part diagnoses from plans: this keeps the order that was meant.
        extensions.append({"url": codes.ITEM_UNDER_REVIEW, "valueReference": _ref(key)})
    for key in plain.get("sources", []):
        extensions.append({"url": codes.RECORD_SOURCE, "valueReference": _ref(f"organization/{key}")})
    for key in plain.get("inform", []):
        extensions.append({"url": codes.INFORM, "valueReference": _role(key)})
    supporting = [_ref(key) for key, item in reviewed if item["kind"] == "plan"]
    supporting += [_ref("questions")] if plain.get("questions") else []
    supporting += [_ref("consent")] if "consent" in plain else []
    code = {"coding": [plain["code"]]} if "code" in plain else codes.concept(codes.SNOMED, "11429006", "Consultation")
    return compose(
        "ServiceRequest",
        meta={"profile": [codes.REQUEST_PROFILE]},
        extension=extensions,
        identifier=[{"type": codes.concept(codes.V2_IDENTIFIER_TYPE, "PLAC"), **plain["placer"]}],
        status="active",
        intent="order",
        category=[codes.concept(codes.SNOMED, "3457005", "Patient referral")],
        priority=plain.get("priority", "routine"),
        code=code,
        orderDetail=[codes.concept(codes.V2_DISPOSITION, "SO", "Second Opinion")],
        subject=_ref("patient"),
        requester=_role(plain["requester"]),
        performerType={"coding": [plain["specialty"]]} if "specialty" in plain else None,
        performer=[_role(plain["reviewer"])] if "reviewer" in plain else None,
        reasonCode=[codes.concept(codes.V2_REFERRAL_REASON, "S", "Second Opinion"), *map(_reason, plain["reasons"])],
        reasonReference=[_ref(key) for key, item in reviewed if item["kind"] == "diagnosis"],
        insurance=[_ref(f"insurance/{place}") for place, _ in enumerate(plain.get("insurance", []))],
        supportingInfo=supporting,
    )


def _reason(reason: Plain) -> Resource:
    if "code" in reason:
        return codes.concept(codes.REASON, reason["code"], text=reason.get("text", ""))
    return {"text": reason["text"]}
