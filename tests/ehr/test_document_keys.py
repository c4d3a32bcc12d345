"""The keys that sign documents: made once, ended for good, and published for as long as somebody may verify."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fhir_secondop.ehr import document_keys, keys
from fhir_secondop.errors import Conflict, Invalid, NotFound

NOW = 1_800_000_000
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "document-keys.json"


def published(file: Path) -> dict[str, dict[str, object]]:
    return {key["kid"]: key for key in document_keys.published(file)["keys"]}


def test_the_first_signature_makes_the_first_key_and_nobody_else_can_read_it(file: Path) -> None:
    assert document_keys.published(file) == {"keys": []}
    made = document_keys.signing(file, NOW)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert document_keys.signing(file, NOW).kid == made.kid
    (key,) = document_keys.published(file)["keys"]
    assert (key["kid"], key["alg"], key["nbf"], key["use"]) == (made.kid, "ES384", NOW, "sig")
    assert not PRIVATE & set(key)


def test_several_that_sign_first_at_once_sign_with_one_key(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        kids = {key.kid for key in pool.map(lambda _: document_keys.signing(file, NOW), range(40))}
    assert len(kids) == 1
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_the_newest_that_may_sign_by_now_signs(file: Path) -> None:
    old = document_keys.signing(file, NOW).kid
    new = keys.add(file, "RS384", now_s=NOW, signs_after_h=1)
    assert document_keys.signing(file, NOW + 3599).kid == old
    assert (document_keys.signing(file, NOW + 3600).kid, document_keys.signing(file, NOW + 3600).alg) == (new, "RS384")
    with pytest.raises(Invalid, match="No other key may sign yet"):
        document_keys.retire(file, old, now_s=NOW)


def test_a_retired_key_stays_published_without_its_private_half(file: Path) -> None:
    old = document_keys.signing(file, NOW).kid
    new = keys.add(file, "ES384", now_s=NOW, signs_after_h=0)
    document_keys.retire(file, old, now_s=NOW + 5)
    assert published(file)[old]["exp"] == NOW + 5
    assert document_keys.signing(file, NOW + 10).kid == new
    held = {key["kid"]: key for key in json.loads(file.read_text())["keys"]}
    assert not PRIVATE & set(held[old])
    assert "d" in held[new]
    with pytest.raises(Conflict, match="before"):
        document_keys.retire(file, old, now_s=NOW)
    with pytest.raises(NotFound):
        document_keys.retire(file, "other", now_s=NOW)


def test_a_revoked_key_signs_no_more_and_only_an_earlier_time_changes_it(file: Path) -> None:
    kid = document_keys.signing(file, NOW).kid
    with pytest.raises(Invalid, match="unknown"):
        document_keys.revoke(file, kid, since_s=NOW, reason="mislaid", now_s=NOW)
    with pytest.raises(Invalid, match="from now on"):
        document_keys.revoke(file, kid, since_s=NOW + 1, reason="compromised", now_s=NOW)
    document_keys.revoke(file, kid, since_s=NOW - 50, reason="compromised", now_s=NOW)
    assert published(file)[kid]["revoked"] == {"revoked_at": NOW - 50, "reason": "compromised"}
    document_keys.revoke(file, kid, since_s=NOW - 10, reason="compromised", now_s=NOW)
    assert published(file)[kid]["revoked"] == {"revoked_at": NOW - 50, "reason": "compromised"}
    document_keys.revoke(file, kid, since_s=NOW - 90, reason="compromised", now_s=NOW)
    assert published(file)[kid]["revoked"] == {"revoked_at": NOW - 90, "reason": "compromised"}
    assert not PRIVATE & set(json.loads(file.read_text())["keys"][0])
    with pytest.raises(Invalid, match="keys new --for documents"):
        document_keys.signing(file, NOW)


def test_a_file_that_is_no_key_set_is_said(file: Path) -> None:
    file.write_text("{}")
    with pytest.raises(Invalid, match="no JWK set"):
        document_keys.signing(file, NOW)
    with pytest.raises(Invalid, match="no JWK set"):
        document_keys.published(file)
