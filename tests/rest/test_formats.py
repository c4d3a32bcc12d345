"""XML over HTTP, on both databases: what comes in, what goes out, and what can't be said in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lxml import etree

from fhir_secondop.errors import Malformed
from fhir_secondop.fhir.xml import from_xml
from fhir_secondop.model import Caller
from fhir_secondop.rest import formats
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.store.rows import named

XML, JSON = "application/fhir+xml", "application/fhir+json"
DESK = Caller("desk", "Desk", frozenset({"coordinator"}), ("system/*.cruds",))
OBSERVATION = b"""<?xml version="1.0" encoding="UTF-8"?>
<Observation xmlns="http://hl7.org/fhir">
  <status value="final"/>
  <code><text value="Weight"/></code>
  <valueQuantity><value value="1.10"/><unit value="kg"/></valueQuantity>
</Observation>
"""


@pytest.fixture
def client(database: Database) -> Any:
    return client_of(database, lambda request: DESK, xml=True)


def said(answer: Any) -> dict[str, Any]:
    """The resource of an answer in XML, which must be that and no other."""
    assert answer.mimetype == XML, answer.text
    assert etree.fromstring(answer.data).tag.startswith("{http://hl7.org/fhir}")
    found: dict[str, Any] = json.loads(from_xml(answer.data))
    return found


def test_what_is_sent_in_one_form_is_read_in_the_other(client: Any) -> None:
    made = client.post("/fhir/Observation", data=OBSERVATION, content_type=f"{XML}; charset=utf-8")
    assert (made.status_code, made.mimetype) == (201, JSON), made.text
    name = json.loads(made.data)["id"]
    assert '"value":1.10,' in client.get(f"/fhir/Observation/{name}").text
    read = client.get(f"/fhir/Observation/{name}", headers={"Accept": XML})
    assert b'<value value="1.10"/>' in read.data
    assert read.headers["ETag"] == 'W/"1"'
    assert "Accept" in read.headers["Vary"]
    changed = read.data.replace(b"Weight", b"Body weight")
    again = client.put(f"/fhir/Observation/{name}", data=changed, content_type=XML, headers={"Accept": XML})
    assert (again.status_code, said(again)["meta"]["versionId"]) == (200, "2")
    assert said(client.get(f"/fhir/Observation/{name}/_history?_format=xml"))["total"] == 2
    assert said(client.get(f"/fhir/Observation/{name}/_history/1?_format=xml"))["code"] == {"text": "Weight"}
    head = client.head(f"/fhir/Observation/{name}", headers={"Accept": XML})
    assert (head.status_code, head.data, head.mimetype) == (200, b"", XML)


@pytest.mark.parametrize(("asked", "accept", "is_xml"), [
    ("", XML, True), ("", "application/xml", True), ("", "text/xml", True), ("", JSON, False), ("", "*/*", False),
    ("", "application/fhir+xml;q=0.5, application/fhir+json;q=0.9", False), ("", "", False),
    ("", "application/fhir+json;q=0.5, application/fhir+xml;q=0.9", True), ("xml", JSON, True), ("json", XML, False),
    ("application/fhir%2Bxml", "", True), ("application/fhir+xml", "", True), ("text/xml;charset=utf-8", "", True),
    ("", "application/fhir+xml; fhirVersion=4.0", True), ("XML", "", True),
])  # fmt: skip
def test_the_form_of_the_answer_is_the_one_asked_for(client: Any, asked: str, accept: str, is_xml: bool) -> None:
    for path in ("/fhir/Patient", "/fhir/metadata", "/fhir/Patient/nobody", "/fhir/nowhere"):
        answer = client.get(path + (f"?_format={asked}" if asked else ""), headers={"Accept": accept} if accept else {})
        assert answer.mimetype == (XML if is_xml else JSON), path
        assert not is_xml or said(answer)["resourceType"]


def test_other_forms_are_refused(client: Any) -> None:
    for accept in ("text/html", "text/turtle", "application/fhir+turtle"):
        assert client.get("/fhir/Patient", headers={"Accept": accept}).status_code == 406
    assert client.get("/fhir/Patient?_format=ttl").status_code == 406
    assert client.post("/fhir/Observation", data=OBSERVATION, content_type="text/plain").status_code == 415
    # Said to be one, and the other: nothing is guessed.
    assert client.post("/fhir/Observation", data=OBSERVATION, content_type=JSON).status_code == 400
    assert client.post("/fhir/Observation", data=b"{}", content_type=XML).status_code == 400


def test_faults_are_told_with_their_place_in_the_xml(client: Any) -> None:
    wrong = OBSERVATION.replace(b'"final"', b'"finished"').replace(b"  <code>", b"  <colour/>\n  <code>")
    told = client.post("/fhir/Observation", data=wrong, content_type=XML, headers={"Accept": XML})
    assert told.status_code == 400
    lines = [[e["valueInteger"] for e in issue["extension"]] for issue in said(told)["issue"]]
    assert [line for line, _ in lines] == [4]
    told = client.post("/fhir/Observation", data=OBSERVATION.replace(b'"final"', b'"finished"'), content_type=XML)
    [issue] = json.loads(told.data)["issue"]
    assert (told.status_code, issue["expression"]) == (422, ["Observation.status"])
    assert [e["valueInteger"] for e in issue["extension"]] == [3, 3]
    for text, where in ((b"<Observation", "well-formed"), (b"", "empty"), (b"<!DOCTYPE x><x/>", "DOCTYPE")):
        told = client.post("/fhir/Observation", data=text, content_type=XML)
        assert told.status_code == 400
        assert where in told.text


def test_a_transaction_and_a_search_in_xml(client: Any) -> None:
    bundle = b"""<Bundle xmlns="http://hl7.org/fhir"><type value="transaction"/><entry>
        <fullUrl value="urn:uuid:00000000-0000-4000-8000-000000000001"/>
        <resource>%s</resource><request><method value="POST"/><url value="Observation"/></request></entry></Bundle>"""
    inner = OBSERVATION.partition(b"\n")[2]
    done = said(client.post("/fhir/", data=bundle % inner, content_type=XML, headers={"Accept": XML}))
    assert done["entry"][0]["response"]["status"] == "201 Created"
    found = said(client.get("/fhir/Observation?value-quantity=1.1||kg&_format=xml"))
    assert [entry["search"]["mode"] for entry in found["entry"]] == ["match"]
    posted = client.post("/fhir/Observation/_search?_format=xml", data={"status": "final"})
    assert len(said(posted)["entry"]) == 1
    minimal = client.post("/fhir/Observation", data=OBSERVATION, content_type=XML,
                          headers={"Prefer": "return=minimal", "Accept": XML})  # fmt: skip
    assert (minimal.status_code, minimal.data) == (201, b"")


def test_what_xml_cannot_say_is_refused_and_still_there_in_json(client: Any, database: Database) -> None:
    """A copy of what an EHR gave is kept as it came, also when it is no R4."""
    named(database, "Patient", [("odd", {"colour": "red"})])
    told = client.get("/fhir/Patient/odd?_format=xml")
    assert (told.status_code, said(told)["issue"][0]["code"]) == (406, "not-supported")
    assert json.loads(client.get("/fhir/Patient/odd").data)["colour"] == "red"


def test_a_bundle_that_xml_cannot_say_is_refused_with_the_place(client: Any, database: Database) -> None:
    named(database, "Patient", [("even", {}), ("odd", {"colour": "red"})])
    for told in (client.get("/fhir/Patient?_format=xml"),
                 client.post("/fhir/Patient/_search?_format=xml", data={"_count": "9"})):  # fmt: skip
        assert told.status_code == 406
        assert told.mimetype == XML
        assert said(told)["issue"][0]["expression"] == ["Bundle.entry[1].resource.colour"]
    assert len(json.loads(client.get("/fhir/Patient").data)["entry"]) == 2


def test_what_a_bundle_has_done_is_told_though_xml_cannot_say_it(client: Any, database: Database) -> None:
    named(database, "Patient", [("odd", {"colour": "red"})])
    for kind in ("transaction", "batch"):
        new = {"resource": {"resourceType": "Patient"}, "request": {"method": "POST", "url": "Patient"}}
        asked = [{"request": {"method": "GET", "url": "Patient/odd"}}, new]
        sent = json.dumps({"resourceType": "Bundle", "type": kind, "entry": asked})
        done = client.post("/fhir/", data=sent, content_type=JSON, headers={"Accept": XML})
        assert (done.status_code, done.mimetype) == (200, JSON)
        told = json.loads(done.data)["entry"]
        assert told[0]["resource"]["colour"] == "red"
        assert told[1]["response"]["status"] == "201 Created"


def test_what_has_been_stored_is_not_refused_for_its_form(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was told so would send it again. Nothing that is valid here is known that XML can't say."""

    def cannot(text: str) -> bytes:
        raise Malformed("This can't be said in XML.")

    monkeypatch.setattr(formats, "to_xml", cannot)
    made = client.post("/fhir/Observation", data=OBSERVATION, content_type=XML, headers={"Accept": XML})
    assert (made.status_code, made.mimetype, json.loads(made.data)["status"]) == (201, JSON, "final")
