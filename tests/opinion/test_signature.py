"""The detached JWS: any other byte is another document, and other people's software says the same."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey

from fhir_secondop.errors import Invalid
from fhir_secondop.opinion import signature
from tests.access.signing import b64, signed

Plain = dict[str, Any]
PAGE = (Path(__file__).parent.parent.parent / "docs/signing.md").read_text("utf-8")
KEYS: dict[str, ECKey | RSAKey] = {
    "ES384": ECKey.generate_key("P-384", private=True, auto_kid=True),
    "RS384": RSAKey.generate_key(2048, private=True, auto_kid=True),
}
AT = 1_800_000_000
DOCUMENT = json.dumps(
    {"resourceType": "Bundle", "id": "b", "type": "document", "entry": [{"resource": {"resourceType": "Observation",
     "valueQuantity": {"value": 1.5}, "note": [{"text": "Ä ✓"}]}}, {"resource": {"resourceType": "Patient"}}]},
    ensure_ascii=False,
).encode()  # fmt: skip


def jws_of(data: bytes, alg: str = "ES384", **more: Any) -> str:
    key = KEYS[alg]
    said = {"issuer": "https://second.example", "signer": "https://second.example/fhir/PractitionerRole/1", "at": AT}
    return signature.sign(data, key, kid=str(key.kid), alg=alg, **{**said, **more})


def jwks(**more: Any) -> Plain:
    return {"keys": [{**key.as_dict(private=False), "alg": alg, **more} for alg, key in KEYS.items()]}


def holds(data: bytes, jws: str, keys: Plain | None = None) -> bool:
    return signature.examine(data, jws, keys or jwks()).holds


@pytest.mark.parametrize("alg", ["ES384", "RS384"])
def test_no_byte_of_the_document_can_be_changed(alg: str) -> None:
    jws = jws_of(DOCUMENT, alg)
    assert holds(DOCUMENT, jws)
    for place in range(len(DOCUMENT)):
        for bit in (0x01, 0x20, 0x80):
            changed = bytearray(DOCUMENT)
            changed[place] ^= bit
            assert not holds(bytes(changed), jws), place


def test_no_byte_of_a_large_document_can_be_changed() -> None:
    drawn = random.Random(20261128)
    data = drawn.randbytes(120_000)
    jws = jws_of(data)
    assert holds(data, jws)
    for place in [0, len(data) - 1, *drawn.sample(range(len(data)), 300)]:
        changed = bytearray(data)
        changed[place] ^= 1 << drawn.randrange(8)
        assert not holds(bytes(changed), jws)


@pytest.mark.parametrize(
    "other",
    [
        DOCUMENT + b"\n", b" " + DOCUMENT, b"\xef\xbb\xbf" + DOCUMENT, DOCUMENT[:-1], b"", DOCUMENT * 2,
        DOCUMENT.replace(b"1.5", b"1.50"), DOCUMENT.replace(b": ", b":"),
        DOCUMENT.replace('"Ä'.encode(), b'"\\u00c4'), DOCUMENT.replace("Ä".encode(), "A\u0308".encode()),
        json.dumps(dict(reversed(list(json.loads(DOCUMENT).items())))).encode(),
        json.dumps({**json.loads(DOCUMENT), "meta": {"versionId": "1"}}).encode(),
    ],
)  # fmt: skip
def test_nor_anything_that_json_would_call_the_same(other: bytes) -> None:
    assert other != DOCUMENT
    assert not holds(other, jws_of(DOCUMENT))


def test_no_character_of_the_signature_can_be_changed() -> None:
    jws = jws_of(DOCUMENT)
    for place, was in enumerate(jws):
        other = "A" if was != "A" else "B"
        assert not holds(DOCUMENT, jws[:place] + other + jws[place + 1 :]), place


def _made(header: Plain, alg: str = "ES384") -> str:
    """Signed rightly, with a header that we would not write."""
    head, _, mark = signed(json.dumps(header), DOCUMENT.decode(), KEYS[alg], alg).split(".")
    return f"{head}..{mark}"


GOOD = {"alg": "ES384", "kid": str(KEYS["ES384"].kid), "iat": AT}


def test_the_smallest_header_is_enough() -> None:
    assert holds(DOCUMENT, _made(GOOD))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": GOOD["kid"], "iat": AT}, {**GOOD, "alg": "RS384"}, {**GOOD, "alg": "HS384"},
        {**GOOD, "kid": "other"}, {"alg": "ES384", "iat": AT}, {"alg": "ES384", "kid": GOOD["kid"]},
        {**GOOD, "iat": "1800000000"}, {**GOOD, "iat": True}, {**GOOD, "iat": -1}, {**GOOD, "iat": 1.5},
        {**GOOD, "crit": ["b64"], "b64": False}, {**GOOD, "b64": False},
        {**GOOD, "crit": ["exp"], "exp": 1}, {**GOOD, "sub": ["x"]},
        {**GOOD, "auth_time": "x"}, {**GOOD, "kid": str(KEYS["RS384"].kid)},
    ],
)  # fmt: skip
def test_a_header_that_says_something_else_does_not_hold(header: Plain) -> None:
    assert not holds(DOCUMENT, _made(header))


@pytest.mark.parametrize("text", ["", "..", "a.b", "a.b.c.d", "e30..AAAA", "W10..AAAA", "\u00e9..x", "e30.e30.e30"])
def test_what_is_no_detached_jws_does_not_hold(text: str) -> None:
    assert signature.examine(DOCUMENT, text, jwks()).faults


def test_an_attached_payload_is_not_taken() -> None:
    head, _, mark = jws_of(DOCUMENT).split(".")
    assert not holds(DOCUMENT, f"{head}.{b64(DOCUMENT)}.{mark}")


def test_a_key_in_the_set_twice_or_of_another_kind_counts_for_nothing() -> None:
    jws, one = jws_of(DOCUMENT), jwks()["keys"][0]
    assert not holds(DOCUMENT, jws, {"keys": [one, one]})
    assert not holds(DOCUMENT, jws, {"keys": [{**one, "alg": "RS384"}]})
    assert not holds(DOCUMENT, jws, {"keys": [{"kid": one["kid"], "alg": "ES384"}]})
    rsa = {**KEYS["RS384"].as_dict(private=False), "alg": "ES384", "kid": one["kid"]}
    assert not holds(DOCUMENT, jws, {"keys": [rsa]})
    assert not holds(DOCUMENT, jws, {"keys": []})


@pytest.mark.parametrize("bad", [{}, {"keys": {}}, {"keys": [1]}, {"keys": [{"exp": "x"}]}, {"keys": [{"revoked": 1}]},
                                 {"keys": [{"revoked": {}}]}])  # fmt: skip
def test_what_is_no_key_set_is_said(bad: Plain) -> None:
    with pytest.raises(Invalid, match="no JWK set"):
        signature.examine(DOCUMENT, jws_of(DOCUMENT), bad)


# (revoked_at, exp, nbf, when it was stored) relative to the signature, and whether it holds
WHEN = [
    ({}, 0, True), ({"revoked": 1}, 0, True), ({"revoked": 0}, 0, False), ({"revoked": -1}, 0, False),
    ({"revoked": 10}, 9, True), ({"revoked": 10}, 10, False), ({"exp": 0}, 0, True), ({"exp": -1}, 0, False),
    ({"nbf": 0}, 0, True), ({"nbf": 1}, 0, False), ({"exp": 5, "revoked": 10}, 0, True),
]  # fmt: skip


@pytest.mark.parametrize(("key", "stored", "expected"), WHEN)
def test_revocation_looks_forward(key: dict[str, int], stored: int, expected: bool) -> None:
    more: Plain = {name: AT + offset for name, offset in key.items() if name != "revoked"}
    if "revoked" in key:
        more["revoked"] = {"revoked_at": AT + key["revoked"], "reason": "compromised"}
    found = signature.examine(DOCUMENT, jws_of(DOCUMENT), jwks(**more), kept_at=AT + stored)
    assert (found.signature, found.holds) == (True, expected)


# ---- other people's software ------------------------------------------------------------------------------------


def block(language: str) -> str:
    """The one block in that language on the page that tells how to verify."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def files(folder: Path, alg: str, data: bytes) -> None:
    (folder / "report.jws").write_text(jws_of(DOCUMENT, alg))
    (folder / "report.json").write_bytes(data)
    (folder / "document-keys.json").write_text(json.dumps(jwks()))


CHANGED = DOCUMENT.replace(b"1.5", b"1.6")


@pytest.mark.shared
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_says_the_same_as_the_page_tells(tmp_path: Path) -> None:
    for data, said in ((DOCUMENT, "Verified OK"), (CHANGED, "Verification failure")):
        files(tmp_path, "ES384", data)
        ran = subprocess.run(["sh", "-c", block("sh")], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert said in ran.stdout + ran.stderr, ran.stderr
        assert f'"iat":{AT}' in ran.stdout.replace(" ", "")


@pytest.mark.shared
@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize("alg", ["ES384", "RS384"])
def test_node_says_the_same_as_the_page_tells(tmp_path: Path, alg: str) -> None:
    (tmp_path / "verify.mjs").write_text(block("js"))
    for data, said in ((DOCUMENT, "holds"), (CHANGED, "DOES NOT HOLD")):
        files(tmp_path, alg, data)
        ran = subprocess.run(["node", "verify.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.stdout.startswith(said), ran.stderr


@pytest.mark.shared
@pytest.mark.parametrize("alg", ["ES384", "RS384"])
def test_another_jose_library_says_the_same(alg: str) -> None:
    jwt = pytest.importorskip("jwt")
    key = jwt.PyJWK({**KEYS[alg].as_dict(private=False), "alg": alg})
    head, _, mark = jws_of(DOCUMENT, alg).split(".")

    def whole(data: bytes) -> str:
        return f"{head}.{base64.urlsafe_b64encode(data).rstrip(b'=').decode()}.{mark}"

    assert jwt.PyJWS().decode(whole(DOCUMENT), key.key, algorithms=[alg]) == DOCUMENT
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.PyJWS().decode(whole(CHANGED), key.key, algorithms=[alg])
