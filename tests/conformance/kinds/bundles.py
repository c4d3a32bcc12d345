"""Rules of Bundles: what an entry has in each type, its address, and what stands first.

Source: https://hl7.org/fhir/R4/bundle.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.conformance.kinds import Kind
from tests.conformance.nodes import Example, Json, Site, site
from tests.conformance.notation import Number

BASE = "http://x.example/fhir/"
STAMP = "2024-02-29T10:00:00Z"
IDENTIFIER = {"system": "urn:ietf:rfc:3986", "value": "urn:uuid:6f9a0c8e-1f5c-4b5e-9d5c-0f6f5d1c2b3a"}
PATIENT: Json = {"resourceType": "Patient", "id": "1", "active": True}
PRACTITIONER: Json = {"resourceType": "Practitioner", "id": "2", "active": True}
COMPOSITION: Json = {
    "resourceType": "Composition", "id": "3", "status": "final", "type": {"text": "x"},
    "subject": {"reference": "Patient/1"}, "date": STAMP, "author": [{"reference": "Practitioner/2"}], "title": "x",
}  # fmt: skip
MESSAGE: Json = {
    "resourceType": "MessageHeader", "id": "4", "eventUri": "http://x.example/event",
    "source": {"endpoint": "http://x.example"}, "focus": [{"reference": "Patient/1"}],
}  # fmt: skip
PUT, POST = {"method": "PUT", "url": "Patient/1"}, {"method": "POST", "url": "Patient"}
CREATED = {"status": "201 Created", "location": "Patient/1/_history/1", "etag": 'W/"1"', "lastModified": STAMP}


def entry(resource: Json, **more: Any) -> Json:
    return {"fullUrl": f"{BASE}{resource['resourceType']}/{resource['id']}", "resource": resource, **more}


def bundle(kind: str, *entries: Any, **more: Any) -> Json:
    return {"resourceType": "Bundle", "type": kind, **more, "entry": list(entries)}


def without(value: Json, *names: str) -> Json:
    return {key: item for key, item in value.items() if key not in names}


def document(*entries: Json, **more: Any) -> Json:
    entries = entries or (entry(COMPOSITION), entry(PATIENT), entry(PRACTITIONER))
    return bundle("document", *entries, **{"identifier": IDENTIFIER, "timestamp": STAMP, **more})


SEARCHED = {"mode": "match"}
URN = "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"

GOOD: dict[str, Json] = {
    "collection": bundle("collection", entry(PATIENT), entry(PRACTITIONER)),
    "collection, empty": without(bundle("collection"), "entry"),
    "document": document(),
    "message": bundle("message", entry(MESSAGE), entry(PATIENT)),
    "transaction": bundle("transaction", entry(PATIENT, request=PUT), {"resource": without(PRACTITIONER, "id"),
        "fullUrl": URN, "request": {"method": "POST", "url": "Practitioner"}}),
    "transaction, conditional": bundle("transaction", {"resource": without(PATIENT, "id"), "fullUrl": URN,
        "request": {**POST, "ifNoneExist": "identifier=http://x.example|1"}}),
    "transaction without fullUrl": bundle("transaction", {"resource": PATIENT, "request": PUT}),
    "batch": bundle("batch", {"request": {"method": "GET", "url": "Patient/1"}}),
    "delete": bundle("transaction", {"request": {"method": "DELETE", "url": "Patient/1"}}),
    "transaction-response": bundle("transaction-response", {"response": CREATED}),
    "batch-response": bundle("batch-response", {"response": {"status": "404"}}, {"response": {"status": "200"},
        "resource": PATIENT}),
    "history": bundle("history", entry({**PATIENT, "meta": {"versionId": "2"}}, request=PUT,
        response={"status": "200"}), entry({**PATIENT, "meta": {"versionId": "1"}}, request=POST, response=CREATED),
        total=Number("2")),
    "searchset": bundle("searchset", entry(PATIENT, search=SEARCHED), entry(PRACTITIONER, search={"mode": "include"}),
        total=Number("1"), link=[{"relation": "self", "url": BASE + "Patient"}]),
    "searchset without entries": without(bundle("searchset", total=Number("0")), "entry"),
    "two versions of one": bundle("collection", entry({**PATIENT, "meta": {"versionId": "1"}}),
        entry({**PATIENT, "meta": {"versionId": "2"}})),
    "fullUrl a uuid": bundle("collection", {"fullUrl": URN, "resource": without(PATIENT, "id")}),
    "fullUrl an oid": bundle("collection", {"fullUrl": "urn:oid:1.2.3", "resource": without(PATIENT, "id")}),
    "document with absolute references": document(entry({**COMPOSITION, "subject": {"reference": BASE + "Patient/1"}}),
        entry(PATIENT), entry(PRACTITIONER)),
    "reference by uuid": bundle("collection", {"fullUrl": URN, "resource": without(PATIENT, "id")},
        entry({"resourceType": "Basic", "id": "5", "code": {"text": "x"}, "subject": {"reference": URN}})),
}  # fmt: skip

# R4 has no invariant against these.
ODD: dict[str, Json] = {
    "POST without resource": bundle("transaction", {"request": POST}),
    "PUT without resource": bundle("transaction", {"request": PUT}),
    "GET with resource": bundle("transaction", entry(PATIENT, request={"method": "GET", "url": "Patient/1"})),
    "id twice in entries": bundle("collection", {**entry(PATIENT), "fullUrl": "http://a.example/fhir/Patient/1"},
        {**entry(PATIENT), "fullUrl": "http://b.example/fhir/Patient/1"}),
    "resource of a type alone": bundle("collection", {"fullUrl": URN, "resource": {"resourceType": "Patient"}}),
}  # fmt: skip

BAD: dict[str, Json] = {
    "total in a collection": {**GOOD["collection"], "total": Number("2")},
    "total in a transaction": {**GOOD["transaction"], "total": Number("2")},
    "search in a collection": bundle("collection", entry(PATIENT, search=SEARCHED)),
    "search in a history": bundle("history", entry(PATIENT, search=SEARCHED, request=PUT, response=CREATED)),
    "request in a collection": bundle("collection", entry(PATIENT, request=PUT)),
    "request in a searchset": bundle("searchset", entry(PATIENT, request=PUT)),
    "request in a document": document(entry(COMPOSITION, request=PUT), entry(PATIENT), entry(PRACTITIONER)),
    "no request in a transaction": bundle("transaction", entry(PATIENT)),
    "no request in a batch": bundle("batch", entry(PATIENT)),
    "no request in a history": bundle("history", entry(PATIENT, response=CREATED)),
    "one request missing": bundle("transaction", entry(PATIENT, request=PUT), entry(PRACTITIONER)),
    "response in a collection": bundle("collection", entry(PATIENT, response=CREATED)),
    "response in a transaction": bundle("transaction", entry(PATIENT, request=PUT, response=CREATED)),
    "no response in a transaction-response": bundle("transaction-response", entry(PATIENT)),
    "no response in a batch-response": bundle("batch-response", entry(PATIENT)),
    "no response in a history": bundle("history", entry(PATIENT, request=PUT)),
    "entry of a fullUrl alone": bundle("collection", {"fullUrl": BASE + "Patient/1"}),
    "entry of a link alone": bundle("collection", {"link": [{"relation": "self", "url": BASE}]}),
    "fullUrl twice": bundle("collection", entry(PATIENT), entry(PATIENT)),
    "fullUrl twice in a document": document(entry(COMPOSITION), entry(PATIENT), entry(PATIENT), entry(PRACTITIONER)),
    "fullUrl twice, two types": bundle("collection", {"fullUrl": URN, "resource": without(PATIENT, "id")},
        {"fullUrl": URN, "resource": without(PRACTITIONER, "id")}),
    "fullUrl of a version": bundle("collection", {**entry(PATIENT), "fullUrl": BASE + "Patient/1/_history/1"}),
    "fullUrl of another id": bundle("collection", {**entry(PATIENT), "fullUrl": BASE + "Patient/2"}),
    "fullUrl of another type": bundle("collection", {**entry(PATIENT), "fullUrl": BASE + "Practitioner/1"}),
    "fullUrl relative": bundle("collection", {**entry(PATIENT), "fullUrl": "Patient/1"}),
    "fullUrl missing in a collection": bundle("collection", {"resource": PATIENT}),
    "fullUrl missing in a document": document(entry(COMPOSITION), entry(PATIENT), {"resource": PRACTITIONER}),
    "fullUrl missing in a message": bundle("message", {"resource": MESSAGE}, entry(PATIENT)),
    "fullUrl missing in a searchset": bundle("searchset", {"resource": PATIENT, "search": SEARCHED}),
    "document without identifier": without(document(), "identifier"),
    "document, identifier without system": document(identifier={"value": "x"}),
    "document without timestamp": without(document(), "timestamp"),
    "document without Composition": document(entry(PATIENT)),
    "document, Composition second": document(entry(PATIENT), entry(COMPOSITION), entry(PRACTITIONER)),
    "document without entries": without(document(), "entry"),
    "message without MessageHeader": bundle("message", entry(PATIENT)),
    "message, header second": bundle("message", entry(PATIENT), entry(MESSAGE)),
    "no type": without(bundle("collection", entry(PATIENT)), "type"),
    "unknown type": bundle("envelope", entry(PATIENT)),
    "document lacks the subject": document(entry(COMPOSITION), entry(PRACTITIONER)),
    "document lacks the author": document(entry(COMPOSITION), entry(PATIENT)),
    "document with a stranger": document(entry(COMPOSITION), entry(PATIENT), entry(PRACTITIONER),
        entry({"resourceType": "Basic", "id": "5", "code": {"text": "x"}})),
    "message lacks the focus": bundle("message", entry(MESSAGE)),
    "reference to another type in the Bundle": bundle("collection",
        {"fullUrl": URN, "resource": without(PRACTITIONER, "id")},
        entry({"resourceType": "Observation", "id": "5", "status": "final", "code": {"text": "x"},
               "subject": {"reference": URN}})),
    "invalid resource in an entry": bundle("collection", entry({**PATIENT, "gender": "m"})),
    "no resource in an entry": bundle("collection", {"fullUrl": BASE + "Patient/1", "resource": {}}),
    "request without method": bundle("transaction", {"request": {"url": "Patient/1"}}),
    "request without url": bundle("transaction", {"request": {"method": "GET"}}),
    "unknown method": bundle("transaction", {"request": {"method": "get", "url": "Patient/1"}}),
    "response without status": bundle("batch-response", {"response": {"etag": 'W/"1"'}}),
    "link without relation": bundle("searchset", link=[{"url": BASE}]),
    "unknown search mode": bundle("searchset", entry(PATIENT, search={"mode": "found"})),
    "score as text": bundle("searchset", entry(PATIENT, search={"mode": "match", "score": "1"})),
    "empty entries": bundle("collection"),
    "null entry": bundle("collection", None),
}  # fmt: skip


def instead(value: Json) -> Callable[[Example], Iterator[Site]]:
    """The Bundle stands for itself: only the first example, whatever it is, makes room for it."""

    def sites(example: Example) -> Iterator[Site]:
        def edit(resource: Json) -> None:
            resource.clear()
            resource.update(value)

        yield Site("Bundle", "Bundle", edit)

    return sites


def in_example(name: str, change: Callable[[Json], Any]) -> Kind:
    def sites(example: Example) -> Iterator[Site]:
        for node in example.nodes:
            if node.type == "Bundle":
                yield site(node, str(node.value.get("type")), change)

    return Kind("bundle", name, 12, sites, valid=None)


def other_type(kind: str) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target["type"] = kind

    return edit


def first_away(target: Json) -> None:
    target["entry"] = target.get("entry", ())[1:]


def first_again(target: Json) -> None:
    target["entry"] = [*target.get("entry", ()), *target.get("entry", ())[:1]]


KINDS = [
    *(Kind("bundle", name, 1, instead(value)) for name, value in BAD.items()),
    *(Kind("harmless: bundle", name, 1, instead(value), valid=True) for name, value in GOOD.items()),
    *(Kind("harmless: bundle", name, 1, instead(value), valid=None) for name, value in ODD.items()),
    *(in_example(f"of another type: {t}", other_type(t)) for t in ("collection", "document", "message", "transaction",
      "batch", "history", "searchset", "batch-response", "transaction-response")),
    in_example("first entry away", first_away),
    in_example("first entry again", first_again),
]  # fmt: skip
