"""Denials, media types, files, and the answers that dribble, break off or never come."""

from __future__ import annotations

import base64
import hashlib
import time

import pytest
import requests

from tests.sandbox.conftest import SCAN, Farm, codes, document, get, ids, post


def test_a_policy_denies_one_type(farm: Farm) -> None:
    base = farm("full", "policy-denial=Observation", "policy-denial=Goal:4134")
    for path in ("Observation?patient=1", "Observation/o1"):
        answer = get(base, path)
        assert (answer.status_code, codes(answer)) == (403, {"forbidden", "4130"})
    assert codes(get(base, "Goal?patient=1")) == {"forbidden", "4134"}
    assert get(base, "Encounter?patient=1").status_code == 200


def test_a_daily_quota_ends_the_documents_of_the_day(farm: Farm) -> None:
    base = farm("full", "daily-quota=2")
    assert [get(base, path).status_code for path in ("Binary/b", "Patient/1", "DocumentReference/d")] == [200] * 3
    for path in ("Binary/b", "DocumentReference/d"):
        answer = get(base, path)
        assert (answer.status_code, codes(answer)) == (403, {"throttled", "4135"})
    assert ids(get(base, "DocumentReference?patient=1")) == ["d"], "searches cost nothing"


def test_a_media_type_that_is_not_known_gets_406_and_no_word(farm: Farm) -> None:
    base = farm("full", "not-acceptable")
    for accept in ("application/xml", "application/json+fhir", "application/*"):
        answer = get(base, "Patient/1", accept)
        assert (answer.status_code, answer.content) == (406, b"")
    for accept in ("application/fhir+json", "application/json; charset=utf-8", "text/html, */*;q=0.1"):
        assert get(base, "Patient/1", accept).status_code == 200, accept
    assert get(farm("full"), "Patient/1", "application/xml").content != b""


def test_a_binary_can_be_its_bytes(farm: Farm) -> None:
    base = farm("full", "raw-binary", "not-acceptable")
    for accept in ("application/pdf", "*/*"):
        answer = get(base, "Binary/b", accept)
        assert (answer.content, answer.headers["Content-Type"]) == (SCAN, "application/pdf")
    assert get(base, "Binary/b").json()["resourceType"] == "Binary"
    assert get(base, "Binary/nowhere", "application/pdf").status_code == 404
    always = farm("full", "raw-binary=always")
    assert get(always, "Binary/b").content == SCAN
    assert get(always, "Patient/1").json()["id"] == "1"


def test_a_document_can_state_the_hash_of_something_else(farm: Farm) -> None:
    base = farm("full", "wrong-hash")
    stored = post(base, document(bytes=b"the bytes")).json()
    for found in (get(base, f"DocumentReference/{stored['id']}").json(),
                  get(base, f"DocumentReference?_id={stored['id']}").json()["entry"][0]["resource"]):  # fmt: skip
        attachment = found["content"][0]["attachment"]
        assert base64.b64decode(attachment["data"]) == b"the bytes"
        assert len(base64.b64decode(attachment["hash"])) == 20
        assert base64.b64decode(attachment["hash"]) != hashlib.sha1(b"the bytes").digest()
        assert attachment["size"] != len(b"the bytes")


def test_slow_bytes_come_all_and_late(farm: Farm) -> None:
    base = farm("full", "slow-bytes=1")
    began = time.monotonic()
    answer = get(base, "Observation?patient=1")
    assert time.monotonic() - began > 0.9
    assert ids(answer) == ["o1", "o2", "o3", "o4", "o5"]
    began = time.monotonic()
    with requests.get(f"{base}/Observation?patient=1", stream=True, timeout=10) as answer:
        next(answer.iter_content(1))
        assert time.monotonic() - began < 0.6, "the first bytes come early"


def test_truncated_json_announces_more_than_comes(farm: Farm) -> None:
    base = farm("full", "truncated-json")
    for path in ("Observation?patient=1", "Patient/1"):
        with requests.get(f"{base}/{path}", stream=True, timeout=10) as answer:
            got: list[bytes] = []
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                got.extend(answer.iter_content(64))
            assert 0 < len(b"".join(got)) < int(answer.headers["Content-Length"])
    assert get(base, "metadata").json()["resourceType"] == "CapabilityStatement"


def test_half_of_the_json_can_be_all_that_comes(farm: Farm) -> None:
    base = farm("full", "half-json")
    for path in ("Observation?patient=1", "Patient/1"):
        answer = get(base, path)
        assert answer.status_code == 200
        assert int(answer.headers["Content-Length"]) == len(answer.content) > 0
        with pytest.raises(requests.JSONDecodeError):
            answer.json()
    assert get(base, "metadata").json()["resourceType"] == "CapabilityStatement"


def test_a_storm_of_429_passes(farm: Farm) -> None:
    base = farm("full", "storm-429=2")
    answers = [get(base, "Patient/1") for _ in range(3)]
    assert [a.status_code for a in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "1"
    assert codes(answers[0]) == {"throttled"}


def test_everything_but_metadata_can_be_redirected(farm: Farm) -> None:
    base = farm("full", "redirects=https://elsewhere.example/r4")
    answer = get(base, "Observation?patient=1", allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (
        302, "https://elsewhere.example/r4/Observation?patient=1"
    )  # fmt: skip
    assert get(base, "Patient/1", allow_redirects=False).headers["Location"].endswith("/r4/Patient/1")
    assert get(base, "metadata", allow_redirects=False).status_code == 200


def test_a_dead_ehr_closes_every_connection_without_an_answer(farm: Farm) -> None:
    base = farm("dead")
    for path in ("metadata", "Patient/1"):
        with pytest.raises(requests.ConnectionError):
            get(base, path)
    assert requests.get(base.replace("/fhir", "/healthz"), timeout=10).json()["shape"] == "dead"


def test_an_ehr_that_closes_can_be_of_any_shape(farm: Farm) -> None:
    with pytest.raises(requests.ConnectionError):
        get(farm("epic", "closes"), "metadata")


def test_a_dead_ehr_that_hangs_says_nothing_at_all(farm: Farm) -> None:
    base = farm("dead", "hangs")
    began = time.monotonic()
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{base}/metadata", timeout=(5, 0.5))
    assert time.monotonic() - began > 0.4
