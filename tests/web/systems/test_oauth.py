"""The token endpoint over HTTP, on both databases: who gets a token, what it opens, and how it ends."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from joserfc.jwk import ECKey

from fhir_secondop import fhir
from fhir_secondop.access.assertions import ASSERTION
from fhir_secondop.store import tables
from tests.web.systems.conftest import CLIENTS, EC, OPERATOR, OTHER, RSA, Door, Plain, jwks

STRANGER = ECKey.generate_key("P-384", {"kid": "e1"}, private=True)


# --- getting one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES384", "RS384"])
def test_a_registered_client_gets_a_token_and_reads_with_it(door: Door, key: Any) -> None:
    answer = door.ask(door.form(client_assertion=door.assertion(key=key)))

    said = answer.json()
    assert answer.status_code == 200, said
    assert (said["token_type"], said["expires_in"], said["scope"]) == ("bearer", 300, "system/Patient.rs")
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert door.read(said["access_token"]).status_code == 200
    assert door.read(said["access_token"], "/fhir/Task").status_code == 403  # it may, but did not ask


def test_neither_tokens_nor_assertions_are_kept_or_logged(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    form = door.form()
    token = door.ask(form).json()["access_token"]
    door.read(token)
    door.ask(form)  # a replay

    with door.service.context.database.reading() as connection:
        rows = [repr(tuple(r)) for t in tables.metadata.tables.values() for r in connection.execute(sa.select(t))]
    assert len(rows) >= 2
    for secret in (token, form["client_assertion"], form["client_assertion"].split(".")[2]):
        assert secret not in "".join(rows) + caplog.text


SCOPES: list[tuple[str | None, str | None]] = [
    # asked, and what is granted; None is invalid_scope
    ("system/Patient.rs", "system/Patient.rs"),
    ("system/Patient.read", "system/Patient.read"),
    ("system/Patient.read system/Task.rs", "system/Patient.rs system/Task.rs"),
    ("system/*.cruds", "system/Observation.rs?category=laboratory system/Patient.cruds system/Task.rs"),
    ("system/*.rs", "system/Observation.rs?category=laboratory system/Patient.rs system/Task.rs"),
    ("system/Observation.rs", "system/Observation.rs?category=laboratory"),
    ("system/Observation.rs?status=final", "system/Observation.rs?category=laboratory&status=final"),
    ("system/Observation.rs?category=vital-signs",
     "system/Observation.rs?category=laboratory&category=vital-signs"),  # both: hardly any
    ("system/Patient.rs system/Device.rs", "system/Patient.rs"),
    ("system/Patient.rs system/Patient.rs", "system/Patient.rs"),
    ("system/Device.rs", None),
    ("system/Observation.cud", None),
    ("user/Patient.rs", None),
    ("patient/Patient.rs", None),
    ("openid", None),
    ("system/Patient.rs openid", None),
    ("system/Patient.rs offline_access", None),
    ("system/Patient.sr", None),
    ("system/Patient.rs\n", None),
    ("system/Patient.rs  system/Task.rs", None),
    ("system/Patient.rs,system/Task.rs", None),
    ("system/Observation.rs?category=", None),
    ("system/Observation.rs?_count=1", None),
    ("system/Observation.rs?subject.name=x", None),
    ("system/Observation.rs?category=laboratory&_include=*", None),
    ("system/*.rs?category=laboratory", None),
    ("system/Patient.rs " * 600, None),
    ("", None),
    (None, None),
]  # fmt: skip


def test_what_is_asked_for_is_granted_as_far_as_the_client_may_have_it(door: Door) -> None:
    for asked, granted in SCOPES:
        answer = door.ask(door.form(asked, client_assertion=door.assertion()))
        said = answer.json()
        if granted is None:
            assert (answer.status_code, said["error"]) == (400, "invalid_scope"), asked
            assert "access_token" not in said
        else:
            assert (answer.status_code, said["scope"]) == (200, granted), asked


def test_an_error_has_only_the_characters_that_it_may_have(door: Door) -> None:
    for scope in (
        "system/Observation.rs?d%C3%A9=1",
        "system/Observation.rs?%22=1",
        "system/Observation.rs?date=%0A%22",
    ):
        said = door.ask(door.form(scope, client_assertion=door.assertion())).json()["error_description"]
        assert said.isascii()
        assert said.isprintable()
        assert not set('"\\') & set(said)


def without(*names: str, **more: Any) -> Callable[[Door], Any]:
    return lambda door: {k: v for k, v in door.form(**more).items() if k not in names}


REFUSED: dict[str, tuple[Callable[[Door], Any], int, str]] = {
    "nothing": (lambda d: {}, 400, "invalid_request"),
    "no grant_type": (without("grant_type"), 400, "invalid_request"),
    "grant_type empty": (lambda d: d.form(grant_type=""), 400, "invalid_request"),
    "password": (lambda d: d.form(grant_type="password", username="a", password="b"), 400, "unsupported_grant_type"),
    "authorization_code": (lambda d: d.form(grant_type="authorization_code"), 400, "unsupported_grant_type"),
    "refresh_token": (lambda d: d.form(grant_type="refresh_token"), 400, "unsupported_grant_type"),
    "jwt-bearer as a grant": (
        lambda d: d.form(grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer"), 400, "unsupported_grant_type"),
    "grant_type in capitals": (lambda d: d.form(grant_type="CLIENT_CREDENTIALS"), 400, "unsupported_grant_type"),
    "grant_type twice": (lambda d: [*d.form().items(), ("grant_type", "client_credentials")], 400, "invalid_request"),
    "two assertions": (lambda d: [*d.form().items(), ("client_assertion", d.assertion())], 400, "invalid_request"),
    "two types": (lambda d: [*d.form().items(), ("client_assertion_type", ASSERTION)], 400, "invalid_request"),
    "two scopes": (lambda d: [*d.form().items(), ("scope", "system/Task.rs")], 400, "invalid_request"),
    "a secret beside": (lambda d: d.form(client_secret="x"), 400, "invalid_request"),
    "no assertion": (without("client_assertion"), 401, "invalid_client"),
    "assertion empty": (lambda d: d.form(client_assertion=""), 401, "invalid_client"),
    "no assertion type": (without("client_assertion_type"), 401, "invalid_client"),
    "assertion type saml": (
        lambda d: d.form(client_assertion_type=ASSERTION.replace("jwt", "saml2")), 401, "invalid_client"),
    "assertion type in capitals": (lambda d: d.form(client_assertion_type=ASSERTION.upper()), 401, "invalid_client"),
    "client_id another": (lambda d: d.form(client_id="riverside"), 401, "invalid_client"),
    "client_id alone": (lambda d: {"grant_type": "client_credentials", "client_id": "lakeside",
                                   "scope": "system/Patient.rs"}, 401, "invalid_client"),
    "no such client": (lambda d: d.form(client_assertion=d.assertion("nobody")), 401, "invalid_client"),
    "another's key": (lambda d: d.form(client_assertion=d.assertion(key=OTHER)), 401, "invalid_client"),
    "a stranger's key": (lambda d: d.form(client_assertion=d.assertion(key=STRANGER)), 401, "invalid_client"),
    "aud the base": (lambda d: d.form(client_assertion=d.assertion(aud=d.base)), 401, "invalid_client"),
    "aud introspection": (
        lambda d: d.form(client_assertion=d.assertion(aud=d.base + "/auth/introspect")), 401, "invalid_client"),
    "expired": (lambda d: d.form(client_assertion=d.assertion(exp=d.clock() // 1000 - 61)), 401, "invalid_client"),
    "too long": (lambda d: d.form(client_assertion=d.assertion(exp=d.clock() // 1000 + 400)), 401, "invalid_client"),
    "no jti": (lambda d: d.form(client_assertion=d.assertion(jti=None)), 401, "invalid_client"),
    "over-long": (lambda d: d.form(client_assertion=d.assertion(more="x" * 20_000)), 401, "invalid_client"),
}  # fmt: skip


def test_a_faulty_request_gets_no_token_and_the_oauth_error_for_it(door: Door) -> None:
    for name, (make, status, error) in REFUSED.items():
        answer = door.ask(make(door))
        assert (answer.status_code, answer.json()["error"]) == (status, error), name
        assert answer.headers["Cache-Control"] == "no-store", name
    with door.service.context.database.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.access_token)).scalar_one() == 0


def test_who_is_no_client_learns_nothing_about_who_is_one(door: Door) -> None:
    (door.folder / "riverside.json").unlink()  # its keys can't be read now
    made = [d for name in ("no such client", "another's key", "expired", "no assertion") for d in [REFUSED[name][0]]]
    made += [lambda d: d.form(client_assertion=d.assertion("riverside", OTHER)), lambda d: replayed(d)]
    answers = [door.ask(make(door)) for make in made]

    assert {(a.status_code, a.text, tuple(sorted(a.headers))) for a in answers} == {
        (401, answers[0].text, tuple(sorted(answers[0].headers)))
    }


def replayed(door: Door) -> Plain:
    form = door.form()
    assert door.ask(form).status_code == 200
    return form


def test_other_bodies_and_addresses_get_no_token(door: Door) -> None:
    form = door.form()
    as_json = requests.post(door.token_url, json=form, timeout=30)
    multipart = requests.post(door.token_url, files={k: (None, v) for k, v in form.items()}, timeout=30)
    in_address = requests.post(door.token_url, params=form, timeout=30)
    got = requests.get(door.token_url, params=form, timeout=30)
    large = door.ask({**form, "more": "x" * 100_000})
    other = [door.ask(form, Authorization=value) for value in ("Basic bGFrZXNpZGU6eA==", "Bearer x")]

    assert [a.status_code for a in (as_json, multipart, in_address, got, large)] == [400, 400, 400, 405, 413]
    assert [(a.status_code, a.json()["error"]) for a in other] == [(400, "invalid_request")] * 2
    assert door.ask(form).status_code == 200  # nothing of that has used it up


# --- once -----------------------------------------------------------------------------------------------------------


def test_an_assertion_is_good_once_at_all_processes_of_a_database(start: Any) -> None:
    here = start()
    there = start(base_url=here.base)  # the same service, behind another port
    form = here.form()

    assert here.ask(form).status_code == 200
    assert here.ask(form).json()["error"] == "invalid_client"
    assert there.ask(form).json()["error"] == "invalid_client"
    assert there.ask({**form, "client_assertion": here.assertion()}).status_code == 200


def test_of_two_that_come_at_once_one_gets_a_token(start: Any) -> None:
    here = start()
    there = start(base_url=here.base)
    for _ in range(5):
        form = here.form()
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda n: (here, there)[n % 2].ask(form).status_code, range(8)))  # noqa: B023
        assert sorted(codes) == [200] + [401] * 7


def test_one_jti_of_two_clients_is_two(door: Door) -> None:
    for client, key in (("lakeside", EC), ("riverside", OTHER)):
        answer = door.ask(door.form(client_assertion=door.assertion(client, key, jti="the-same")))
        assert answer.status_code == 200


def test_a_refused_scope_has_used_up_the_assertion_too(door: Door) -> None:
    form = door.form("system/Device.rs")
    assert door.ask(form).json()["error"] == "invalid_scope"
    assert door.ask({**form, "scope": "system/Patient.rs"}).json()["error"] == "invalid_client"


def test_what_is_too_old_is_forgotten(door: Door) -> None:
    for _ in range(3):
        door.token()
    door.clock.ahead_s = 600
    door.token()

    with door.service.context.database.reading() as connection:
        counts = [connection.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()
                  for t in (tables.used_assertion, tables.access_token)]  # fmt: skip
    assert counts == [1, 1]


# --- its end --------------------------------------------------------------------------------------------------------


def test_a_token_ends_when_it_said(door: Door) -> None:
    token = door.token()
    door.clock.ahead_s = 295
    assert door.read(token).status_code == 200
    door.clock.ahead_s = 300
    refused = door.read(token)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_operator_says_how_long_tokens_live(start: Any) -> None:
    door = start(token_s=60)
    answer = door.ask(door.form())
    assert answer.json()["expires_in"] == 60
    door.clock.ahead_s = 60
    assert door.read(answer.json()["access_token"]).status_code == 401


def test_a_revoked_token_is_good_no_more_at_any_process(start: Any) -> None:
    here, there = start(), start()
    token = here.token()
    assert there.read(token).status_code == 200
    gone = here.ask({"token": token, "token_type_hint": "access_token"}, "/auth/revoke",
                    Authorization=f"Bearer {token}")  # fmt: skip

    assert gone.status_code == 200
    assert [d.read(token).status_code for d in (here, there)] == [401, 401]


def test_a_client_that_was_taken_out_loses_its_tokens_at_once(door: Door) -> None:
    token, other = door.token(), door.token(client="riverside", key=OTHER)
    file = door.folder / "clients.toml"
    file.write_text(CLIENTS.replace("[clients.lakeside]", "[clients.seaside]"))

    assert door.read(token).status_code == 401
    assert door.read(other).status_code == 200
    assert door.ask(door.form()).json()["error"] == "invalid_client"
    file.write_text("")
    assert door.read(other).status_code == 401


def test_a_client_that_may_less_now_may_less_with_the_tokens_that_it_has(door: Door) -> None:
    token = door.token("system/Patient.rs system/Task.rs")
    assert door.read(token, "/fhir/Task").status_code == 200
    text = CLIENTS.replace('"system/Task.rs", ', "").replace("system/Patient.cruds", "system/*.cruds")
    (door.folder / "clients.toml").write_text(text)
    assert door.read(token, "/fhir/Task").status_code == 200  # by system/*
    (door.folder / "clients.toml").write_text(CLIENTS.replace('"system/Task.rs", ', ""))
    assert door.read(token, "/fhir/Task").status_code == 403
    assert door.read(token, "/fhir/Device").status_code == 403  # it did not ask for it then


def test_tokens_end_when_a_client_gets_its_keys_from_elsewhere(door: Door) -> None:
    token = door.token()
    (door.folder / "new.json").write_text(jwks(EC))
    (door.folder / "clients.toml").write_text(CLIENTS.replace("lakeside.json", "new.json"))

    assert door.read(token).status_code == 401
    assert door.read(door.token()).status_code == 200


def test_a_broken_clients_file_ends_nothing(door: Door) -> None:
    token = door.token()
    (door.folder / "clients.toml").write_text("[clients.lakeside")
    assert door.read(token).status_code == 200
    assert door.read(door.token()).status_code == 200


def test_a_service_without_a_clients_file_starts_and_lets_nobody_in(start: Any) -> None:
    door = start(clients_file="/nonexistent/clients.toml")

    assert requests.get(door.base + "/healthz", timeout=30).status_code == 200
    assert door.read("x").status_code == 401
    assert door.ask(door.form()).status_code == 401
    assert requests.get(door.base + "/fhir/Patient", timeout=30).status_code == 401
    assert requests.get(door.base + "/api/second-opinions", timeout=30).status_code == 401
    assert requests.get(door.base + "/fhir/metadata", timeout=30).status_code == 200


HEADERS: dict[str, Callable[[str], str]] = {
    "nothing": lambda t: "",
    "only the scheme": lambda t: "Bearer",
    "the scheme and a space": lambda t: "Bearer ",
    "no scheme": lambda t: t,
    "Basic": lambda t: f"Basic {t}",
    "Token": lambda t: f"Token {t}",
    "in quotes": lambda t: f'Bearer "{t}"',
    "with a comma": lambda t: f"Bearer {t},",
    "two of them": lambda t: f"Bearer {t}, Bearer {t}",
    "a word after": lambda t: f"Bearer {t} x",
    "a tab": lambda t: f"Bearer\t{t}",
    "cut": lambda t: f"Bearer {t[:-1]}",
    "longer": lambda t: f"Bearer {t}A",
    "padded": lambda t: f"Bearer {t}=",
    "in capitals": lambda t: f"Bearer {t.upper()}",
    "its hash": lambda t: f"Bearer {__import__('hashlib').sha256(t.encode()).hexdigest()}",
    "percent-encoded": lambda t: "Bearer " + "".join(f"%{ord(c):02X}" for c in t),
    "an assertion": lambda t: "Bearer eyJhbGciOiJub25lIn0.e30.",
    "endless": lambda t: "Bearer " + "x" * 10_000,
    "beyond ASCII": lambda t: "Bearer \xe9",
}


def test_a_header_that_is_not_just_a_good_token_is_nobody(door: Door) -> None:
    token = door.token()
    for name, make in HEADERS.items():
        assert door.read(token, header=make(token)).status_code == 401, name
        assert door.ask({"token": token}, "/auth/introspect", Authorization=make(token) or "x").status_code == 401, name
    in_address = requests.get(f"{door.base}/fhir/Patient?access_token={token}", timeout=30)
    in_cookie = requests.get(f"{door.base}/fhir/Patient", cookies={"access_token": token}, timeout=30)
    assert [in_address.status_code, in_cookie.status_code] == [401, 401]
    assert door.read(token, header=f"bearer {token}").status_code == 200


# --- introspection, revocation ------------------------------------------------------------------------------------


def test_a_client_introspects_its_own_token_and_no_other(door: Door) -> None:
    mine, theirs = door.token(), door.token(client="riverside", key=OTHER)
    bearer = {"Authorization": f"Bearer {mine}"}

    said = door.ask({"token": mine}, "/auth/introspect", **bearer)
    now_s = door.clock() // 1000
    assert said.headers["Cache-Control"] == "no-store"
    plain = said.json()
    assert now_s - 10 <= plain.pop("iat") <= now_s
    assert now_s + 290 <= plain.pop("exp") <= now_s + 300
    assert plain == {"active": True, "client_id": "lakeside", "sub": "lakeside", "scope": "system/Patient.rs",
                     "token_type": "bearer"}  # fmt: skip
    for other in (theirs, "x", str(uuid.uuid4()), mine + "x", "é", "\x00"):
        assert door.ask({"token": other}, "/auth/introspect", **bearer).json() == {"active": False}
    assert door.ask({}, "/auth/introspect", **bearer).json()["error"] == "invalid_request"


def test_the_operator_introspects_any_token(door: Door) -> None:
    mine, desk = door.token(), door.token("system/Task.r", "desk", OPERATOR)

    said = door.ask({"token": mine}, "/auth/introspect", Authorization=f"Bearer {desk}").json()
    assert (said["active"], said["client_id"]) == (True, "lakeside")
    door.clock.ahead_s = 200
    desk = door.token("system/Task.r", "desk", OPERATOR)
    door.clock.ahead_s = 301
    assert door.ask({"token": mine}, "/auth/introspect", Authorization=f"Bearer {desk}").json() == {"active": False}


def test_a_token_of_a_client_that_was_taken_out_is_not_active(door: Door) -> None:
    mine, desk = door.token(), door.token("system/Task.r", "desk", OPERATOR)
    (door.folder / "clients.toml").write_text(CLIENTS.replace("[clients.lakeside]", "[clients.seaside]"))

    assert door.ask({"token": mine}, "/auth/introspect", Authorization=f"Bearer {desk}").json() == {"active": False}


@pytest.mark.parametrize("path", ["/auth/introspect", "/auth/revoke"])
def test_both_take_an_assertion_instead_and_only_once(door: Door, path: str) -> None:
    token = door.token()
    form = {"token": token, "client_assertion_type": ASSERTION, "client_assertion": door.assertion()}

    assert door.ask(form, path).status_code == 200
    assert door.ask(form, path).json()["error"] == "invalid_client"
    both = door.ask({**form, "client_assertion": door.assertion()}, path, Authorization=f"Bearer {token}")
    assert (both.status_code, both.json()["error"]) == (400, "invalid_request")
    assert door.ask({"token": token}, path).json()["error"] == "invalid_client"  # nobody asks
    assert door.read(token).status_code == (200 if path == "/auth/introspect" else 401)


def test_nobody_revokes_anothers_token(door: Door) -> None:
    mine, theirs = door.token(), door.token(client="riverside", key=OTHER)

    refused = door.ask({"token": theirs}, "/auth/revoke", Authorization=f"Bearer {mine}")
    assert (refused.status_code, refused.json()["error"]) == (400, "unauthorized_client")
    assert door.read(theirs).status_code == 200
    unknown = door.ask({"token": "x"}, "/auth/revoke", Authorization=f"Bearer {mine}")
    assert unknown.status_code == 200  # https://www.rfc-editor.org/rfc/rfc7009#section-2.2


# --- what we say of ourselves ---------------------------------------------------------------------------------------


def test_the_smart_configuration_says_what_there_is(door: Door) -> None:
    said = requests.get(door.base + "/fhir/.well-known/smart-configuration", timeout=30).json()

    assert said["token_endpoint"] == door.token_url
    assert said["grant_types_supported"] == ["client_credentials"]
    assert said["capabilities"] == ["client-confidential-asymmetric", "permission-v1", "permission-v2"]
    for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint"):
        assert said[f"{name}_auth_methods_supported"] == ["private_key_jwt"]
        assert said[f"{name}_auth_signing_alg_values_supported"] == ["RS384", "ES384"]
        assert requests.post(said[name], timeout=30).status_code == 400  # it is there
    for scope in said["scopes_supported"]:
        answer = door.ask(door.form(scope, client_assertion=door.assertion("riverside", OTHER)))
        assert answer.status_code == 200, scope
    assert not {"authorization_endpoint", "jwks_uri", "registration_endpoint", "issuer"} & set(said)


def test_the_capability_statement_says_how_to_sign_in(door: Door) -> None:
    statement = requests.get(door.base + "/fhir/metadata", timeout=30).json()
    security = statement["rest"][0]["security"]

    assert security["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    assert "extension" not in security  # oauth-uris needs an authorize endpoint, too
    assert [i for i in fhir.check(json.dumps(statement)) if i.severity == "error"] == []
