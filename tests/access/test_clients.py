"""The clients file: what it may say, and that a running service follows it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from fhir_secondop.access import clients
from fhir_secondop.access.jwts import Key
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Caller


class NoKeys:
    def key(self, kid: str, alg: str) -> Key | None:
        return None


RINGS = clients.Rings(lambda url: NoKeys(), lambda file: NoKeys())
URL = 'jwks_url = "https://a.example/jwks"\n'
FULL = f"""
[clients.lakeside]
name = "Lakeside's system"
roles = ["requester", "auditor"]
scopes = ["system/Patient.rs", "system/Patient.read", "system/Observation.rs?status=final&category=laboratory"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000019"]
on_behalf_of = "Organization/1"
{URL}
"""


def test_a_client_is_a_caller_with_what_it_was_granted(tmp_path: Path) -> None:
    client = clients.parse(FULL, tmp_path, RINGS)["lakeside"]

    assert client.caller(client.scopes) == Caller(
        "lakeside", "Lakeside's system", frozenset({"requester", "auditor"}),
        ("system/Observation.rs?category=laboratory&status=final", "system/Patient.rs"),
        frozenset({"http://hl7.org/fhir/sid/us-npi|9000000019"}), "Organization/1",
    )  # fmt: skip
    assert client.caller(()).scopes == ()


WRONG = {
    "[clients.a]": "clients.a needs jwks_url",
    "[clients.a]\njwks_file = 'x'\n" + URL: "one of them",
    "[clients.a]\njwks_url = 'http://a.example/j'": "jwks_url",
    "[clients.a]\njwks_url = 'http://localhost/j'": "jwks_url",
    "[clients.a]\njwks_url = ''": "jwks_url",
    "[clients.a]\njwks_url = 5": "jwks_url",
    "[clients.a]\njwks_file = ['x']": "jwks_file",
    "[clients.a]\nroles = ['king']\n" + URL: "king",
    "[clients.a]\nroles = 'requester'\n" + URL: "roles",
    "[clients.a]\nscopes = 'system/*.rs'\n" + URL: "scopes",
    "[clients.a]\nscopes = ['system/*.sr']\n" + URL: "system/\\*.sr",
    "[clients.a]\nscopes = ['user/*.rs']\n" + URL: "user/",
    "[clients.a]\nscopes = ['patient/*.rs']\n" + URL: "patient/",
    "[clients.a]\nscopes = ['system/Task.rs user/Task.rs']\n" + URL: "scope",
    "[clients.a]\nscopes = ['openid']\n" + URL: "openid",
    "[clients.a]\nscopes = ['']\n" + URL: "scopes",
    "[clients.a]\nscopes = ['system/Observation.rs?_count=1']\n" + URL: "_count",
    "[clients.a]\nparties = [1]\n" + URL: "parties",
    "[clients.a]\nname = 1\n" + URL: "name",
    "[clients.a]\nsecret = 'x'\n" + URL: "secret",
    "[clients.'a b']\n" + URL: "a b",
    "[clients.'../a']\n" + URL: "letters",
    "[clients.'é']\n" + URL: "letters",
    f"[clients.{'a' * 101}]\n" + URL: "letters",
    "[clients]\na = 1": "clients.a",
    "clients = 1": "nothing else",
    "[[clients]]": "nothing else",
    "[callers.a]\ntoken = 'x'": "nothing else",
    "[clients.a": "TOML",
    "[clients.a]\n" + URL + "[clients.a]\n" + URL: "TOML",
}


@pytest.mark.parametrize(("text", "named"), WRONG.items(), ids=[text[:50] for text in WRONG])
def test_a_wrong_entry_of_the_clients_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(Invalid, match=named):
        clients.parse(text, tmp_path, RINGS)


def test_at_an_external_issuer_a_client_needs_no_keys(tmp_path: Path) -> None:
    assert clients.parse("[clients.a]", tmp_path, RINGS, need_keys=False)["a"].keys.key("k", "ES384") is None


def registry(file: Path) -> clients.Registry:
    return clients.Registry(file, RINGS)


def test_no_file_and_an_empty_one_know_nobody(tmp_path: Path) -> None:
    assert registry(tmp_path / "none.toml").find("lakeside") is None
    (tmp_path / "empty.toml").write_text("")
    assert registry(tmp_path / "empty.toml").find("lakeside") is None


def test_a_changed_file_counts_from_the_next_question_on(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    found = registry(file)
    assert found.find("lakeside") is None
    file.write_text(FULL)
    assert found.find("lakeside") is not None
    file.write_text(FULL.replace("clients.lakeside", "clients.riverside"))
    assert found.find("lakeside") is None
    assert found.find("riverside") is not None
    file.unlink()
    assert found.find("riverside") is None


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(FULL)
    found = registry(file)
    stat = file.stat()
    (tmp_path / "new").write_text(FULL.replace("clients.lakeside", "clients.lakesite"))
    os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "new").replace(file)

    assert found.find("lakeside") is None


@pytest.mark.parametrize("broken", [b"[clients.lakeside", b"[clients.lakeside]\nroles = ['king']", b"\xff\xfe"])
def test_a_broken_file_changes_nothing_and_is_reported(
    tmp_path: Path, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "clients.toml"
    file.write_text(FULL)
    found = registry(file)
    file.write_bytes(broken)

    assert found.find("lakeside") is not None
    assert found.find("riverside") is None
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1  # once for each change, not at each request
    file.write_text(FULL.replace("clients.lakeside", "clients.riverside"))
    assert found.find("lakeside") is None


def test_a_broken_file_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    file.write_text("[clients.a")
    with pytest.raises(Invalid):
        registry(file)


def test_keys_at_another_place_are_another_registration(tmp_path: Path) -> None:
    here = clients.parse("[clients.a]\njwks_file = 'a.json'", tmp_path, RINGS)["a"]
    there = clients.parse("[clients.a]\njwks_file = 'b.json'", tmp_path, RINGS)["a"]
    same = clients.parse("[clients.a]\njwks_file = 'a.json'\nname = 'A'", tmp_path, RINGS)["a"]

    assert here.registration != there.registration
    assert here.registration == same.registration
