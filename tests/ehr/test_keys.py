"""Our signing keys: made, announced, signing, retired; and what of them others may see."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey

from fhir_secondop.ehr import keys
from fhir_secondop.errors import Invalid, NotFound

NOW = 1_800_000_000
HOUR = 3600
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
RSA = RSAKey.generate_key(2048, private=True, parameters={"kid": "r", "alg": "RS384"})
EC = ECKey.generate_key("P-384", private=True, parameters={"kid": "e", "alg": "ES384"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def written(file: Path, *jwks: dict[str, Any]) -> Path:
    file.write_text(json.dumps({"keys": list(jwks)}))
    return file


def private(key: RSAKey | ECKey, **more: Any) -> dict[str, Any]:
    return {**key.as_dict(private=True), **more}


def kids(file: Path) -> list[str]:
    return [key["kid"] for key in keys.public([file])["keys"]]


# ---- a key's life ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
def test_a_new_key_signs_what_its_published_half_verifies(file: Path, alg: str) -> None:
    kid = keys.add(file, alg, now_s=NOW, signs_after_h=24)
    key = keys.signing(file, [alg], NOW)
    assert (key.kid, key.alg) == (kid, alg)
    signed = jwt.encode({"alg": alg, "kid": kid}, {"iss": "us"}, key.key, algorithms=[alg])
    published = KeySet.import_key_set(json.loads(json.dumps(keys.public([file]))))
    assert jwt.decode(signed, published, algorithms=[alg]).claims == {"iss": "us"}


def test_the_first_key_of_all_signs_at_once_and_later_ones_are_announced_first(file: Path) -> None:
    old = keys.add(file, "ES384", now_s=NOW, signs_after_h=24)
    new = keys.add(file, "ES384", now_s=NOW + 10, signs_after_h=24)
    assert kids(file) == [old, new]
    turn = NOW + 10 + 24 * HOUR
    assert [keys.signing(file, [], at).kid for at in (NOW + 10, turn - 1, turn, turn + 1)] == [old, old, new, new]
    assert [row["signs_from"] for row in keys.listed(file)] == [NOW, turn]


def test_a_retired_key_neither_signs_nor_is_published(file: Path) -> None:
    old, new = (keys.add(file, "ES384", now_s=NOW, signs_after_h=0) for _ in range(2))
    keys.retire(file, old, now_s=NOW)
    assert kids(file) == [new]
    assert keys.signing(file, [], NOW).kid == new
    with pytest.raises(NotFound, match=old):
        keys.retire(file, old, now_s=NOW)


def test_the_only_key_that_may_sign_is_not_retired(file: Path) -> None:
    old = keys.add(file, "ES384", now_s=NOW, signs_after_h=0)
    with pytest.raises(Invalid, match="keys new"):
        keys.retire(file, old, now_s=NOW)
    new = keys.add(file, "ES384", now_s=NOW, signs_after_h=24)
    before = file.read_bytes()
    with pytest.raises(Invalid, match="no other key may sign"):
        keys.retire(file, old, now_s=NOW + 24 * HOUR - 1)  # nobody would be left to sign for a second
    assert file.read_bytes() == before
    keys.retire(file, old, now_s=NOW + 24 * HOUR)
    assert kids(file) == [new]


def test_one_that_was_only_announced_can_be_taken_back(file: Path) -> None:
    old = keys.add(file, "ES384", now_s=NOW, signs_after_h=0)
    new = keys.add(file, "ES384", now_s=NOW, signs_after_h=24)
    keys.retire(file, new, now_s=NOW)
    assert kids(file) == [old]


def test_the_file_is_for_this_user_alone_and_nothing_is_left_beside_it(file: Path) -> None:
    before = os.umask(0)
    try:
        keys.add(file, "ES384", now_s=NOW, signs_after_h=0)
        keys.add(file, "ES384", now_s=NOW, signs_after_h=0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_an_algorithm_that_smart_does_not_ask_for_is_not_made(file: Path) -> None:
    with pytest.raises(Invalid, match="RS384"):
        keys.add(file, "RS256", now_s=NOW, signs_after_h=0)
    assert not file.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="can't be written"):
        keys.add(tmp_path / "nowhere" / "keys.json", "ES384", now_s=NOW, signs_after_h=0)


# ---- which one signs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "kid"),
    [
        (["RS384"], "r"),
        (["ES384"], "e"),
        (["RS256", "RS384"], "r"),
        (["ES384", "RS384"], "r"),  # both are taken: the newest
        ([], "r"),
    ],
)
def test_the_server_says_which_algorithm(file: Path, offered: list[str], kid: str) -> None:
    written(file, private(EC, signs_from=NOW - 2), private(RSA, signs_from=NOW - 1))
    assert keys.signing(file, offered, NOW).kid == kid


def test_an_rsa_key_may_come_without_its_primes(file: Path) -> None:
    written(file, without(RSA, "p", "q", "dp", "dq", "qi"))
    signed = jwt.encode({"alg": "RS384"}, {"iss": "us"}, keys.signing(file, [], NOW).key, algorithms=["RS384"])
    assert jwt.decode(signed, RSA, algorithms=["RS384"]).claims == {"iss": "us"}


def test_what_lacks_is_named(file: Path) -> None:
    written(file, private(EC), private(RSA, signs_from=NOW + 1))
    with pytest.raises(Invalid, match="no key that may sign with RS384 now; make one"):
        keys.signing(file, ["RS384"], NOW)


# ---- what others see ------------------------------------------------------------------------------------------


def test_nothing_private_is_published(file: Path) -> None:
    for alg in ("RS384", "ES384"):
        keys.add(file, alg, now_s=NOW, signs_after_h=24)
    published = keys.public([file])
    assert list(published) == ["keys"]
    for key in published["keys"]:
        known = {"kty", "kid", "alg", "use"} | ({"n", "e"} if key["kty"] == "RSA" else {"crv", "x", "y"})
        assert set(key) == known
        assert key["use"] == "sig"


def test_members_that_nobody_knows_stay_here(file: Path) -> None:
    """`oth` holds further primes of an RSA key; a note may hold anything."""
    odd = {"signs_from": 0, "oth": [{"r": "AQAB", "d": "AQAB", "t": "AQAB"}], "note": "pin 1234", "password": "x"}
    written(file, private(RSA, **odd), private(EC, note="x", key_ops=["sign"]))
    for key in keys.public([file])["keys"]:
        assert not PRIVATE & set(key)
        assert set(key) <= {"kty", "kid", "alg", "use", "n", "e", "crv", "x", "y"}


def test_the_keys_of_several_files_are_published_each_once(tmp_path: Path) -> None:
    one = written(tmp_path / "1", private(EC), private(RSA))
    two = written(tmp_path / "2", private(EC))
    assert [key["kid"] for key in keys.public([one, two, one])["keys"]] == ["e", "r"]
    assert keys.public([]) == {"keys": []}


# ---- files that are none --------------------------------------------------------------------------------------

SHORT = ECKey.generate_key("P-256", private=True, parameters={"kid": "e", "alg": "ES384"})
SHARED = OctKey.generate_key(256, parameters={"kid": "o", "alg": "ES384"})


def without(key: RSAKey | ECKey, *names: str) -> dict[str, Any]:
    return {name: value for name, value in private(key).items() if name not in names}


NO_KEYS: dict[str, dict[str, Any]] = {
    "only the public half, EC": EC.as_dict(private=False),
    "only the public half, RSA": RSA.as_dict(private=False),
    "another curve": SHORT.as_dict(private=True),
    "a shared secret": SHARED.as_dict(private=True),
    "RSA for ES384": private(RSA, alg="ES384"),
    "EC for RS384": private(EC, alg="RS384"),
    "another algorithm": private(EC, alg="RS256"),
    "no kid": without(EC, "kid"),
    "no alg": without(EC, "alg"),
    "no kty": without(EC, "kty"),
    "no x": without(EC, "x"),
    "no n": without(RSA, "n"),
    "no base64": private(EC, d="!!"),
    "another's d": private(EC, d=private(EC)["x"]),
    "a number": private(EC, x=5),
    "a number as kid": private(EC, kid=5),
    "an empty kid": private(EC, kid=""),
    "an unknown kty": private(EC, kty="XX"),
    "a date": private(EC, signs_from="2026-11-21"),
    "null": private(EC, signs_from=None),
    "nothing": {},
}


@pytest.mark.parametrize("jwk", NO_KEYS.values(), ids=NO_KEYS)
def test_a_key_that_can_not_sign_is_refused_without_being_quoted(file: Path, jwk: dict[str, Any]) -> None:
    written(file, jwk)
    with pytest.raises(Invalid) as caught:
        jwt.encode({"alg": "ES384"}, {}, keys.signing(file, [], NOW).key, algorithms=["ES384"])
    text = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert str(file) in text
    for name in PRIVATE & set(jwk):
        assert len(str(jwk[name])) < 8 or str(jwk[name]) not in text


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"keys": 5}', '{"keys": {}}', '{"keys": [5]}', "\udcff", "nul\0"]
)
def test_a_file_that_is_no_key_set_is_named(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    for act in (
        lambda: keys.public([file]),
        lambda: keys.signing(file, [], NOW),
        lambda: keys.listed(file),
        lambda: keys.add(file, "ES384", now_s=NOW, signs_after_h=0),
    ):
        with pytest.raises(Invalid, match=r"keys\.json"):
            act()


def test_no_file_says_how_to_make_one(file: Path) -> None:
    with pytest.raises(Invalid, match="keys new"):
        keys.signing(file, [], NOW)
    with pytest.raises(Invalid, match="keys new"):
        keys.public([file])


def test_a_signing_key_does_not_show_itself(file: Path) -> None:
    keys.add(file, "ES384", now_s=NOW, signs_after_h=0)
    secret = json.loads(file.read_text())["keys"][0]["d"]
    assert secret not in repr(keys.signing(file, [], NOW))
