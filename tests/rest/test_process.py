"""The endpoint as a process of its own, over a real socket."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import requests

from tests.conftest import StartEhr

PATIENT = {
    "resourceType": "Patient",
    "identifier": [{"system": "urn:mrn", "value": "1"}],
    "name": [{"family": "Wolkenstein"}],
}
JSON = {"Content-Type": "application/fhir+json"}


def test_a_conversation_with_a_real_process(start_ehr: StartEhr) -> None:
    base = start_ehr("full")
    with requests.Session() as session:
        posted = session.post(f"{base}/Patient", json=PATIENT, headers=JSON)
        assert posted.status_code == 201
        location = posted.headers["Location"]
        assert location.startswith(f"{base}/Patient/")
        assert session.get(location).content == posted.content
        at = location.partition("/_history")[0]
        assert session.get(at, headers={"If-None-Match": posted.headers["ETag"]}).status_code == 304
        head = session.head(at)
        assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", 'W/"1"')
        changed = {**posted.json(), "gender": "female"}
        assert session.put(at, json=changed, headers={**JSON, "If-Match": 'W/"1"'}).status_code == 200
        assert session.put(at, json=changed, headers={**JSON, "If-Match": 'W/"1"'}).status_code == 412
        found = session.post(f"{base}/Patient/_search", data={"name": "wolken"}).json()
        assert [e["fullUrl"] for e in found["entry"]] == [at]
        assert session.delete(at).status_code == 204
        assert session.get(at).status_code == 410
        assert session.patch(at, json=[], headers=JSON).status_code == 415


def test_clients_that_race_over_http_make_one_patient(start_ehr: StartEhr) -> None:
    base = start_ehr("full")

    def create(_: int) -> requests.Response:
        headers = {**JSON, "If-None-Exist": "identifier=urn:mrn|1"}
        return requests.post(f"{base}/Patient", json=PATIENT, headers=headers, timeout=30)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(create, range(24)))
    assert sorted(a.status_code for a in answers) == [200] * 23 + [201]
    assert len({a.json()["id"] for a in answers}) == 1


def test_a_chunked_body_is_read_to_its_end(start_ehr: StartEhr) -> None:
    base = urlsplit(start_ehr("full"))
    connection = http.client.HTTPConnection(base.netloc, timeout=30)
    text = json.dumps(PATIENT).encode()
    connection.request("POST", "/fhir/Patient", iter([text[:20], text[20:]]), headers=JSON, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 201
    assert json.loads(answer.read())["name"] == PATIENT["name"]
