"""Software that we did not write for it signs in: Authlib's client, our own client for EHRs; keys that rotate at a URL;
and an external issuer in the place of our token endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jwt
from joserfc.jwk import ECKey
from pytest_httpserver import HTTPServer

from fhir_secondop.ehr import keys
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.model import Connection
from fhir_secondop.store.database import now_ms
from tests.web.systems.conftest import EC, OTHER, RSA, jwks

NEXT = ECKey.generate_key("P-384", {"kid": "e2"}, private=True)


@pytest.fixture
def other() -> Iterator[HTTPServer]:
    """Another party's server: a client's JWKS, or an issuer."""
    with HTTPServer() as server:
        yield server


def at(server: HTTPServer, path: str) -> str:
    return server.url_for(path).replace("localhost", "127.0.0.1")


@pytest.mark.parametrize(("key", "alg"), [(EC, "ES384"), (RSA, "RS384")], ids=["ES384", "RS384"])
def test_authlibs_client_gets_a_token_and_reads(start: Any, key: Any, alg: str) -> None:
    door = start()
    session = OAuth2Session(
        "lakeside", key, scope="system/Patient.rs", token_endpoint=door.token_url,
        token_endpoint_auth_method="private_key_jwt", revocation_endpoint_auth_method="private_key_jwt",
    )  # fmt: skip

    def sign_anew() -> None:
        # It signs for an hour where nothing is said, SMART allows five minutes; and it keeps the jti with the claims.
        claims = {"exp": now_ms() // 1000 + 240}
        session.register_client_auth_method(
            PrivateKeyJWT(door.token_url, headers={"kid": key.kid}, alg=alg, claims=claims)
        )

    sign_anew()
    token = session.fetch_token(door.token_url, grant_type="client_credentials")

    assert token["scope"] == "system/Patient.rs"
    assert session.get(door.base + "/fhir/Patient").json()["resourceType"] == "Bundle"
    assert session.get(door.base + "/fhir/Device").status_code == 403
    sign_anew()
    assert session.introspect_token(door.base + "/auth/introspect", token["access_token"]).json()["active"] is True
    sign_anew()
    assert session.revoke_token(door.base + "/auth/revoke", token["access_token"]).status_code == 200
    assert session.get(door.base + "/fhir/Patient").status_code == 401


def connection(door: Any, folder: Path, **more: Any) -> Connection:
    return Connection("opinion", door.base + "/fhir", auth="smart", client_id="hub", key_file=str(folder / "hub"),
                      **more)  # fmt: skip


@pytest.mark.parametrize("alg", keys.ALGORITHMS)
def test_our_own_client_for_ehrs_signs_in_at_our_own_server(start: Any, tmp_path: Path, alg: str) -> None:
    keys.add(tmp_path / "hub", alg, now_s=0, signs_after_h=0)
    (tmp_path / "hub.json").write_text(json.dumps(keys.public([tmp_path / "hub"])))
    door = start()
    file = tmp_path / "clients.toml"
    file.write_text('[clients.hub]\nroles = ["coordinator"]\nscopes = ["system/*.crus"]\njwks_file = "hub.json"\n')
    client = Client(connection(door, tmp_path), now=now_ms)  # all that it knows, it reads from our configuration

    with pytest.raises(EhrFailure) as missing:
        client.read("Patient/nobody")
    assert missing.value.status == 404  # it came in, and there is no such patient

    file.write_text("")
    with pytest.raises(EhrFailure) as refused:
        client.read("Patient/nobody")
    assert refused.value.kind == "auth"


def test_a_client_whose_keys_rotate_at_its_url_goes_on(start: Any, other: HTTPServer, tmp_path: Path) -> None:
    door = start()
    other.expect_request("/jwks").respond_with_data(jwks(EC), content_type="application/json")
    (tmp_path / "clients.toml").write_text(
        f'[clients.lakeside]\nscopes = ["system/*.rs"]\njwks_url = "{at(other, "/jwks")}"\n'
    )
    door.token()
    assert len(other.log) == 1

    other.clear()
    other.expect_request("/jwks").respond_with_data(jwks(EC, NEXT), content_type="application/json")
    early = door.ask(door.form(client_assertion=door.assertion(key=NEXT)))
    assert early.json()["error"] == "invalid_client"  # asked a moment ago: no more often than every 30 s
    assert other.log == []
    door.clock.ahead_s = 31
    for _ in range(3):
        door.token(key=NEXT)
    door.token(key=EC)
    assert len(other.log) == 1


def test_a_redirecting_jwks_url_gives_no_keys(start: Any, other: HTTPServer, tmp_path: Path) -> None:
    door = start()
    other.expect_request("/jwks").respond_with_data("", 302, {"Location": "/real"})
    other.expect_request("/real").respond_with_data(jwks(EC), content_type="application/json")
    (tmp_path / "clients.toml").write_text(
        f'[clients.lakeside]\nscopes = ["system/*.rs"]\njwks_url = "{at(other, "/jwks")}"\n'
    )

    assert door.ask(door.form()).json()["error"] == "invalid_client"
    assert [request.path for request, _ in other.log] == ["/jwks"]


# --- an external issuer -------------------------------------------------------------------------------------------


def issued(issuer: str, **claims: Any) -> str:
    said = {"iss": issuer, "aud": "opinion", "exp": now_ms() // 1000 + 300, "client_id": "lakeside",
            "scope": "openid system/*.rs", **claims}  # fmt: skip
    return jwt.encode({"alg": "ES384", "kid": OTHER.kid, "typ": "at+jwt"}, said, OTHER, algorithms=["ES384"])


def test_with_an_issuer_its_tokens_are_taken_and_ours_are_not_made(
    start: Any, other: HTTPServer, tmp_path: Path
) -> None:
    issuer = at(other, "/realm")
    said = {"issuer": issuer, "jwks_uri": issuer + "/jwks", "token_endpoint": issuer + "/token",
            "grant_types_supported": ["client_credentials"], "authorization_endpoint": issuer + "/a"}  # fmt: skip
    other.expect_request("/realm/.well-known/openid-configuration").respond_with_json(said)
    other.expect_request("/realm/jwks").respond_with_data(jwks(OTHER), content_type="application/json")
    door = start(issuer=issuer, audience="opinion")
    file = tmp_path / "clients.toml"
    file.write_text('[clients.lakeside]\nroles = ["coordinator"]\nscopes = ["system/Patient.rs"]\n')

    token = issued(issuer)
    assert door.read(token).status_code == 200
    assert door.read(token, "/fhir/Task").status_code == 403  # the token may, the registration may not
    assert door.read(issued(issuer, scope="system/Task.rs")).status_code == 403
    for wrong in ({"aud": "other"}, {"client_id": "nobody"}, {"exp": now_ms() // 1000 - 90}):
        assert door.read(issued(issuer, **wrong)).status_code == 401, wrong
    for path in ("token", "introspect", "revoke"):
        assert door.ask(door.form(), f"/auth/{path}").status_code == 404
    configuration = requests.get(door.base + "/fhir/.well-known/smart-configuration", timeout=30).json()
    assert configuration["token_endpoint"] == issuer + "/token"
    assert configuration["capabilities"] == ["permission-v1", "permission-v2"]
    assert "introspection_endpoint" not in configuration
    assert "authorization_endpoint" not in configuration
    file.write_text("")
    assert door.read(token).status_code == 401


def test_an_issuer_that_is_away_is_503_and_not_401(start: Any, other: HTTPServer) -> None:
    issuer = at(other, "/realm")
    door = start(issuer=issuer, audience="opinion")

    assert door.read(issued(issuer)).status_code == 503
    assert requests.get(door.base + "/fhir/.well-known/smart-configuration", timeout=30).status_code == 503
