"""What R4 says of Bundles in words: identities, entries of each kind, documents and messages that are whole."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.fhir.validate import validate

Json = dict[str, Any]
BASE = "http://example.org/fhir"
PATIENT: Json = {"resourceType": "Patient", "id": "1"}
GROUP: Json = {"resourceType": "Basic", "id": "b", "code": {"text": "x"}, "subject": {"reference": "Patient/1"}}
COMPOSITION: Json = {
    "resourceType": "Composition", "id": "c", "status": "final", "type": {"text": "x"}, "date": "2026-11-23",
    "title": "x", "subject": {"reference": "Patient/1"}, "author": [{"reference": "Practitioner/1"}],
    "section": [{"title": "x", "entry": [{"reference": "Basic/b"}]}],
}  # fmt: skip
AUTHOR: Json = {"resourceType": "Practitioner", "id": "1"}
HEADER: Json = {
    "resourceType": "MessageHeader", "id": "m", "eventCoding": {"system": "http://example.org/e", "code": "x"},
    "source": {"endpoint": "http://example.org"}, "focus": [{"reference": "Patient/1"}],
}  # fmt: skip


def entry(resource: Json, **more: Any) -> Json:
    return {"fullUrl": f"{BASE}/{resource['resourceType']}/{resource['id']}", "resource": resource, **more}


def bundle(kind: str, *entries: Json, **more: Any) -> Json:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries), **more}


def document(*resources: Json) -> Json:
    return bundle(
        "document", *map(entry, resources), timestamp="2026-11-23T09:30:00Z",
        identifier={"system": "urn:ietf:rfc3986", "value": "urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3b"},
    )  # fmt: skip


def faults(resource: Json) -> list[tuple[str, str]]:
    return [(i.code, i.expression) for i in validate(resource)]


REQUEST = {"method": "POST", "url": "Patient"}
RESPONSE = {"status": "200"}


@pytest.mark.parametrize(
    "resource",
    [
        bundle("collection", entry(PATIENT)),
        bundle("transaction", {"resource": {"resourceType": "Patient"}, "request": REQUEST}),
        bundle("transaction", {**entry(PATIENT), "resource": {"resourceType": "Patient"}, "request": REQUEST}),
        bundle("history", entry(PATIENT, request=REQUEST, response=RESPONSE)),
        bundle("searchset", entry(PATIENT), total=1),
        bundle("collection", {"fullUrl": "urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3b", "resource": PATIENT}),
        document(COMPOSITION, PATIENT, AUTHOR, GROUP),
        bundle("message", entry(HEADER), entry(PATIENT)),
    ],
)
def test_a_bundle_as_r4_has_it_is_let_through(resource: Json) -> None:
    assert faults(resource) == []


@pytest.mark.parametrize(
    ("resource", "fault"),
    [
        (bundle("collection", entry(PATIENT, request=REQUEST)), ("structure", "Bundle.entry[0].request")),
        (bundle("searchset", entry(PATIENT, response=RESPONSE)), ("structure", "Bundle.entry[0].response")),
        (bundle("history", entry(PATIENT, request=REQUEST)), ("required", "Bundle.entry[0].response")),
        (bundle("searchset", {"fullUrl": f"{BASE}/Patient/1", "search": {"mode": "match"}}),
         ("required", "Bundle.entry[0].resource")),
        (bundle("collection", {"resource": PATIENT}), ("required", "Bundle.entry[0].fullUrl")),
        (bundle("collection", {"fullUrl": "Patient/1", "resource": PATIENT}), ("value", "Bundle.entry[0].fullUrl")),
        (bundle("collection", {"fullUrl": f"{BASE}/Patient/2", "resource": PATIENT}),
         ("value", "Bundle.entry[0].fullUrl")),
        (bundle("collection", {"fullUrl": f"{BASE}/Group/1", "resource": PATIENT}),
         ("value", "Bundle.entry[0].fullUrl")),
        (document(), ("invariant", "Bundle.entry[0].resource")),
        (document(COMPOSITION, AUTHOR, GROUP), ("not-found", "Bundle.entry[0].resource.subject")),
        (document(COMPOSITION, PATIENT, GROUP), ("not-found", "Bundle.entry[0].resource.author")),
        (document(COMPOSITION, PATIENT, AUTHOR), ("not-found", "Bundle.entry[0].resource.section")),
        (document(COMPOSITION, PATIENT, AUTHOR, GROUP, {**PATIENT, "id": "stranger"}),
         ("invalid", "Bundle.entry[4]")),
        (bundle("message", entry(HEADER)), ("not-found", "Bundle.entry[0].resource.focus")),
    ],
)  # fmt: skip
def test_a_bundle_that_r4_does_not_have_is_named_with_its_place(resource: Json, fault: tuple[str, str]) -> None:
    assert fault in faults(resource)


def test_what_points_at_the_document_from_within_belongs_to_it() -> None:
    """Nothing that is cited leads to the Basic, but it leads to the patient."""
    cited = {**COMPOSITION, "section": [{"title": "x", "text": {"status": "generated", "div": _div("x")}}]}
    assert faults(document(cited, PATIENT, AUTHOR, GROUP)) == []


def _div(text: str) -> str:
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{text}</div>'


def test_a_reference_in_a_bundle_is_read_from_the_address_of_its_own_entry() -> None:
    """Source: https://hl7.org/fhir/R4/bundle.html#references"""
    elsewhere = document(COMPOSITION, PATIENT, AUTHOR, GROUP)
    elsewhere["entry"][1]["fullUrl"] = "http://other.example.org/fhir/Patient/1"
    assert ("not-found", "Bundle.entry[0].resource.subject") in faults(elsewhere)


def test_what_a_urn_names_is_of_a_type_that_the_element_takes() -> None:
    other = "urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3a"
    observation = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}

    def sent(resource_type: str, **more: Any) -> Json:
        subject = {"resourceType": resource_type, "active": True}
        asking = {**observation, "subject": {"reference": other}, **more}
        return {"resourceType": "Bundle", "type": "transaction", "entry": [
            {"fullUrl": "urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3b", "resource": asking,
             "request": {"method": "POST", "url": "Observation"}},
            {"fullUrl": other, "resource": subject, "request": {"method": "POST", "url": resource_type}},
        ]}  # fmt: skip

    assert validate(sent("Patient")) == []
    (issue,) = validate(sent("Practitioner"))
    assert (issue.code, issue.expression) == ("value", "Bundle.entry[0].resource.subject.reference")
    inside = {"resourceType": "Observation", "id": "a", **observation, "subject": {"reference": other}}
    (issue,) = validate(sent("Practitioner", subject={"display": "x"}, contained=[inside],
                             hasMember=[{"reference": "#a"}]))  # fmt: skip
    assert issue.expression == "Bundle.entry[0].resource.contained[0].subject.reference"
