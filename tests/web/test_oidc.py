"""Signing in at an OpenID provider: one that somebody else wrote, and one of ours that lies in every way we know."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import itertools
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import oidc_provider_mock
import pytest
import requests
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from werkzeug.wrappers import Response

from fhir_secondop.ehr import keys
from tests.web.conftest import CLIENT, Liar, Site, Start

OTHER = RSAKey.generate_key(2048, private=True, auto_kid=True)


def come_back(site: Site, liar: Liar, browser: Any = None, **query: str | None) -> Any:
    """The whole flow with the lying provider; `query` replaces parts of the answer (None leaves one out)."""
    browser = browser or site.browser()
    sent = site.begin(browser)
    answered = {"state": sent["state"], "code": liar.code(sent), **query}
    return browser.get("/sign-in/callback", query_string={k: v for k, v in answered.items() if v is not None})


def test_a_person_signs_in_at_a_provider_that_somebody_else_wrote(start: Start, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    with oidc_provider_mock.run_server_in_thread() as server:
        issuer = f"http://localhost:{server.server_port}"
        site = start(issuer, oidc_client_auth="secret", oidc_secret_file=str(tmp_path / "secret"))
        browser = site.browser()
        asked = browser.get("/sign-in?at=provider&next=/who")
        provider = requests.Session()
        said = provider.post(asked.location, data={"sub": "clara"}, allow_redirects=False, timeout=10)
        assert said.status_code == 302, said.text
        back = urlsplit(said.headers["Location"])
        assert back.path == "/sign-in/callback"
        answer = browser.get(f"{back.path}?{back.query}")
        assert (answer.status_code, answer.location) == (303, "/who")
        who = browser.get("/who").get_json()
        assert (who["id"], who["roles"], who["scopes"]) == ("reviewer", ["reviewer"], ["user/*.rus"])
        assert abs(who["auth_time"] - time.time()) < 60
        assert who["recent"] is True
        # It says no: nobody is signed in.
        other = site.browser()
        asked = other.get("/sign-in?at=provider&next=/who")
        said = provider.post(asked.location, data={"action": "deny"}, allow_redirects=False, timeout=10)
        back = urlsplit(said.headers["Location"])
        assert other.get(f"{back.path}?{back.query}").status_code == 401
        assert other.get("/who").status_code == 401


def test_what_is_asked_of_the_provider(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    sent = site.begin(site.browser())
    assert sent["response_type"] == "code"
    assert sent["client_id"] == CLIENT
    assert sent["redirect_uri"] == "http://127.0.0.1:8100/sign-in/callback"
    assert sent["code_challenge_method"] == "S256"
    assert set(sent["scope"].split()) == {"openid", "profile", "email"}
    assert len({sent["state"], sent["nonce"], sent["code_challenge"]}) == 3
    again = site.begin(site.browser())
    assert not {sent[k] for k in ("state", "nonce", "code_challenge")} & {again[k] for k in again}


def test_the_honest_answer_signs_in_and_is_recent(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    browser = site.browser()
    assert come_back(site, liar, browser).location == "/who"
    who = browser.get("/who").get_json()
    assert who["id"] == "reviewer"
    assert who["recent"] is True
    assert abs(who["auth_time"] - time.time()) < 60
    assert who["caller_auth_time"].startswith(time.strftime("%Y-%m-%dT", time.gmtime(who["auth_time"])))
    site.clock.forward(301)
    assert browser.get("/who").get_json()["recent"] is False


def _half(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()[:16]).decode().rstrip("=")


def _none(header: dict[str, Any], claims: dict[str, Any]) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}."


def _tampered(liar: Liar) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        head, _, seal = liar.signed(header, claims).split(".")
        body = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "ops"}).encode()).decode().rstrip("=")
        return f"{head}.{body}.{seal}"

    return sign


NOW = int(time.time())
# A claim in place of the honest one; None: left out.
CLAIMS: dict[str, dict[str, Any]] = {
    "wrong nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "empty nonce": {"nonce": ""},
    "nonce of another kind": {"nonce": ["x"]},
    "audience of somebody else": {"aud": "another"},
    "no audience": {"aud": None},
    "empty audience": {"aud": []},
    "audience by prefix": {"aud": f"{CLIENT}-test"},
    "several audiences, not for us": {"aud": ["a", "b"]},
    "several audiences, no azp": {"aud": [CLIENT, "another"]},
    "azp of somebody else": {"aud": [CLIENT, "another"], "azp": "another"},
    "azp of somebody else, one audience": {"azp": "another"},
    "audience of somebody else, azp ours": {"aud": "another", "azp": CLIENT},
    "audiences of others, azp ours": {"aud": ["a", "b"], "azp": CLIENT},
    "wrong issuer": {"iss": "https://evil.example"},
    "issuer with a slash more": {"iss": "SLASH"},
    "no issuer": {"iss": None},
    "issuers in a list": {"iss": ["LIST"]},
    "expired": {"exp": NOW - 3600},
    "no expiry": {"exp": None},
    "expiry in words": {"exp": "tomorrow"},
    "not yet valid": {"nbf": NOW + 86_400},
    "issued in the future": {"iat": NOW + 86_400},
    "no time of issue": {"iat": None},
    "no subject": {"sub": None},
    "empty subject": {"sub": ""},
    "a number as subject": {"sub": 7},
    "a subject with a line break": {"sub": "clara\nops"},
    "a subject without end": {"sub": "c" * 300},
    "proved in the future": {"auth_time": NOW + 86_400},
    "proved in words": {"auth_time": "yesterday"},
    "proved true": {"auth_time": True},
    "access token's hash is wrong": {"at_hash": _half("another")},
    "access token's hash is no hash": {"at_hash": 7},
}


@pytest.mark.parametrize("claims", CLAIMS.values(), ids=CLAIMS)
def test_an_id_token_with_a_wrong_claim_signs_nobody_in(start: Start, liar: Liar, claims: dict[str, Any]) -> None:
    liar.claims = {
        k: liar.issuer + "/" if v == "SLASH" else [liar.issuer] if v == ["LIST"] else v for k, v in claims.items()
    }
    refused(start(liar.issuer), liar)


def refused(site: Site, liar: Liar, status: int = 401, **query: str | None) -> str:
    browser = site.browser()
    answer = come_back(site, liar, browser, **query)
    assert answer.status_code == status, answer.text
    assert browser.get_cookie("secondop") is None
    assert browser.get("/who").status_code == 401
    return str(answer.text)


def _hs256_with_the_public_key(liar: Liar) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    def sign(header: dict[str, Any], claims: dict[str, Any]) -> str:
        # By hand: the library would not make such a thing.
        signed = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
            for part in ({**header, "alg": "HS256"}, claims)
        )
        seal = hmac.digest(liar.key.as_pem(private=False), signed.encode(), "sha256")
        return f"{signed}.{base64.urlsafe_b64encode(seal).decode().rstrip('=')}"

    return sign


SIGNATURES: dict[str, Callable[[Liar], Any]] = {
    "alg none": lambda liar: _none,
    "HS256 with the public key": _hs256_with_the_public_key,
    "HS256 with the client's name": lambda liar: (
        lambda header, claims: jwt.encode(
            {**header, "alg": "HS256"}, claims, OctKey.import_key(CLIENT * 3), algorithms=["HS256"]
        )
    ),
    "another key under the same kid": lambda liar: (
        lambda header, claims: jwt.encode(header, claims, OTHER, algorithms=["RS256"])
    ),
    "another key under its own kid": lambda liar: (
        lambda header, claims: jwt.encode({**header, "kid": OTHER.kid}, claims, OTHER, algorithms=["RS256"])
    ),
    "its own key in the header": lambda liar: (
        lambda header, claims: jwt.encode(
            {"alg": "RS256", "jwk": OTHER.as_dict(private=False)}, claims, OTHER, algorithms=["RS256"]
        )
    ),
    "changed after signing": _tampered,
    "not a token": lambda liar: lambda header, claims: "a.b.c",
    "two parts": lambda liar: lambda header, claims: liar.signed(header, claims).rpartition(".")[0],
    "empty": lambda liar: lambda header, claims: "",
    "claims that are a list": lambda liar: (
        lambda header, claims: ".".join(
            [liar.signed(header, claims).split(".")[0], base64.urlsafe_b64encode(b"[1]").decode(), "AAAA"]
        )
    ),
}


@pytest.mark.parametrize("sign", SIGNATURES.values(), ids=SIGNATURES)
def test_an_id_token_with_a_wrong_signature_signs_nobody_in(start: Start, liar: Liar, sign: Any) -> None:
    liar.sign = sign(liar)
    refused(start(liar.issuer), liar)


ANSWERS: dict[str, tuple[Any, int]] = {
    "no id_token": (lambda t: {k: v for k, v in t.items() if k != "id_token"}, 401),
    "id_token null": (lambda t: {**t, "id_token": None}, 401),
    "id_token of another kind": (lambda t: {**t, "id_token": {"sub": "clara"}}, 401),
    "an error": (lambda t: {"error": "invalid_grant", "error_description": "x"}, 401),
    "a list": (lambda t: [t], 503),
    "no JSON": (lambda t: Response("<html>", 200), 503),
    "an empty answer": (lambda t: Response("", 200), 503),
    "a failure": (lambda t: Response("", 500), 503),
    "more than a megabyte": (lambda t: {**t, "more": "x" * 1_000_000}, 503),
    "more than a megabyte, unpacked": (
        lambda t: Response(
            gzip.compress(json.dumps({**t, "more": "x" * 1_000_000}).encode()), headers={"Content-Encoding": "gzip"}
        ),
        503,
    ),
    "a redirect with a body without end": (
        lambda t: Response(itertools.repeat(b"x" * 65536), 302, headers={"Location": "/elsewhere"}),
        503,
    ),
    "a redirect": (lambda t: Response("", 302, headers={"Location": "/elsewhere"}), 503),
}


@pytest.mark.parametrize(("answer", "status"), ANSWERS.values(), ids=ANSWERS)
def test_a_wrong_token_answer_signs_nobody_in(start: Start, liar: Liar, answer: Any, status: int) -> None:
    liar.answer = answer
    refused(start(liar.issuer), liar, status)


QUERIES: dict[str, dict[str, str | None]] = {
    "no state": {"state": None},
    "another state": {"state": "x" * 43},
    "an empty state": {"state": ""},
    "a state with odd letters": {"state": "é\n"},
    "no code": {"code": None},
    "an empty code": {"code": ""},
    "a code of nobody": {"code": "guessed"},
    "an error": {"error": "access_denied"},
    "an error beside a code": {"error": "server_error", "error_description": "<script>"},
    "an answer of another provider (RFC 9207)": {"iss": "https://evil.example"},
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_wrong_answer_in_the_browser_signs_nobody_in(start: Start, liar: Liar, query: dict[str, str | None]) -> None:
    assert "<script>" not in refused(start(liar.issuer), liar, **query)


def test_a_provider_that_promises_its_name_must_give_it(start: Start, liar: Liar) -> None:
    liar.metadata = {"authorization_response_iss_parameter_supported": True}
    site = start(liar.issuer)
    refused(site, liar)
    assert come_back(site, liar, iss=liar.issuer).location == "/who"


METADATA: dict[str, dict[str, Any]] = {
    "another issuer": {"issuer": "https://evil.example"},
    "no issuer": {"issuer": None},
    "no token endpoint": {"token_endpoint": None},
    "a token endpoint that is a file": {"token_endpoint": "file:///etc/passwd"},
    "no keys": {"jwks_uri": None},
}


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_a_provider_whose_description_is_wrong_is_not_used(start: Start, liar: Liar, metadata: dict[str, Any]) -> None:
    liar.metadata = metadata
    site = start(liar.issuer)
    browser = site.browser()
    answer = browser.get("/sign-in?at=provider&next=/who")
    if answer.status_code == 303:
        answer = come_back(site, liar, browser)
    assert answer.status_code == 503
    assert browser.get("/who").status_code == 401


def test_a_state_answers_once_and_only_in_its_own_browser(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    browser = site.browser()
    sent = site.begin(browser)
    kept = browser.get_cookie("secondop-sign-in")
    assert kept is not None
    answered = {"state": sent["state"], "code": liar.code(sent)}
    # Somebody else's browser, with the answer that was meant for the first one.
    assert site.browser().get("/sign-in/callback", query_string=answered).status_code == 401
    assert browser.get("/sign-in/callback", query_string=answered).status_code == 303
    # Again, with the cookie put back and even with a fresh code.
    browser.set_cookie("secondop-sign-in", kept.value)
    answered["code"] = liar.code(sent)
    used = len(liar.asked)
    assert browser.get("/sign-in/callback", query_string=answered).status_code == 401
    assert len(liar.asked) == used


def test_a_code_is_taken_once(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    sent = site.begin(first := site.browser())
    code = liar.code(sent)
    assert first.get("/sign-in/callback", query_string={"state": sent["state"], "code": code}).status_code == 303
    refused(site, liar, code=code)


def test_a_code_of_another_sign_in_does_not_fit_the_verifier(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    stolen = liar.code(site.begin(site.browser()))
    refused(site, liar, code=stolen)


@pytest.mark.parametrize("change", ["truncated", "seal", "text", "old"])
def test_a_sign_in_under_way_is_ours_unchanged_and_young(start: Start, liar: Liar, change: str) -> None:
    site = start(liar.issuer)
    browser = site.browser()
    sent = site.begin(browser)
    cookie = browser.get_cookie("secondop-sign-in")
    assert cookie is not None
    text, _, seal = cookie.value.partition(".")
    if change == "old":
        site.clock.forward(601)
        liar.clock = site.clock
    else:
        changed = {"truncated": text, "seal": f"{text}.{'0' * 64}", "text": f"e30=.{seal}"}[change]
        browser.set_cookie("secondop-sign-in", changed)
    answer = browser.get("/sign-in/callback", query_string={"state": sent["state"], "code": liar.code(sent)})
    assert answer.status_code == 401


def test_a_new_key_of_the_provider_is_fetched_but_not_for_every_stranger(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    assert come_back(site, liar).status_code == 303
    liar.key = RSAKey.generate_key(2048, private=True, auto_kid=True)
    refused(site, liar)  # the keys were fetched a moment ago
    site.clock.forward(11)
    liar.clock = site.clock
    assert come_back(site, liar).status_code == 303


def test_a_key_that_was_withdrawn_signs_no_more(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    liar.clock = site.clock
    assert come_back(site, liar).status_code == 303
    liar.published = [OTHER.as_dict(private=False)]
    site.clock.forward(3601)
    refused(site, liar)


def test_keys_that_we_do_not_know_are_passed_over(start: Start, liar: Liar) -> None:
    ours = liar.key.as_dict(private=False)
    liar.published = [{"kty": "AKP", "kid": "pq"}, {"kty": "EC", "crv": "P-999"}, {"kid": "x"}, ours, "no key"]
    assert come_back(start(liar.issuer), liar).status_code == 303


def test_a_right_hash_of_the_access_token_is_fine(start: Start, liar: Liar) -> None:
    liar.claims = {"at_hash": _half("at"), "aud": [CLIENT]}
    assert come_back(start(liar.issuer), liar).status_code == 303


# ---- who it is


def test_a_verified_email_names_the_person_where_the_file_says_so(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    liar.claims = {"sub": "d", "email": "desk@hospital.EXAMPLE", "email_verified": True}
    browser = site.browser()
    come_back(site, liar, browser)
    assert browser.get("/who").get_json()["id"] == "desk"


@pytest.mark.parametrize("verified", [False, None, "true", 1])
def test_an_email_that_is_not_verified_names_nobody(start: Start, liar: Liar, verified: Any) -> None:
    site = start(liar.issuer)
    liar.claims = {"sub": "d", "email": "desk@hospital.example", "email_verified": verified}
    assert "No access here" in refused(site, liar, 403)


def test_a_stranger_is_told_and_logged_and_not_let_in(
    start: Start, liar: Liar, caplog: pytest.LogCaptureFixture
) -> None:
    liar.claims = {"sub": "stranger", "email": "s@x.example"}
    site = start(liar.issuer)
    logger = logging.getLogger("fhir_secondop")
    logger.addHandler(caplog.handler)
    try:
        page = refused(site, liar, 403)
    finally:
        logger.removeHandler(caplog.handler)
    assert "No access here" in page
    assert f"{liar.issuer}|stranger" in page
    assert "stranger" in caplog.text
    assert "s@x.example" not in caplog.text


def test_a_subject_of_another_issuer_is_somebody_else(start: Start, liar: Liar, tmp_path: Path) -> None:
    (tmp_path / "people.toml").write_text(
        '[people.x]\nsubject = "https://other.example|clara"\nname = "X"\nroles = ["coordinator"]\n'
    )
    refused(start(liar.issuer), liar, 403)


# ---- how we prove who we are


def test_a_confidential_client_sends_its_secret(start: Start, liar: Liar, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    site = start(liar.issuer, oidc_client_auth="secret", oidc_secret_file=str(tmp_path / "secret"))
    assert come_back(site, liar).status_code == 303
    assert liar.headers[-1]["Authorization"] == "Basic " + base64.b64encode(f"{CLIENT}:s3cret".encode()).decode()
    assert "client_secret" not in liar.asked[-1]


def test_a_client_with_a_key_signs_an_assertion(start: Start, liar: Liar, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys.add(file, "ES384", now_s=int(time.time()) - 10, signs_after_h=0)
    site = start(liar.issuer, oidc_client_auth="private_key_jwt", keys_file=str(file))
    assert come_back(site, liar).status_code == 303
    assertion = liar.asked[-1]["client_assertion"]
    signing = keys.signing(file, (), int(time.time()))
    said = jwt.decode(assertion, signing.key, algorithms=["ES384"]).claims
    assert (said["iss"], said["sub"], said["aud"]) == (CLIENT, CLIENT, f"{liar.issuer}/token")
    assert 0 < said["exp"] - time.time() <= 60


# ---- once more, for a signature


def test_signing_asks_the_provider_again_and_takes_the_newer_time(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    liar.clock = site.clock
    browser = site.browser()
    come_back(site, liar, browser)
    before = browser.get("/who").get_json()
    old_cookie = browser.get_cookie("secondop")
    site.clock.forward(600)
    assert browser.get("/who").get_json()["recent"] is False
    sent = site.begin(browser, path="/sign-in/again?next=")
    assert (sent["max_age"], sent["prompt"]) == ("0", "login")
    answer = browser.get("/sign-in/callback", query_string={"state": sent["state"], "code": liar.code(sent)})
    assert answer.location == "/who"
    after = browser.get("/who").get_json()
    assert after["recent"] is True
    assert after["auth_time"] >= before["auth_time"] + 600
    assert after["csrf"] == before["csrf"]  # what is open in another window can still be sent
    new_cookie = browser.get_cookie("secondop")
    assert old_cookie is not None
    assert new_cookie is not None
    assert new_cookie.value != old_cookie.value


AGAIN: dict[str, tuple[dict[str, Any], int]] = {
    "the time of before": ({"auth_time": 0}, 403),
    "an older time": ({"auth_time": -7200}, 403),
    "newer than before, but before it was asked": ({"auth_time": 500}, 403),
    "no time": ({"auth_time": None}, 401),
    "somebody else": ({"sub": "ops"}, 403),
}


@pytest.mark.parametrize(("claims", "status"), AGAIN.values(), ids=AGAIN)
def test_a_provider_that_did_not_ask_again_is_no_proof(
    start: Start, liar: Liar, claims: dict[str, Any], status: int
) -> None:
    site = start(liar.issuer)
    liar.clock = site.clock
    browser = site.browser()
    come_back(site, liar, browser)
    before = browser.get("/who").get_json()
    site.clock.forward(600)
    sent = site.begin(browser, path="/sign-in/again?next=")
    liar.claims = dict(claims)
    if isinstance(claims.get("auth_time"), int):
        liar.claims["auth_time"] = before["auth_time"] + claims["auth_time"]
    answer = browser.get("/sign-in/callback", query_string={"state": sent["state"], "code": liar.code(sent)})
    assert answer.status_code == status
    after = browser.get("/who").get_json()
    assert (after["id"], after["auth_time"], after["recent"]) == ("reviewer", before["auth_time"], False)


def test_asking_again_needs_the_session_that_asked(start: Start, liar: Liar) -> None:
    site = start(liar.issuer)
    browser = site.browser()
    assert browser.get("/sign-in/again?next=/who").location == "/sign-in?next=/who"
    come_back(site, liar, browser)
    site.clock.forward(5)
    liar.clock = site.clock
    sent = site.begin(browser, path="/sign-in/again?next=")
    browser.delete_cookie("secondop")
    answer = browser.get("/sign-in/callback", query_string={"state": sent["state"], "code": liar.code(sent)})
    assert answer.status_code == 403


def test_the_page_names_no_provider_by_a_script(start: Start, liar: Liar) -> None:
    page = start(liar.issuer).browser().get("/sign-in?next=/who%22%3E%3Cscript%3E")
    assert page.text.count("<script") == page.text.count('<script src="/assets/pages.js" defer>')
    assert re.search(r'href="/sign-in\?at=provider&amp;next=/"', page.text)
