"""What a request must have, what it is recognised by, and that all doors lead to the same content."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import cases
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, refs
from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, intake, intake_json
from fhir_secondop.opinion.intake import Sent
from fhir_secondop.service.intake import sent_of_bundle, sent_of_parameters

SCHEMAS = cases.ROOT / "profiles" / "schemas"


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return loaded


def bundle_of(example: str = "breast-treatment-plan", **changes: Any) -> Resource:
    return intake_json.to_bundle(cases.request_of(example, **changes))


def resource_in(bundle: Resource, key: str) -> Resource:
    """The resource under a key of the plain request: "request", "patient", "role/pcp"."""
    found: Resource = next(e["resource"] for e in bundle["entry"] if e["fullUrl"] == intake_json.urn(key))
    return found


def path_in(bundle: Resource, key: str) -> str:
    return next(s.path for s in sent_of_bundle(bundle) if s.full_url == intake_json.urn(key))


def faults(bundle: Resource) -> dict[str, str]:
    """Expression → issue code of what intake refuses; empty when it takes the Bundle."""
    try:
        intake.check(sent_of_bundle(bundle))
    except Invalid as error:
        return {issue.expression: issue.code for issue in error.issues}
    return {}


def extension_at(request: Resource, url: str) -> tuple[int, Resource]:
    return next((n, e) for n, e in enumerate(request["extension"]) if e["url"] == url)


# --- what is a second-opinion request ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marked",
    [
        {"orderDetail": [codes.concept("http://terminology.hl7.org/CodeSystem/v2-0282", "SO")]},
        {"reasonCode": [codes.concept("http://terminology.hl7.org/CodeSystem/v2-0336", "S")]},
        {"reasonCode": [{"text": "x"}, codes.concept(codes.REASON, "pre-procedure")]},
        {"meta": {"profile": [codes.REQUEST_PROFILE]}},
    ],
    ids=["v2-0282 SO", "v2-0336 S", "our reason", "our profile"],
)  # fmt: skip
def test_any_of_four_marks_makes_a_request_one_for_a_second_opinion(marked: Resource) -> None:
    assert intake.is_second_opinion({"resourceType": "ServiceRequest", **marked})


@pytest.mark.parametrize(
    "unmarked",
    [
        {"resourceType": "ServiceRequest"},
        {"resourceType": "ServiceRequest", "code": codes.concept(codes.SNOMED, "281036007")},
        {"resourceType": "ServiceRequest", "orderDetail": [codes.concept(codes.V2_DISPOSITION, "AM")]},
        {"resourceType": "ServiceRequest", "orderDetail": [codes.concept("http://else.example", "SO")]},
        {"resourceType": "ServiceRequest", "reasonCode": [{"text": "second opinion"}]},
        {"resourceType": "Task", "reasonCode": [codes.concept(codes.REASON, "pre-procedure")]},
    ],
)
def test_other_requests_are_none_for_a_second_opinion(unmarked: Resource) -> None:
    assert not intake.is_second_opinion(unmarked)


# --- faults by path ---------------------------------------------------------------------------------------------

Change = Callable[[Resource, Resource], None]


def drop(name: str) -> Change:
    return lambda request, bundle: request.pop(name) and None


def put(name: str, value: Any) -> Change:
    return lambda request, bundle: request.__setitem__(name, value)


def wrong_pathway(request: Resource, bundle: Resource) -> None:
    extension_at(request, codes.PATHWAY_EXTENSION)[1]["valueCodeableConcept"]["coding"][0]["code"] = "hearsay"


@pytest.mark.parametrize(
    ("change", "where", "code"),
    [
        (drop("code"), "code", "required"),
        (put("status", "completed"), "status", "business-rule"),
        (put("status", "revoked"), "status", "business-rule"),
        (put("intent", "reflex-order"), "intent", "business-rule"),
        (drop("reasonCode"), "reasonCode", "required"),
        (put("subject", {"reference": "Patient/unknown"}), "subject", "not-found"),
        (put("subject", {"reference": intake_json.urn("role/pcp")}), "subject", "not-found"),
        (put("requester", {"reference": "urn:uuid:00000000-0000-0000-0000-000000000000"}), "requester", "not-found"),
        (drop("requester"), "requester", "not-found"),
        (wrong_pathway, "extension[0]", "code-invalid"),
    ],
)
def test_a_fault_of_the_request_is_named_by_its_path(change: Change, where: str, code: str) -> None:
    bundle = bundle_of()
    change(resource_in(bundle, "request"), bundle)

    assert faults(bundle)[f"{path_in(bundle, 'request')}.{where}"] == code


def test_the_request_as_it_stands_has_no_fault() -> None:
    assert faults(bundle_of()) == {}


def test_a_request_for_a_second_opinion_needs_no_order_detail() -> None:
    bundle = bundle_of()
    del resource_in(bundle, "request")["orderDetail"]

    assert faults(bundle) == {}


def test_all_faults_are_named_at_once() -> None:
    bundle = bundle_of()
    request = resource_in(bundle, "request")
    del request["code"]
    request["status"] = "completed"
    request["requester"] = {"reference": "Practitioner/nobody"}
    resource_in(bundle, "patient").pop("identifier")

    path = path_in(bundle, "request")
    assert set(faults(bundle)) >= {
        f"{path}.code", f"{path}.status", f"{path}.requester", f"{path_in(bundle, 'patient')}.identifier",
    }  # fmt: skip


def test_a_wrong_reason_of_our_system_is_refused_at_its_place_and_a_text_reason_is_taken_with_a_warning() -> None:
    wrong, text_only = bundle_of(), bundle_of()
    resource_in(wrong, "request")["reasonCode"][2]["coding"][0]["code"] = "curiosity"
    resource_in(text_only, "request")["reasonCode"] = [{"text": "I would like to be sure"}]

    assert faults(wrong)[f"{path_in(wrong, 'request')}.reasonCode[2]"] == "code-invalid"
    warnings = intake.check(sent_of_bundle(text_only)).warnings
    assert [(w.severity, w.expression) for w in warnings] == [
        ("warning", f"{path_in(text_only, 'request')}.reasonCode")
    ]


@pytest.mark.parametrize(
    ("url", "target"),
    [(codes.RECORD_SOURCE, "role/pcp"), (codes.INFORM, "organization/lakeside"), (codes.DECISION_OWNER, "patient")],
)
def test_an_extension_that_points_at_the_wrong_kind_is_named(url: str, target: str) -> None:
    bundle = bundle_of()
    place, extension = extension_at(resource_in(bundle, "request"), url)
    extension["valueReference"] = {"reference": intake_json.urn(target)}

    assert faults(bundle) == {f"{path_in(bundle, 'request')}.extension[{place}]": "not-found"}


@pytest.mark.parametrize("target", ["organization/lakeside", "item/0"])
def test_a_requester_that_can_ask_for_nothing_is_named(target: str) -> None:
    """DOMAIN section 1: requester = PractitionerRole, Patient or RelatedPerson."""
    bundle = bundle_of()
    resource_in(bundle, "request")["requester"] = {"reference": intake_json.urn(target)}

    assert f"{path_in(bundle, 'request')}.requester" in faults(bundle)


def test_no_request_and_two_requests_are_refused() -> None:
    none, two = bundle_of(), bundle_of()
    none["entry"] = [e for e in none["entry"] if e["fullUrl"] != intake_json.urn("request")]
    two["entry"].append({**two["entry"][-1], "fullUrl": "urn:uuid:11111111-1111-1111-1111-111111111111"})

    assert list(faults(none)) == ["ServiceRequest"]
    assert list(faults(two)) == [sent_of_bundle(two)[-1].path]


# --- one patient ------------------------------------------------------------------------------------------------

STRANGER = {"reference": "urn:uuid:22222222-2222-2222-2222-222222222222"}


def with_entry(bundle: Resource, resource: Resource, url: str = "urn:uuid:33333333-3333-3333-3333-333333333333") -> str:
    bundle["entry"].append({"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": "x"}})
    return sent_of_bundle(bundle)[-1].path


@pytest.mark.parametrize(
    ("kind", "element"),
    [
        ("Condition", "subject"),
        ("CarePlan", "subject"),
        ("AllergyIntolerance", "patient"),
        ("Consent", "patient"),
        ("Coverage", "beneficiary"),
        ("Task", "for"),
    ],
)
def test_a_resource_about_somebody_else_is_refused(kind: str, element: str) -> None:
    bundle = bundle_of()
    path = with_entry(bundle, {"resourceType": kind, element: STRANGER})

    assert faults(bundle) == {f"{path}.{element}": "business-rule"}


def test_a_second_patient_is_refused() -> None:
    bundle = bundle_of()
    path = with_entry(bundle, {"resourceType": "Patient", "identifier": [{"value": "2"}]})

    assert faults(bundle) == {path: "business-rule"}


def test_what_is_under_review_of_somebody_else_is_refused() -> None:
    bundle = bundle_of()
    resource_in(bundle, "item/0")["subject"] = dict(STRANGER)

    assert f"{path_in(bundle, 'item/0')}.subject" in faults(bundle)


# --- the placer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifiers", "placer"),
    [
        ([{"system": "urn:a", "value": "1"}, {"type": codes.concept(codes.V2_IDENTIFIER_TYPE, "PLAC"),
                                             "system": "urn:b", "value": "2"}], "urn:b|2"),
        ([{"system": "urn:a", "value": "1"}, {"system": "urn:b", "value": "2"}], "urn:a|1"),
        ([{"value": "1"}], "|1"),
        ([{"system": "urn:a"}], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_the_placer_number_is_the_one_typed_plac_else_the_first(identifiers: list[Resource], placer: str) -> None:
    bundle = bundle_of()
    resource_in(bundle, "request")["identifier"] = identifiers

    assert intake.check(sent_of_bundle(bundle)).placer == placer


# --- digest -----------------------------------------------------------------------------------------------------


def renamed(sent: list[Sent], seed: random.Random) -> list[Sent]:
    """The same content: other names, other order, other ids, metas and narratives."""
    new_name = {s.full_url: f"urn:uuid:{seed.getrandbits(128):032x}" for s in sent}
    changed = []
    for s in sent:
        resource = refs.rewritten(s.resource, new_name.get)
        keys = list(resource)
        seed.shuffle(keys)
        resource = {key: resource[key] for key in keys}
        resource["id"] = f"{seed.getrandbits(32):x}"
        resource["meta"] = {"versionId": str(seed.randint(1, 9)), "source": "urn:x"}
        resource["text"] = {"status": "generated", "div": f"<div>{seed.random()}</div>"}
        changed.append(Sent(new_name[s.full_url], resource, f"{s.path} elsewhere"))
    seed.shuffle(changed)
    return changed


@given(seed=st.integers(0, 2**32), example=st.sampled_from(cases.EXAMPLES))
@settings(max_examples=25, deadline=None)
def test_the_digest_is_the_same_whatever_the_order_names_ids_and_metas(seed: int, example: str) -> None:
    sent = sent_of_bundle(bundle_of(example))

    assert intake.digest(renamed(sent, random.Random(seed))) == intake.digest(sent)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, key))]
    if isinstance(value, list):
        return [leaf for place, child in enumerate(value) for leaf in leaves(child, (*path, place))]
    return [path]


@given(data=st.data(), example=st.sampled_from(cases.EXAMPLES))
@settings(max_examples=60, deadline=None)
def test_the_digest_differs_when_any_content_differs(data: st.DataObject, example: str) -> None:
    bundle = bundle_of(example)
    before = intake.digest(sent_of_bundle(bundle))
    entry = data.draw(st.sampled_from(bundle["entry"]))
    content = {name: value for name, value in entry["resource"].items() if name not in ("id", "meta", "text")}
    *path, last = data.draw(st.sampled_from(leaves(content)))
    place = entry["resource"]
    for step in path:
        place = place[step]
    place[last] = "something else"

    assert intake.digest(sent_of_bundle(bundle)) != before


def test_the_digest_differs_when_something_is_left_out_added_or_sent_twice() -> None:
    bundle = bundle_of()
    sent = sent_of_bundle(bundle)
    extra = Sent("urn:uuid:44444444-4444-4444-4444-444444444444", {"resourceType": "Condition"}, "x")
    twice = Sent("urn:uuid:55555555-5555-5555-5555-555555555555", sent[0].resource, "x")

    digests = {intake.digest(s) for s in (sent, sent[1:], [*sent, extra], [*sent, twice])}

    assert len(digests) == 4


def test_the_digest_differs_when_two_providers_swap_their_parts() -> None:
    """All the same strings are there, but another one decides."""
    plain = cases.request_of("breast-treatment-plan")
    swapped = {**plain, "decision": {**plain["decision"], "owner": "oncologist"},
               "underReview": [{**item, "author": "surgeon" if item["author"] == "oncologist" else "oncologist"}
                               for item in plain["underReview"]]}  # fmt: skip

    assert intake.digest(sent_of_bundle(intake_json.to_bundle(swapped))) != intake.digest(
        sent_of_bundle(intake_json.to_bundle(plain))
    )


def test_resources_without_a_full_url_all_count_in_the_digest() -> None:
    def sent(text: str) -> list[Sent]:
        bundle = bundle_of()
        bundle["entry"] += [{"resource": {"resourceType": "Condition", "code": {"text": text}}},
                            {"resource": {"resourceType": "Condition", "code": {"text": "the last"}}}]  # fmt: skip
        return sent_of_bundle(bundle)

    assert intake.digest(sent("one")) != intake.digest(sent("another"))


def test_the_digest_of_a_bundle_is_that_of_the_same_resources_as_parameters() -> None:
    sent = sent_of_bundle(bundle_of())
    local = {s.full_url: f"{s.resource['resourceType']}/x{place}" for place, s in enumerate(sent)}
    parts = [
        {"name": "resource", "resource": {**refs.rewritten(s.resource, local.get), "id": f"x{place}"}}
        for place, s in enumerate(sent)
    ]

    again = sent_of_parameters({"resourceType": "Parameters", "parameter": parts})

    assert intake.digest(again) == intake.digest(sent)
    assert intake.check(again).placer == intake.check(sent).placer


def test_a_number_of_any_length_has_a_digest() -> None:
    text = '{"resourceType":"Observation","valueQuantity":{"value":1234567890123456789012345}}'

    assert intake.digest([Sent("a", codec.parse(text), "x")]) != intake.digest(
        [Sent("a", codec.parse(text.replace("5}", "6}")), "x")]
    )


# --- the JSON door ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", cases.EXAMPLES)
def test_the_bundle_of_an_example_is_valid_r4_and_taken_without_a_warning(example: str) -> None:
    bundle = cases.stored(bundle_of(example))

    assert validate(bundle) == []
    assert intake.check(sent_of_bundle(bundle)).warnings == ()


@pytest.mark.parametrize("example", cases.EXAMPLES)
def test_the_bundle_of_a_request_with_every_member_is_valid_r4(example: str) -> None:
    plain = cases.with_reviewer(cases.request_of(example), example)
    plain["patient"] |= {"language": "de", "phone": "555-0100", "email": "a@b.example"}
    plain["consent"] = {"decision": "permit", "date": "2026-11-20", "except": [plain["sources"][0]]}
    plain["organizations"][plain["sources"][0]]["partOf"] = plain["sources"][1]
    plain["code"] = {"system": "urn:x", "code": "y", "display": "z"}
    assert list(Draft202012Validator(schema("second-opinion-request")).iter_errors(plain)) == []

    bundle = cases.stored(intake_json.to_bundle(plain))

    assert [issue for issue in validate(bundle) if issue.severity == "error"] == []
    assert faults(bundle) == {}


@pytest.mark.parametrize("example", cases.EXAMPLES)
def test_every_text_of_the_plain_request_arrives_in_the_bundle(example: str) -> None:
    plain = cases.with_reviewer(cases.request_of(example), example)
    keys = {*plain["organizations"], *plain["providers"], "patient"}
    written = set(strings(intake_json.to_bundle(plain)))

    assert {text for text in strings(plain) if text not in keys} - {"diagnosis", "plan"} <= written


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for child in value.values() for s in strings(child)]
    if isinstance(value, list):
        return [s for child in value for s in strings(child)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("example", cases.EXAMPLES)
def test_items_under_review_keep_their_places(example: str) -> None:
    """The draft report names an item by its place in underReview, so the case must count them the same way."""
    plain = cases.request_of(example)

    texts = [item.get("description") or item["code"]["text"] for item in cases.case_of(example).items]

    assert texts == [item["text"] for item in plain["underReview"]]


@pytest.mark.parametrize("example", cases.EXAMPLES)
def test_questions_keep_their_order(example: str) -> None:
    assert cases.case_of(example).questions == cases.request_of(example)["questions"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"requester": "nobody"}, "requester"),
        ({"pcp": "nobody"}, "pcp"),
        ({"pcp": "patient"}, "pcp"),
        ({"reviewer": "nobody"}, "reviewer"),
        ({"sources": ["lakeside", "nowhere"]}, "sources[1]"),
        ({"sources": ["surgeon"]}, "sources[0]"),
        ({"inform": ["nobody"]}, "inform[0]"),
        ({"decision": {"text": "x", "owner": "nobody"}}, "decision.owner"),
        ({"underReview": [{"kind": "plan", "text": "x", "author": "nobody"}]}, "underReview[0].author"),
        ({"consent": {"decision": "deny", "date": "2026-11-20", "except": ["nowhere"]}}, "consent.except[0]"),
        ({"organizations": {"riverside": {"name": "x", "partOf": "nowhere"}, "lakeside": {"name": "y"},
                            "hillcrest": {"name": "z"}}}, "organizations.riverside.partOf"),
    ],
)  # fmt: skip
def test_a_key_that_names_nothing_is_named_by_its_path(change: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        intake_json.to_bundle(cases.request_of("breast-treatment-plan", **change))

    assert [issue.expression for issue in caught.value.issues] == [path]


def test_a_provider_whose_organization_is_not_there_is_named() -> None:
    plain = copy.deepcopy(cases.request_of("breast-treatment-plan"))
    plain["providers"]["surgeon"]["organization"] = "nowhere"
    plain["requester"] = "nobody"

    with pytest.raises(Invalid) as caught:
        intake_json.to_bundle(plain)

    assert {issue.expression for issue in caught.value.issues} == {"requester", "providers.surgeon.organization"}


def test_a_provider_under_the_key_patient_never_becomes_the_patient() -> None:
    """`requester: "patient"` means the patient, so no provider may have that key."""
    plain = copy.deepcopy(cases.request_of("breast-treatment-plan"))
    plain["providers"]["patient"] = plain["providers"].pop("pcp")
    plain["pcp"] = plain["requester"] = "patient"

    with pytest.raises(Invalid):
        intake_json.to_bundle(plain)


# --- the published schemas --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["second-opinion-request", "report-draft"])
def test_the_schema_is_valid_draft_2020_12(name: str) -> None:
    assert schema(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("example", cases.EXAMPLES)
def test_the_schemas_take_the_examples(example: str) -> None:
    request, draft = schema("second-opinion-request"), schema("report-draft")

    assert list(Draft202012Validator(request).iter_errors(cases.request_of(example))) == []
    assert list(Draft202012Validator(draft).iter_errors(cases.draft_of(example))) == []
    assert list(Draft202012Validator(draft).iter_errors(cases.amended_draft_of(example))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"placer": None},
        {"reasons": []},
        {"reasons": [{}]},
        {"reasons": [{"code": "curiosity"}]},
        {"priority": "soon"},
        {"pathway": "hearsay"},
        {"unknown": 1},
        {"patient": {"family": "X", "birthDate": "1971", "gender": "female", "identifier": []}},
    ],
)
def test_the_request_schema_refuses(change: dict[str, Any]) -> None:
    plain = cases.request_of("breast-treatment-plan", **change)

    assert list(Draft202012Validator(schema("second-opinion-request")).iter_errors(plain)) != []


def test_the_schemas_list_the_codes_of_the_program() -> None:
    request, draft = schema("second-opinion-request")["properties"], schema("report-draft")["properties"]
    item = draft["items"]["items"]
    condition = item["allOf"][0]

    assert request["reasons"]["items"]["properties"]["code"]["enum"] == list(codes.REASONS)
    assert request["pathway"]["enum"] == list(codes.PATHWAYS)
    assert item["properties"]["significance"]["enum"] == list(codes.SIGNIFICANCES)
    assert condition["then"]["properties"]["concordance"]["enum"] == list(codes.DIAGNOSIS_CODES)
    assert condition["else"]["properties"]["concordance"]["enum"] == list(codes.TREATMENT_CODES)
