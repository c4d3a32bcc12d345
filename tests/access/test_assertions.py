"""A client's assertion: the one that holds, and everything that must not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from joserfc.jwk import ECKey, RSAKey

from fhir_secondop.access import assertions, clients, jwts, keysets
from fhir_secondop.access.assertions import Assertion
from fhir_secondop.errors import Unauthenticated, Unavailable
from tests.access.signing import Plain, b64, hmac_signed, jwks, signed

URL = "https://opinion.example/auth/token"
NOW = 1_800_000_000
RSA = RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
with warnings.catch_warnings(action="ignore"):
    RSA_OLD = RSAKey.generate_key(1024, {"kid": "weak"}, private=True)
EC = ECKey.generate_key("P-384", {"kid": "e1"}, private=True)
P256 = ECKey.generate_key("P-256", {"kid": "p256"}, private=True)
THEIRS = ECKey.generate_key("P-384", {"kid": "t1"}, private=True)
STRANGER = ECKey.generate_key("P-384", {"kid": "e1"}, private=True)  # says it is e1
PEM = RSA.as_pem(private=False)
HEAD = {"alg": "ES384", "kid": "e1", "typ": "JWT"}
RHEAD = {"alg": "RS384", "kid": "r1", "typ": "JWT"}
CLAIMS = {"iss": "lakeside", "sub": "lakeside", "aud": URL, "exp": NOW + 240, "jti": "j-1"}
JKU = "https://lakeside.example/jwks"


@dataclass(frozen=True)
class Ring:
    """Keys as a JWKS gives them."""

    keys: keysets.Keys

    def key(self, kid: str, alg: str) -> Any:
        return self.keys.get((kid, alg))


def ring(published: Plain) -> Ring:
    return Ring(keysets.keys(json.dumps(published).encode(), assertions.ALGORITHMS))


LAKESIDE = ring(jwks(RSA, EC, P256, RSA_OLD))
FILE = """
[clients.lakeside]
scopes = ["system/*.rs"]
jwks_url = "https://lakeside.example/jwks"
[clients.riverside]
scopes = ["system/*.rs"]
jwks_url = "https://riverside.example/jwks"
"""
BOTH = clients.parse(
    FILE, Path(), clients.Rings(lambda url: LAKESIDE if "lakeside" in url else ring(jwks(THEIRS)), lambda _: LAKESIDE)
)


def check(text: str, now_s: float = NOW) -> Assertion:
    return assertions.check(text, BOTH.get, URL, int(now_s * 1000))


def claims(**changed: Any) -> Plain:
    return {name: value for name, value in {**CLAIMS, **changed}.items() if value is not ...}


def head(**changed: Any) -> Plain:
    return {name: value for name, value in {**HEAD, **changed}.items() if value is not ...}


def ec(header: Plain | None = None, /, **changed: Any) -> str:
    return signed(header or HEAD, claims(**changed), EC, "ES384")


GOOD: dict[str, Callable[[], str]] = {
    "ES384": ec,
    "RS384": lambda: signed(RHEAD, CLAIMS, RSA),
    "no typ": lambda: ec(head(typ=...)),
    "typ in small letters": lambda: ec(head(typ="jwt")),
    "typ as a media type": lambda: ec(head(typ="application/jwt")),
    "exp five minutes ahead": lambda: ec(exp=NOW + 300),
    "exp five minutes ahead by a clock that is 60 s fast": lambda: ec(exp=NOW + 360),
    "exp just past by a clock that is slow": lambda: ec(exp=NOW - 59),
    "exp with a fraction": lambda: ec(exp=NOW + 240.5),
    "iat and nbf now": lambda: ec(iat=NOW, nbf=NOW),
    "iat a minute ahead": lambda: ec(iat=NOW + 60, nbf=NOW + 60),
    "iat long ago": lambda: ec(iat=NOW - 100_000),
    "aud as a list of one": lambda: ec(aud=[URL]),
    "the registered jku": lambda: ec(head(jku=JKU)),
    "a key in the header, which is not looked at": lambda: ec(head(jwk={"kty": "EC", "crv": "P-384"})),
    "claims of its own": lambda: ec(purpose="TREAT"),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_an_assertion_that_keeps_the_rules_holds(make: Callable[[], str]) -> None:
    held = check(make())

    assert (held.client.id, held.jti) == ("lakeside", "j-1")


def test_an_assertion_is_remembered_until_it_is_too_old_by_any_clock() -> None:
    held = check(ec(exp=NOW + 300))

    assert held.until_ms == (NOW + 300 + 120) * 1000
    with pytest.raises(Unauthenticated):
        check(ec(exp=NOW + 300), now_s=NOW + 300 + 60)


SELF_SIGNED = {"jwk": STRANGER.as_dict(private=False)}
BAD: dict[str, Callable[[], str]] = {
    # who: iss and sub
    "no iss": lambda: ec(iss=...),
    "no sub": lambda: ec(sub=...),
    "iss empty": lambda: ec(iss=""),
    "iss a number": lambda: ec(iss=1),
    "iss a list": lambda: ec(iss=["lakeside"]),
    "iss null": lambda: ec(iss=None),
    "iss unknown": lambda: ec(iss="nobody", sub="nobody"),
    "iss in capitals": lambda: ec(iss="LAKESIDE", sub="LAKESIDE"),
    "iss with a space": lambda: ec(iss="lakeside ", sub="lakeside "),
    "iss endless": lambda: ec(iss="l" * 300, sub="l" * 300),
    "sub another": lambda: ec(sub="riverside"),
    "sub a list": lambda: ec(sub=["lakeside"]),
    "sub null": lambda: ec(sub=None),
    "iss another, signed by us": lambda: ec(iss="riverside", sub="riverside"),
    "sub by another's key": lambda: signed(head(kid="t1"), CLAIMS, THEIRS),
    # for whom: aud
    "no aud": lambda: ec(aud=...),
    "aud the FHIR base": lambda: ec(aud="https://opinion.example/fhir"),
    "aud the host": lambda: ec(aud="https://opinion.example"),
    "aud with a slash": lambda: ec(aud=URL + "/"),
    "aud with a query": lambda: ec(aud=URL + "?x"),
    "aud by http": lambda: ec(aud=URL.replace("https", "http")),
    "aud in capitals": lambda: ec(aud=URL.upper()),
    "aud with a prefix only": lambda: ec(aud=URL[:-1]),
    "aud of two": lambda: ec(aud=[URL, "https://other.example/token"]),
    "aud ours twice": lambda: ec(aud=[URL, URL]),
    "aud an empty list": lambda: ec(aud=[]),
    "aud a list in a list": lambda: ec(aud=[[URL]]),
    "aud an object": lambda: ec(aud={URL: 1}),
    "aud null": lambda: ec(aud=None),
    "aud a number": lambda: ec(aud=1),
    # until when
    "no exp": lambda: ec(exp=...),
    "exp null": lambda: ec(exp=None),
    "exp text": lambda: ec(exp=str(NOW + 240)),
    "exp true": lambda: ec(exp=True),
    "exp a list": lambda: ec(exp=[NOW + 240]),
    "exp negative": lambda: ec(exp=-1),
    "exp NaN": lambda: signed(HEAD, json.dumps(claims(exp=float("nan"))), EC),
    "exp Infinity": lambda: signed(HEAD, json.dumps(claims(exp=float("inf"))), EC),
    "NaN anywhere": lambda: signed(HEAD, json.dumps(claims(more=float("nan"))), EC),
    "exp 1e999": lambda: signed(HEAD, json.dumps(CLAIMS).replace(str(NOW + 240), "1e999"), EC),
    "exp in milliseconds": lambda: ec(exp=(NOW + 240) * 1000),
    "exp a minute past": lambda: ec(exp=NOW - 60),
    "exp long past": lambda: ec(exp=NOW - 86_400),
    "exp a second too far": lambda: ec(exp=NOW + 361),
    "exp an hour ahead": lambda: ec(exp=NOW + 3600),
    "iat ahead": lambda: ec(iat=NOW + 61),
    "nbf ahead": lambda: ec(nbf=NOW + 61),
    "iat text": lambda: ec(iat="now"),
    "iat null": lambda: ec(iat=None),
    "nbf false": lambda: ec(nbf=False),
    # once
    "no jti": lambda: ec(jti=...),
    "jti empty": lambda: ec(jti=""),
    "jti a number": lambda: ec(jti=7),
    "jti null": lambda: ec(jti=None),
    "jti a list": lambda: ec(jti=["j-1"]),
    "jti endless": lambda: ec(jti="j" * 257),
    # the algorithm
    "alg none": lambda: signed(head(alg="none"), CLAIMS, None),
    "alg None": lambda: signed(head(alg="None"), CLAIMS, None),
    "alg empty": lambda: signed(head(alg=""), CLAIMS, EC, "ES384"),
    "no alg": lambda: signed(head(alg=...), CLAIMS, EC, "ES384"),
    "alg a list": lambda: signed(head(alg=["ES384"]), CLAIMS, EC, "ES384"),
    "alg null": lambda: signed(head(alg=None), CLAIMS, EC, "ES384"),
    "alg in small letters": lambda: signed(head(alg="es384"), CLAIMS, EC, "ES384"),
    "no signature": lambda: signed(HEAD, CLAIMS, None),
    "HS256 by the public key": lambda: hmac_signed({**RHEAD, "alg": "HS256"}, CLAIMS, PEM, "sha256"),
    "HS384 by the public key": lambda: hmac_signed({**RHEAD, "alg": "HS384"}, CLAIMS, PEM, "sha384"),
    "RS384 said, HS384 by the public key": lambda: hmac_signed(RHEAD, CLAIMS, PEM, "sha384"),
    "RS256": lambda: signed({**RHEAD, "alg": "RS256"}, CLAIMS, RSA),
    "RS512": lambda: signed({**RHEAD, "alg": "RS512"}, CLAIMS, RSA),
    "PS384": lambda: signed({**RHEAD, "alg": "PS384"}, CLAIMS, RSA),
    "RS384 said, RS256 signed": lambda: signed(RHEAD, CLAIMS, RSA, "RS256"),
    "RS384 said, PS384 signed": lambda: signed(RHEAD, CLAIMS, RSA, "PS384"),
    "ES256": lambda: signed(head(alg="ES256", kid="p256"), CLAIMS, P256),
    "ES384 said, P-256 signed": lambda: signed(head(kid="p256"), CLAIMS, P256, "ES256"),
    "RS384 said of an EC key": lambda: signed(head(alg="RS384"), CLAIMS, EC, "ES384"),
    "ES384 said of an RSA key": lambda: signed({**RHEAD, "alg": "ES384"}, CLAIMS, RSA, "RS384"),
    # the key
    "no kid": lambda: ec(head(kid=...)),
    "kid empty": lambda: ec(head(kid="")),
    "kid null": lambda: ec(head(kid=None)),
    "kid a number": lambda: ec(head(kid=1)),
    "kid a list": lambda: ec(head(kid=["e1"])),
    "kid unknown": lambda: ec(head(kid="e2")),
    "kid a path": lambda: ec(head(kid="../../dev/null")),
    "kid of the other key": lambda: ec(head(kid="r1")),
    "a weak RSA key of the JWKS": lambda: signed({**RHEAD, "kid": "weak"}, CLAIMS, RSA_OLD),
    "a stranger's key under our kid": lambda: signed(HEAD, CLAIMS, STRANGER),
    "a stranger's key in the header": lambda: signed(head(**SELF_SIGNED), CLAIMS, STRANGER),
    "jku another": lambda: ec(head(jku="https://evil.example/jwks")),
    "jku with a slash more": lambda: ec(head(jku=JKU + "/")),
    "jku null": lambda: ec(head(jku=None)),
    # the header
    "crit": lambda: ec(head(crit=["exp"])),
    "crit empty": lambda: ec(head(crit=[])),
    "b64 false": lambda: ec(head(b64=False)),
    "an unknown member": lambda: ec(head(purpose="x")),
    "typ of an access token": lambda: ec(head(typ="at+jwt")),
    "typ of a logout token": lambda: ec(head(typ="logout+jwt")),
    "typ null": lambda: ec(head(typ=None)),
    "typ a list": lambda: ec(head(typ=["JWT"])),
    "a header that is a list": lambda: signed("[]", CLAIMS, EC),
    "a header that is no JSON": lambda: signed("{", CLAIMS, EC),
    "alg twice, none first": lambda: signed('{"alg":"none","alg":"ES384","kid":"e1"}', CLAIMS, EC),
    "alg twice, none last": lambda: signed('{"alg":"ES384","kid":"e1","alg":"none"}', CLAIMS, EC),
    "kid twice": lambda: signed('{"alg":"ES384","kid":"x","kid":"e1"}', CLAIMS, EC),
    # the body
    "claims twice": lambda: signed(HEAD, json.dumps(CLAIMS)[:-1] + ',"sub":"lakeside"}', EC),
    "iss twice": lambda: signed(HEAD, '{"iss":"riverside",' + json.dumps(CLAIMS)[1:], EC),
    "exp twice": lambda: signed(HEAD, json.dumps(CLAIMS)[:-1] + f',"exp":{NOW + 241}}}', EC),
    "claims that are a list": lambda: signed(HEAD, "[]", EC),
    "claims that are text": lambda: signed(HEAD, '"lakeside"', EC),
    "claims that are no JSON": lambda: signed(HEAD, "lakeside", EC),
    "claims nested deeply": lambda: signed(HEAD, '{"a":' + "[" * 3000 + "]" * 3000 + "}", EC),
    "claims empty": lambda: signed(HEAD, {}, EC),
    "claims beyond UTF-8": lambda: signed(HEAD, '{"iss":"\udcff"}', EC),
    # the form
    "nothing": lambda: "",
    "one dot": lambda: "a.b",
    "only dots": lambda: "..",
    "four parts": lambda: ec() + ".x",
    "five parts, as encrypted": lambda: "a.b.c.d.e",
    "a space before": lambda: " " + ec(),
    "a newline after": lambda: ec() + "\n",
    "padded": lambda: ec() + "==",
    "base64 of the other alphabet": lambda: b64(b'{"a":"\xff\xff\xff?"}').replace("_", "/") + ec()[10:],
    "the JSON form": lambda: json.dumps({"payload": ec().split(".")[1], "signatures": []}),
    "over-long": lambda: ec(more="x" * 20_000),
    "letters beyond ASCII": lambda: ec().replace("e", "é", 1),
    "claims exchanged": lambda: ".".join([ec().split(".")[0], ec(sub="x").split(".")[1], ec().split(".")[2]]),
    "signature cut": lambda: ec()[:-4],
    "signature of another": lambda: ec().rpartition(".")[0] + "." + ec(jti="j-2").rpartition(".")[2],
    "signature of zeros": lambda: ec().rpartition(".")[0] + "." + b64(bytes(96)),
    "signature in DER": lambda: ec().rpartition(".")[0] + "." + b64(b"\x30\x06\x02\x01\x00\x02\x01\x00"),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_any_other_assertion_is_refused(make: Callable[[], str]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        check(make())

    assert "j-1" not in caught.value.message
    assert "eyJ" not in caught.value.message


@pytest.mark.parametrize("alg", ["none", "HS384", "RS256", "ES256", "EdDSA"])
def test_an_algorithm_is_refused_before_any_key_is_looked_for(alg: str) -> None:
    with pytest.raises(Unauthenticated, match="alg"):
        jwts.opened(signed(head(alg=alg), CLAIMS, None), assertions.ALGORITHMS, ("jwt",))


_CLAIM = st.sampled_from([*CLAIMS.values(), URL, [URL], "lakeside", None, True, 0, -1, NOW, 1.5, {}, [], "", "é"])


@given(
    header=st.dictionaries(
        st.sampled_from([*HEAD, "jku", "jwk", "crit", "x"]), _CLAIM | st.sampled_from([*HEAD.values()])
    ),
    body=st.dictionaries(st.sampled_from([*CLAIMS, "iat", "nbf", "x"]), _CLAIM),
)
@hypothesis_settings(max_examples=500, deadline=None)
def test_whatever_stands_in_an_assertion_it_holds_or_is_refused(header: Plain, body: Plain) -> None:
    """Signed by the client's own key, so that only the rules stand between."""
    try:
        held = check(signed(header, body, EC, "ES384"))
    except Unauthenticated:
        return
    assert (body["iss"], body["sub"], header["alg"], header["kid"]) == ("lakeside", "lakeside", "ES384", "e1")
    assert body["aud"] in (URL, [URL])
    assert NOW - 60 < body["exp"] <= NOW + 360
    assert held.jti == body["jti"]


@given(st.text(max_size=80) | st.lists(st.binary(max_size=40).map(b64), min_size=3, max_size=3).map(".".join))
@hypothesis_settings(max_examples=300, deadline=None)
def test_no_text_does_anything_but_be_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        check(text)


def test_a_client_whose_keys_can_not_be_read_is_told_from_a_wrong_assertion() -> None:
    class Gone:
        def key(self, kid: str, alg: str) -> Any:
            raise Unavailable("away")

    away = clients.parse(FILE, Path(), clients.Rings(lambda _: Gone(), lambda _: Gone()))
    with pytest.raises(Unavailable):
        assertions.check(ec(), away.get, URL, NOW * 1000)
