"""Signing in: passwords, fixed tokens, and SMART Backend Services with everything that can be wrong about it."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from pytest_httpserver import HTTPServer

from fhir_secondop.fhir import codec, validate
from fhir_secondop.sandbox.signin import Rules
from tests.sandbox.conftest import JSON, Farm, document, get, post

CLIENT = "second-opinion"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
RSA = RSAKey.generate_key(2048, parameters={"kid": "r1"})
EC = ECKey.generate_key("P-384", parameters={"kid": "e1"})


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    """The client's public keys, in a file."""
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(KeySet([RSA, EC]).as_dict(private=False)))
    return str(path)


@pytest.fixture
def smart(farm: Farm, jwks: str) -> Farm:
    """smart("full", "token-lifetime=1") → the base of an EHR at which CLIENT is registered."""
    return lambda shape, *quirks: farm(shape, *quirks, rules=Rules("smart", clients={CLIENT: jwks}))


def assertion(base: str, key: Any = EC, **claims: Any) -> str:
    header = {"alg": "RS384" if isinstance(key, RSAKey) else "ES384", "kid": claims.pop("kid", key.kid), "typ": "JWT"}
    good = {"iss": CLIENT, "sub": CLIENT, "aud": token_url(base), "exp": int(time.time()) + 240,
            "jti": str(uuid.uuid4())}  # fmt: skip
    kept = {name: value for name, value in {**good, **claims}.items() if value is not None}
    return jwt.encode({k: v for k, v in header.items() if v is not None}, kept, key, algorithms=[header["alg"]])


def token_url(base: str) -> str:
    return base.removesuffix("/fhir") + "/auth/token"


def ask(base: str, signed: str = "", scope: str = "system/*.cruds", **form: str) -> requests.Response:
    sent = {"grant_type": "client_credentials", "scope": scope, "client_assertion_type": ASSERTION,
            "client_assertion": signed or assertion(base), **form}  # fmt: skip
    return requests.post(token_url(base), data=sent, timeout=10)


def signed_in(base: str, scope: str = "system/*.cruds") -> dict[str, str]:
    answer = ask(base, scope=scope)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def refused(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


@pytest.mark.parametrize(("way", "secret", "good", "bad", "asks"), [
    ("basic", "user:päss", "Basic dXNlcjpww6Rzcw==", "Basic dXNlcjpwYXNz", 'Basic realm="EHR"'),
    ("bearer", "t0ken", "Bearer t0ken", "Bearer t0ke", "Bearer"),
])  # fmt: skip
def test_a_secret_lets_in(farm: Farm, way: str, secret: str, good: str, bad: str, asks: str) -> None:
    base = farm("full", rules=Rules(way, secret))
    assert get(base, "Patient/1", headers={"Authorization": good}).status_code == 200
    for headers in ({}, {"Authorization": bad}, {"Authorization": ""}):
        answer = get(base, "Patient/1", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, asks)
        assert answer.headers["Content-Type"] == JSON
    assert post(base, document()).status_code == 401
    assert get(base, "metadata").status_code == 200
    assert get(base, ".well-known/smart-configuration").status_code == 404


@pytest.mark.parametrize("key", [RSA, EC], ids=["RS384", "ES384"])
def test_a_signed_assertion_gets_a_token(smart: Farm, key: Any) -> None:
    base = smart("full")
    configuration = get(base, ".well-known/smart-configuration").json()
    assert configuration["token_endpoint"] == token_url(base)
    assert configuration["token_endpoint_auth_signing_alg_values_supported"] == ["RS384", "ES384"]
    answer = ask(base, assertion(base, key), "system/Patient.rs")
    token = answer.json()
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert (token["token_type"], token["expires_in"], token["scope"]) == ("bearer", 300, "system/Patient.rs")
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert get(base, "Patient/1", headers=headers).status_code == 200
    assert get(base, "Patient/1").status_code == 401
    assert get(base, "Patient/1", headers={"Authorization": token["access_token"]}).status_code == 401


def test_the_statement_says_how_one_signs_in_and_is_valid(smart: Farm) -> None:
    base = smart("full")
    statement = codec.parse(get(base, "metadata").content)
    assert validate.validate(statement) == []
    security = statement["rest"][0]["security"]
    assert security["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    assert "extension" not in security  # oauth-uris needs an authorize endpoint, too
    assert get(base, ".well-known/smart-configuration").json()["token_endpoint"] == token_url(base)


OTHER = ECKey.generate_key("P-384", parameters={"kid": "e1"})
WEAK = ECKey.generate_key("P-256", parameters={"kid": "e1"})


@pytest.mark.parametrize("claims", [
    {"iss": "somebody"}, {"sub": "somebody"}, {"sub": None}, {"aud": "https://elsewhere.example/token"},
    {"exp": 1}, {"exp": int(time.time()) + 3600}, {"exp": None}, {"exp": "soon"}, {"jti": None},
    {"kid": "unknown"}, {"kid": None}, {"key": OTHER},
], ids=lambda claims: next(iter(claims)))  # fmt: skip
def test_an_assertion_with_a_fault_gets_none(smart: Farm, claims: dict[str, Any]) -> None:
    base = smart("full")
    assert refused(ask(base, assertion(base, **claims))) == (401, "invalid_client")


def test_an_assertion_is_good_once(smart: Farm) -> None:
    base = smart("full")
    signed = assertion(base)
    assert ask(base, signed).status_code == 200
    assert refused(ask(base, signed)) == (401, "invalid_client")


def test_the_audience_may_be_a_list(smart: Farm) -> None:
    base = smart("full")
    assert ask(base, assertion(base, aud=["x", token_url(base)])).status_code == 200


def test_other_algorithms_and_other_things_are_refused(smart: Farm) -> None:
    base = smart("full")
    claims = {"iss": CLIENT, "sub": CLIENT, "aud": token_url(base), "exp": int(time.time()) + 60, "jti": "1"}
    for algorithm, key in (("ES256", WEAK), ("RS256", RSA)):
        signed = jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key, algorithms=[algorithm])
        assert refused(ask(base, signed)) == (401, "invalid_client")
    assert refused(ask(base, "not.a.jwt")) == (401, "invalid_client")
    assert refused(ask(base, "nonsense")) == (401, "invalid_client")
    assert refused(ask(base, grant_type="password")) == (400, "unsupported_grant_type")
    assert refused(ask(base, client_assertion_type="x")) == (400, "invalid_request")


def test_keys_at_a_url_may_be_rotated(farm: Farm, httpserver: HTTPServer) -> None:
    httpserver.expect_ordered_request("/jwks").respond_with_json(KeySet([RSA]).as_dict(private=False))
    httpserver.expect_ordered_request("/jwks").respond_with_json(KeySet([EC]).as_dict(private=False))
    base = farm("full", rules=Rules("smart", clients={CLIENT: httpserver.url_for("/jwks")}))
    assert ask(base, assertion(base, RSA)).status_code == 200
    assert ask(base, assertion(base, EC)).status_code == 200
    assert refused(ask(base, assertion(base, EC))) == (401, "invalid_client"), "there is no JWKS any more"


def test_scopes_say_what_may_be_done_with_a_type(smart: Farm) -> None:
    base = smart("full")
    headers = signed_in(base, "system/Observation.rs system/DocumentReference.c system/Condition.r")
    assert get(base, "Observation?patient=1", headers=headers).status_code == 200
    assert get(base, "Patient/1", headers=headers).status_code == 403
    assert get(base, "DocumentReference/d", headers=headers).status_code == 403
    assert get(base, "Condition?patient=1", headers=headers).status_code == 403, "r does not search"
    assert post(base, document(), **headers).status_code == 201
    assert get(base, "Patient/1/$everything", headers=headers).status_code == 403
    assert get(base, "metadata", headers=headers).status_code == 200


@pytest.mark.parametrize("scope", ["", "system/Patient.read", "system/Patient.", "patient/*.rs", "system/Patient.sr"])
def test_a_scope_that_is_not_known_is_invalid(smart: Farm, scope: str) -> None:
    assert refused(ask(smart("full"), scope=scope)) == (400, "invalid_scope")


def test_an_older_ehr_knows_v1_scopes_alone(smart: Farm) -> None:
    base = smart("full", "scopes-v1")
    assert "permission-v1" in get(base, ".well-known/smart-configuration").json()["capabilities"]
    assert refused(ask(base, scope="system/Patient.rs")) == (400, "invalid_scope")
    assert ask(base, scope="system/Patient.read").json()["scope"] == "system/Patient.read"
    headers = signed_in(base, "system/Patient.read system/DocumentReference.write system/Goal.*")
    assert get(base, "Patient?birthdate=1971-04-17", headers=headers).status_code == 200
    assert get(base, "DocumentReference/d", headers=headers).status_code == 403
    assert post(base, document(), **headers).status_code == 201
    assert get(base, "Goal?patient=1", headers=headers).status_code == 200


def test_a_grant_may_leave_a_type_out(smart: Farm) -> None:
    base = smart("athena", "partial-grant=Observation", "partial-grant=Goal")
    answer = ask(base, scope="system/Patient.rs system/Observation.rs")
    assert answer.json()["scope"] == "system/Patient.rs"
    for scope in ("system/Patient.rs system/Observation.rs", "system/*.rs"):
        headers = signed_in(base, scope)
        assert get(base, "Patient/1", headers=headers).status_code == 200
        assert get(base, "Observation?patient=1", headers=headers).status_code == 403
    assert get(base, "Goal?patient=1", headers=headers).status_code == 403
    assert get(base, "Encounter?patient=1", headers=headers).status_code == 200
    assert refused(ask(base, scope="system/Observation.rs")) == (400, "invalid_scope")


def test_a_client_may_be_refused_whatever_it_shows(smart: Farm) -> None:
    base = smart("meditech")
    assert "client_credentials" in get(base, ".well-known/smart-configuration").json()["grant_types_supported"]
    assert refused(ask(base)) == (400, "unauthorized_client")
    assert refused(ask(smart("full", "refuses-clients"))) == (400, "unauthorized_client")


def test_a_token_lives_as_long_as_it_says(smart: Farm) -> None:
    base = smart("full", "token-lifetime=1")
    answer = ask(base)
    assert answer.json()["expires_in"] == 1
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert get(base, "Patient/1", headers=headers).status_code == 200
    time.sleep(1.05)
    answer = get(base, "Patient/1", headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_one_request_with_a_good_token_can_be_refused(smart: Farm) -> None:
    base = smart("full", "expired-token=3")
    headers = signed_in(base)
    assert get(base, "Patient/1").status_code == 401
    answers = [get(base, "Patient/1", headers=headers) for _ in range(5)]
    assert [a.status_code for a in answers] == [200, 200, 401, 200, 200]
    assert answers[2].headers["WWW-Authenticate"] == "Bearer"


def test_each_token_can_be_forgotten_once(smart: Farm) -> None:
    base = smart("full", "forgets-tokens")
    for _ in range(2):
        headers = signed_in(base)
        answers = [get(base, "Patient/1", headers=headers).status_code for _ in range(4)]
        assert answers == [200, 401, 200, 200]
    first = smart("full", "forgets-tokens=1")
    headers = signed_in(first)
    assert [get(first, "Patient/1", headers=headers).status_code for _ in range(2)] == [401, 200]
