"""An external issuer's access tokens: discovery and keys from a real server, and what is let in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey
from pytest_httpserver import HTTPServer

from fhir_secondop.access import clients, issuer
from fhir_secondop.access.issuer import Issuer
from fhir_secondop.ehr import published
from fhir_secondop.errors import Invalid, Unauthenticated, Unavailable
from tests.access.signing import Plain, hmac_signed, jwks, signed

NOW = 1_800_000_000
AUDIENCE = "https://opinion.example/fhir"
RSA = RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
P256 = ECKey.generate_key("P-256", {"kid": "p256"}, private=True)
P384 = ECKey.generate_key("P-384", {"kid": "p384"}, private=True)
STRANGER = RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
HEAD = {"alg": "RS256", "kid": "r1", "typ": "at+jwt"}
OPENID, OAUTH = "/realm/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/realm"
FILE = """
[clients.lakeside]
name = "Lakeside's system"
roles = ["requester"]
scopes = ["system/Patient.rs", "system/Task.rs"]
[clients.riverside]
scopes = ["system/*.cruds"]
"""


@dataclass
class World:
    """The issuer's server, our clients, and the clock."""

    server: HTTPServer
    now_s: float = NOW

    @property
    def base(self) -> str:
        return self.server.url_for("/realm").replace("localhost", "127.0.0.1")

    def issuer(self) -> Issuer:
        rings = clients.Rings(lambda _: None, lambda _: None)  # type: ignore[arg-type, return-value]
        known = clients.parse(FILE, Path(), rings, need_keys=False)
        return Issuer(self.base, AUDIENCE, published.fetch, known.get, lambda: int(self.now_s * 1000))

    def claims(self, **changed: Any) -> Plain:
        said = {"iss": self.base, "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW, "sub": "lakeside",
                "client_id": "lakeside", "scope": "system/Patient.rs", **changed}  # fmt: skip
        return {name: value for name, value in said.items() if value is not ...}

    def publish(self, place: str = OPENID, **changed: Any) -> None:
        said = {"issuer": self.base, "jwks_uri": self.base + "/jwks", "token_endpoint": self.base + "/token"}
        self.server.expect_request(place).respond_with_json({**said, **changed})
        self.server.expect_request("/realm/jwks").respond_with_json(jwks(RSA, P256, P384))


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    """A published issuer, for tests that do not change it."""
    with HTTPServer() as server:
        made = World(server)
        made.publish()
        yield made


@pytest.fixture
def world() -> Iterator[World]:
    with HTTPServer() as server:
        yield World(server)


Make = Callable[[World], str]


def rs(header: Plain | None = None, /, **changed: Any) -> Make:
    return lambda w: signed({**HEAD, **(header or {})}, w.claims(**changed), RSA, "RS256")


GOOD: dict[str, Make] = {
    "RS256": rs(),
    "RS384": lambda w: signed({**HEAD, "alg": "RS384"}, w.claims(), RSA),
    "ES256": lambda w: signed({"alg": "ES256", "kid": "p256"}, w.claims(), P256),
    "ES384": lambda w: signed({"alg": "ES384", "kid": "p384", "typ": "JWT"}, w.claims(), P384),
    "typ as a media type": rs({"typ": "application/at+jwt"}),
    "aud of several": rs(aud=["https://x.example", AUDIENCE]),
    "by azp": rs(client_id=..., azp="lakeside", sub="f3a9"),
    "by sub": rs(client_id=...),
    "client_id before azp and sub": rs(azp="riverside", sub="riverside"),
    "other scopes beside": rs(scope="openid system/Patient.rs launch/patient profile"),
    "more scopes than it may have": rs(scope="system/Patient.cruds system/Device.rs"),
    "version 1": rs(scope="system/Patient.read"),
    "just past by a slow clock": rs(exp=NOW - 59),
    "nbf by a fast clock": rs(nbf=NOW + 60),
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_a_token_of_the_issuer_opens_what_it_and_the_registration_grant(running: World, make: Make) -> None:
    caller = running.issuer().caller(make(running))

    assert (caller.id, caller.name, caller.roles) == ("lakeside", "Lakeside's system", frozenset({"requester"}))
    assert caller.scopes == ("system/Patient.rs",)


@pytest.mark.parametrize("scope", ["", ..., "openid", "system/Device.rs", "user/Patient.rs", "system/Patient.sr"])
def test_a_token_without_a_scope_of_ours_opens_nothing(running: World, scope: Any) -> None:
    assert running.issuer().caller(rs(scope=scope)(running)).scopes == ()


BAD: dict[str, Make] = {
    "iss another": rs(iss="https://evil.example"),
    "iss with a slash": lambda w: rs(iss=w.base + "/")(w),
    "iss in capitals": lambda w: rs(iss=w.base.upper())(w),
    "no iss": rs(iss=...),
    "iss a list": lambda w: rs(iss=[w.base])(w),
    "aud another": rs(aud="https://other.example"),
    "aud the client, as in an ID token": rs(aud="lakeside"),
    "aud with a slash": rs(aud=AUDIENCE + "/"),
    "no aud": rs(aud=...),
    "aud an empty list": rs(aud=[]),
    "aud with a number": rs(aud=[AUDIENCE, 1]),
    "aud an object": rs(aud={AUDIENCE: True}),
    "no exp": rs(exp=...),
    "exp past": rs(exp=NOW - 60),
    "exp text": rs(exp=str(NOW + 600)),
    "exp null": rs(exp=None),
    "nbf ahead": rs(nbf=NOW + 61),
    "iat ahead": rs(iat=NOW + 61),
    "nbf text": rs(nbf="0"),
    "client unknown": rs(client_id="nobody"),
    "client_id null": rs(client_id=None),
    "client_id empty": rs(client_id=""),
    "client_id a list": rs(client_id=["lakeside"]),
    "azp unknown": rs(client_id=..., azp="nobody"),
    "no client at all": rs(client_id=..., sub=...),
    "scope a list": rs(scope=["system/Patient.rs"]),
    "scope null": rs(scope=None),
    "alg none": lambda w: signed({**HEAD, "alg": "none"}, w.claims(), None),
    "RS512": lambda w: signed({**HEAD, "alg": "RS512"}, w.claims(), RSA),
    "PS256": lambda w: signed({**HEAD, "alg": "PS256"}, w.claims(), RSA),
    "HS256 by the public key": lambda w: hmac_signed({**HEAD, "alg": "HS256"}, w.claims(), RSA.as_pem(False), "sha256"),
    "RS256 said, HS256 by the public key": lambda w: hmac_signed(HEAD, w.claims(), RSA.as_pem(False), "sha256"),
    "ES384 said of the P-256 key": lambda w: signed({"alg": "ES384", "kid": "p256"}, w.claims(), P256, "ES256"),
    "ES256 said of the P-384 key": lambda w: signed({"alg": "ES256", "kid": "p384"}, w.claims(), P384, "ES384"),
    "no kid": lambda w: signed({"alg": "RS256"}, w.claims(), RSA),
    "kid unknown": rs({"kid": "r2"}),
    "a stranger's key under the kid": lambda w: signed(HEAD, w.claims(), STRANGER),
    "a stranger's key in the header": lambda w: signed(
        {**HEAD, "jwk": STRANGER.as_dict(private=False)}, w.claims(), STRANGER
    ),
    "typ of a logout token": rs({"typ": "logout+jwt"}),
    "typ of a client assertion": rs({"typ": "client-authentication+jwt"}),
    "crit": rs({"crit": ["exp"]}),
    "iss twice": lambda w: signed(HEAD, json.dumps(w.claims())[:-1] + f',"iss":"{w.base}"}}', RSA),
    "signature cut": lambda w: rs()(w)[:-8],
    "claims exchanged": lambda w: ".".join(
        [rs()(w).split(".")[0], rs(scope="system/*.rs")(w).split(".")[1], rs()(w).split(".")[2]]
    ),
    "opaque": lambda w: "x" * 43,
    "nothing": lambda w: "",
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_any_other_token_is_refused_with_one_answer(running: World, make: Make) -> None:
    with pytest.raises(Unauthenticated) as caught:
        running.issuer().caller(make(running))

    assert caught.value.message == issuer._REFUSED


def test_keys_that_rotate_are_found(world: World) -> None:
    world.publish()
    held = world.issuer()
    held.caller(rs()(world))
    made = ECKey.generate_key("P-384", {"kid": "new"}, private=True)
    world.server.clear()
    world.server.expect_request("/realm/jwks").respond_with_json(jwks(made))
    token = signed({"alg": "ES384", "kid": "new"}, world.claims(), made)
    with pytest.raises(Unauthenticated):
        held.caller(token)  # asked a moment ago
    world.now_s += 30

    assert held.caller(token).id == "lakeside"
    with pytest.raises(Unauthenticated):
        held.caller(rs()(world))  # the old key was withdrawn


def test_the_oauth_discovery_is_taken_where_there_is_no_openid_one(world: World) -> None:
    world.publish(OAUTH)

    assert world.issuer().caller(rs()(world)).id == "lakeside"


@pytest.mark.parametrize(
    "changed",
    [{"issuer": "https://evil.example"}, {"issuer": None}, {"jwks_uri": "http://evil.example/jwks"},
     {"jwks_uri": None}, {"jwks_uri": "file:///etc/passwd"}],
    ids=str,
)  # fmt: skip
def test_a_discovery_that_is_not_the_issuers_own_lets_nobody_in(world: World, changed: Plain) -> None:
    world.publish(**changed)
    with pytest.raises(Unavailable):
        world.issuer().caller(rs()(world))


def test_an_issuer_that_does_not_answer_is_our_failure_and_is_asked_again(world: World) -> None:
    held = world.issuer()
    with pytest.raises(Unavailable):
        held.caller(rs()(world))
    world.publish()
    world.now_s += 30
    assert held.caller(rs()(world)).id == "lakeside"


def test_a_discovery_that_fails_is_not_asked_for_at_each_request(world: World) -> None:
    held = world.issuer()
    for _ in range(5):
        with pytest.raises(Unavailable):
            held.discovery.said()
    assert len(world.server.log) == 2  # one at each place
    world.now_s += 15
    world.publish()
    assert held.discovery.said()["issuer"] == world.base


def test_a_token_of_another_issuer_makes_us_ask_nobody(world: World) -> None:
    with pytest.raises(Unauthenticated):
        world.issuer().caller(rs(iss="https://evil.example")(world))
    assert world.server.log == []


@pytest.mark.parametrize(
    ("url", "audience", "named"),
    [("http://issuer.example", "a", "issuer"), ("issuer.example", "a", "issuer"),
     ("https://issuer.example?x=1", "a", "issuer"), ("https://issuer.example", "", "audience")],
)  # fmt: skip
def test_settings_that_can_not_be_used_are_named(url: str, audience: str, named: str) -> None:
    with pytest.raises(Invalid, match=named):
        issuer.check(url, audience)
