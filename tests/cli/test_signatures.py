"""`verify` without a service, and the keys of documents by hand."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fhir_secondop.cli import main
from fhir_secondop.ehr import document_keys
from fhir_secondop.opinion import signature

DATA = b'{"resourceType":"Bundle","type":"document"}'
SIGNER = "https://second.example/fhir/PractitionerRole/1"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def plain(*words: str | Path, code: int = 0) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The three files that somebody got, and beside them the service's own keys."""
    own = tmp_path / "own.json"
    key = document_keys.signing(own, int(time.time()) - 1000)
    jws = signature.sign(DATA, key.key, kid=key.kid, alg=key.alg, issuer="https://second.example", signer=SIGNER,
                         at=int(time.time()) - 500, auth_time=int(time.time()) - 550)  # fmt: skip
    (tmp_path / "report.json").write_bytes(DATA)
    (tmp_path / "report.jws").write_text(jws + "\n")
    made = {"resourceType": "Provenance", "signature": [signature.fhir(jws, "2026-01-01T00:00:00Z", {})]}
    (tmp_path / "provenance.json").write_text(json.dumps(made))
    publish(tmp_path)
    return tmp_path


def publish(folder: Path) -> None:
    (folder / "keys.json").write_text(run("keys", "public", "--for", "documents", "--file", folder / "own.json").stdout)


def verify(folder: Path, signed_in: str = "report.jws", code: int = 0) -> dict[str, Any]:
    files = ("--signature", folder / signed_in, "--keys", folder / "keys.json")
    return plain("verify", folder / "report.json", *files, code=code)


@pytest.mark.parametrize("signed_in", ["report.jws", "provenance.json"])
def test_a_file_that_was_signed_holds(folder: Path, signed_in: str) -> None:
    said = verify(folder, signed_in)
    assert (said["holds"], said["signature"], said["faults"]) == (True, True, [])
    assert (said["signer"], said["issuer"], said["size"]) == (SIGNER, "https://second.example", len(DATA))
    assert said["authenticatedAt"] < said["signedAt"]
    files = ("--signature", folder / signed_in, "--keys", folder / "keys.json")
    shown = run("verify", folder / "report.json", *files)
    assert shown.exit_code == 0
    assert shown.output.startswith("The signature holds.")


def test_any_other_file_fails_and_says_so(folder: Path) -> None:
    (folder / "report.json").write_bytes(DATA + b" ")
    said = verify(folder, code=1)
    assert (said["holds"], said["signature"]) == (False, False)
    assert "not those that were signed" in said["faults"][0]
    shown = run("verify", folder / "report.json", "--signature", folder / "report.jws", "--keys", folder / "keys.json")
    assert shown.exit_code == 1
    assert "does NOT hold" in shown.output


def test_what_can_not_be_read_is_said(folder: Path) -> None:
    for name, text in (("keys.json", "[]"), ("keys.json", "x"), ("keys.json", "{}"), ("report.jws", "{}")):
        before = (folder / name).read_text()
        (folder / name).write_text(text)
        files = ("--signature", folder / "report.jws", "--keys", folder / "keys.json")
        result = run("verify", folder / "report.json", *files)
        assert result.exit_code == 1
        assert result.output.startswith("error: "), result.output
        (folder / name).write_text(before)
    assert run("verify", folder / "report.json", "--keys", folder / "keys.json").exit_code == 2


def test_keys_of_documents_change_hands_by_hand(folder: Path) -> None:
    own = folder / "own.json"
    (old,) = [k["kid"] for k in plain("keys", "list", "--for", "documents", "--file", own)["keys"]]
    new = plain("keys", "new", "--for", "documents", "--signs-after", "0", "--file", own)["made"]
    retired = plain("keys", "retire", old, "--for", "documents", "--file", own)
    assert [("exp" in k) for k in retired["keys"]] == [True, False]
    publish(folder)
    assert verify(folder)["holds"] is True
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 800))
    result = run("keys", "revoke", old, "--reason", "compromised", "--since", since, "--file", own)
    assert "revoked as of" in result.output
    assert "/.well-known/document-keys.json" in result.output
    publish(folder)
    said = verify(folder, code=1)
    assert (said["signature"], said["holds"], said["key"]["kid"]) == (True, False, old)
    assert document_keys.signing(own, int(time.time())).kid == new


def test_a_key_that_is_not_there_is_neither_retired_nor_revoked(folder: Path) -> None:
    own = folder / "own.json"
    for words in (("retire", "x", "--for", "documents"), ("revoke", "x", "--reason", "unspecified")):
        result = run("keys", *words, "--file", own)
        assert (result.exit_code, "has no key x" in result.output) == (1, True)
