"""Signing in by SMART Backend Services: at simulated EHRs (processes), and at token endpoints that misbehave.

What our client really sends is read from a proxy between it and the EHR.
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop.ehr import keys, plan, pull, scopes, smart
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.smart import BackendServices
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection
from fhir_secondop.store.database import now_ms
from tests.conftest import free_port, wait_for
from tests.ehr.conftest import RECORDS
from tests.ehr.recording import Passed, Proxy, recording

CLIENT = "second-opinion"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
PATIENT = {"resourceType": "Patient", "id": "1"}
THREADS = 16
_1970_S = 0

SmartEhrs = Callable[..., str]


@dataclass(frozen=True)
class Keys:
    """Key files: with one key of each algorithm, and with both."""

    RS384: Path
    ES384: Path
    both: Path
    jwks: Path


@pytest.fixture(scope="session")
def our_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    made = Keys(folder / "rs", folder / "es", folder / "both", folder / "jwks.json")
    keys.add(made.RS384, "RS384", now_s=_1970_S, signs_after_h=0)
    keys.add(made.ES384, "ES384", now_s=_1970_S, signs_after_h=0)
    held = [json.loads(file.read_text())["keys"][0] for file in (made.RS384, made.ES384)]
    made.both.write_text(json.dumps({"keys": held}))
    made.jwks.write_text(json.dumps(keys.public([made.both])))
    return made


@pytest.fixture(scope="module")
def ehrs(our_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmartEhrs]:
    """ehrs("full", "expired-token") → the FHIR base of an EHR process that knows us, one for each combination.

    What a quirk counts begins anew with a process: two tests must not share one that counts.
    """
    folder = tmp_path_factory.mktemp("smart")
    bases: dict[tuple[str, ...], str] = {}
    processes: list[subprocess.Popen[bytes]] = []

    def start(shape: str, *quirks: str, jwks: str = "") -> str:
        known = (shape, jwks, *quirks)
        if known not in bases:
            port = free_port()
            command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--shape", shape,
                       "--port", str(port), "--database", str(folder / f"{port}.sqlite"),
                       "--load", str(RECORDS / "lakeside.json"), "--auth", "smart",
                       "--client", f"{CLIENT}={jwks or our_keys.jwks}"]  # fmt: skip
            for quirk in quirks:
                command += ["--quirk", quirk]
            with open(folder / f"{port}.log", "wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            wait_for(f"http://127.0.0.1:{port}/healthz", processes[-1])
            bases[known] = f"http://127.0.0.1:{port}/fhir"
        return bases[known]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with recording() as proxy:
        yield proxy


@pytest.fixture
def other() -> Iterator[HTTPServer]:
    """A second server; whatever it is asked, it has a page without an end of its own."""
    with HTTPServer() as server:
        page = {"resourceType": "Bundle", "type": "searchset", "link": [], "entry": []}
        server.expect_request("/fhir/Observation").respond_with_json(page)
        server.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
        server.expect_request("/stolen").respond_with_json({"access_token": "stolen"})
        yield server


def signed_in(base: str, key_file: Path, proxy: Proxy | None = None, **settings: Any) -> Client:
    """A client that signs in by SMART, through that proxy."""
    now = settings.pop("now", now_ms)
    settings = {"rate_per_s": 0.0, "timeout_s": 10.0, "client_id": CLIENT, **settings}
    connection = Connection("there", base, auth="smart", key_file=str(key_file), **settings)
    return Client(replace(connection, proxy=proxy.url) if proxy else connection, now=now)


def services(client: Client) -> BackendServices:
    assert isinstance(client.auth, BackendServices)
    return client.auth


def token_url(base: str) -> str:
    return base.removesuffix("/fhir") + "/auth/token"


def header_of(passed: Passed) -> dict[str, Any]:
    return dict(jws.extract_compact(passed.form["client_assertion"].encode()).headers())


def claims_of(passed: Passed) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(jws.extract_compact(passed.form["client_assertion"].encode()).payload or b"")
    return claims


def failure_of(act: Callable[[], Any]) -> EhrFailure:
    with pytest.raises(EhrFailure) as caught:
        act()
    return caught.value


def edited(**members: Any) -> Callable[[str, bytes], bytes]:
    """What makes a proxy change the SMART configuration that passes; None takes a member away."""

    def edit(url: str, body: bytes) -> bytes:
        if not url.endswith("smart-configuration"):
            return body
        changed = {**json.loads(body), **members}
        return json.dumps({name: value for name, value in changed.items() if value is not None}).encode()

    return edit


# ---- the assertion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
def test_each_algorithm_signs_in(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy, alg: str) -> None:
    base = ehrs("full")
    file: Path = getattr(our_keys, alg)
    client = signed_in(base, file, proxy)
    assert client.read("Patient/1")["resourceType"] == "Patient"
    (asked,) = proxy.tokens
    (key,) = keys.public([file])["keys"]
    assert header_of(asked) == {"alg": alg, "kid": key["kid"], "typ": "JWT"}
    claims = claims_of(asked)
    assert (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT, CLIENT, token_url(base))
    assert 200 < claims["exp"] - time.time() <= 300
    assert set(claims) == {"iss", "sub", "aud", "exp", "jti"}
    assert str(uuid.UUID(claims["jti"])) == claims["jti"]
    assert {name: asked.form[name] for name in ("grant_type", "client_assertion_type")} == {
        "grant_type": "client_credentials", "client_assertion_type": ASSERTION,
    }  # fmt: skip
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert asked.authorization == ""
    assert "?" not in asked.url  # what stands in a URL is logged on the way
    # the token is good for all that follows
    client.read("Patient/1")
    assert len(proxy.tokens) == 1
    assert {p.authorization for p in proxy.fhir} == {f"Bearer {services(client)._token}"}


@pytest.mark.parametrize(
    ("offered", "alg"),
    [
        (["RS384"], "RS384"),
        (["ES384"], "ES384"),
        (["RS256", "RS384", "PS384"], "RS384"),
        (None, "RS384"),  # the first of the file
        ("RS384", "RS384"),  # not a list, as it should be
        ([{}, 5, None, "ES384"], "ES384"),
        (7, "RS384"),
    ],
)
def test_the_algorithm_is_one_that_the_server_offers(
    ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy, offered: Any, alg: str
) -> None:
    proxy.edit = edited(token_endpoint_auth_signing_alg_values_supported=offered)
    signed_in(ehrs("full"), our_keys.both, proxy).read("Patient/1")
    assert [header_of(p)["alg"] for p in proxy.tokens] == [alg]


def test_without_a_key_for_what_is_offered_nothing_is_sent(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    proxy.edit = edited(token_endpoint_auth_signing_alg_values_supported=["RS384"])
    with pytest.raises(Invalid, match="no key that may sign with RS384"):
        signed_in(ehrs("full"), our_keys.ES384, proxy).read("Patient/1")
    assert proxy.tokens == []


def test_no_assertion_is_sent_twice(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full"), our_keys.ES384, proxy)
    for _ in range(4):
        client.read("Patient/1")
        services(client).forget(f"Bearer {services(client)._token}")
    assert len(proxy.tokens) == 4
    assert len({claims_of(p)["jti"] for p in proxy.tokens}) == 4
    assert {p.status for p in proxy.tokens} == {200}


def test_keys_rotate_while_the_service_runs(
    ehrs: SmartEhrs, tmp_path: Path, httpserver: HTTPServer, proxy: Proxy
) -> None:
    """An EHR that fetches our JWKS: announced, then signing, then retired; each step without a restart."""
    file = tmp_path / "keys.json"
    clock = [time.time()]
    httpserver.expect_request("/jwks.json").respond_with_handler(
        lambda _: Response(json.dumps(keys.public([file])), content_type="application/json")
    )
    old = keys.add(file, "ES384", now_s=int(clock[0]) - 60, signs_after_h=0)
    client = signed_in(ehrs("full", jwks=httpserver.url_for("/jwks.json")), file, proxy,
                       now=lambda: int(clock[0] * 1000))  # fmt: skip

    def kid() -> str:
        services(client).forget(f"Bearer {services(client)._token}")
        client.read("Patient/1")
        return str(header_of(proxy.tokens[-1])["kid"])

    assert kid() == old
    new = keys.add(file, "RS384", now_s=int(clock[0]), signs_after_h=0.01)  # 36 s
    published = requests.get(httpserver.url_for("/jwks.json"), timeout=5).json()
    assert [key["kid"] for key in published["keys"]] == [old, new]
    assert kid() == old, "it is announced, and signs not yet"
    clock[0] += 37  # the EHR's own clock stays behind: such a difference must not matter
    assert kid() == new
    keys.retire(file, old, now_s=int(clock[0]))
    assert kid() == new
    assert {p.status for p in proxy.tokens} == {200}
    # what was retired is good for nothing there
    (tmp_path / "stolen").write_text(json.dumps({"keys": [
        ECKey.generate_key("P-384", private=True, parameters={"kid": old, "alg": "ES384"}).as_dict(private=True)
    ]}))  # fmt: skip
    refused = failure_of(lambda: signed_in(client.base, tmp_path / "stolen").read("Patient/1"))
    assert (refused.kind, refused.code) == ("auth", "invalid_client")


# ---- scopes ---------------------------------------------------------------------------------------------------


def test_version_1_is_asked_for_where_version_2_is_refused(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    proxy.edit = edited(capabilities=["client-confidential-asymmetric"])
    client = signed_in(ehrs("full", "scopes-v1"), our_keys.ES384, proxy)
    client.read("Patient/1")
    assert [p.status for p in proxy.tokens] == [400, 200]
    first, second = (p.form["scope"].split() for p in proxy.tokens)
    assert "system/Condition.rs" in first
    assert {"system/DocumentReference.rs", "system/DocumentReference.cu"} <= set(first)
    assert {"system/Condition.read", "system/DocumentReference.read", "system/DocumentReference.write"} <= set(second)
    assert "system/Condition.write" not in second
    assert client.granted == frozenset(second)
    assert "refused" not in {a.outcome for a in plan.plan(client.capability, client.site, client.granted)}


def test_version_1_alone_is_asked_for_where_nothing_else_is_known(
    ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy
) -> None:
    signed_in(ehrs("full", "scopes-v1"), our_keys.ES384, proxy).read("Patient/1")
    assert [p.status for p in proxy.tokens] == [200]


def test_version_2_asks_for_no_more_than_is_needed(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full"), our_keys.ES384, proxy)
    client.read("Patient/1")
    (asked,) = proxy.tokens
    named = asked.form["scope"].split()
    assert sorted(named) == sorted([f"system/{kind}.rs" for kind in {*plan.READ, *plan.WRITTEN}]
                                   + [f"system/{kind}.cu" for kind in plan.WRITTEN])  # fmt: skip
    assert client.granted == frozenset(named)
    assert all(scopes.permits(client.granted, kind, letter) for kind in plan.WRITTEN for letter in "crus")
    assert not any(scopes.permits(client.granted, kind, "d") for kind in (*plan.READ, *plan.WRITTEN))


def test_an_older_server_that_drops_what_it_does_not_know_is_asked_again(
    httpserver: HTTPServer, our_keys: Keys
) -> None:
    """Some authorization servers leave unknown scopes out instead of refusing them."""

    def token(request: Request) -> Response:
        known = [s for s in request.form["scope"].split() if s.endswith((".read", ".write"))]
        return Response(json.dumps({"access_token": "t", "expires_in": 300, "scope": " ".join(["profile", *known])}))

    with token_endpoint(httpserver, token) as client_of:
        client = client_of(our_keys.ES384)
        client.read("Patient/1")
        assert "system/Condition.read" in (client.granted or ())
        assert len(forms(httpserver)) == 2


def test_one_that_grants_nothing_in_either_version_is_believed(httpserver: HTTPServer, our_keys: Keys) -> None:
    with token_endpoint(httpserver, answering({"access_token": "t", "scope": "profile"})) as client_of:
        client = client_of(our_keys.ES384)
        client.read("Patient/1")
        assert client.granted == frozenset({"profile"})
        assert len(forms(httpserver)) == 2


@pytest.mark.parametrize("said", [{}, {"scope": ""}, {"scope": "  "}, {"scope": None}, {"scope": ["x"]}])
def test_a_server_that_does_not_say_what_it_granted_is_asked_for_everything(
    httpserver: HTTPServer, our_keys: Keys, said: dict[str, Any]
) -> None:
    with token_endpoint(httpserver, answering({"access_token": "t", "expires_in": 300, **said})) as client_of:
        client = client_of(our_keys.ES384)
        client.read("Patient/1")
        assert client.granted is None
        assert scopes.permits(client.granted, "Observation", "s")


def test_other_refusals_are_not_tried_in_version_1(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    failure = failure_of(lambda: signed_in(ehrs("full", "refuses-clients"), our_keys.ES384, proxy).read("Patient/1"))
    assert (failure.kind, failure.code, failure.retryable) == ("auth", "unauthorized_client", False)
    assert "unauthorized_client" in failure.message
    assert len(proxy.tokens) == 1
    assert proxy.fhir == []


def test_when_both_versions_are_refused_that_is_said(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    everything = [f"partial-grant={kind}" for kind in (*plan.READ, *plan.WRITTEN)]
    failure = failure_of(lambda: signed_in(ehrs("full", *everything), our_keys.ES384, proxy).read("Patient/1"))
    assert (failure.kind, failure.code) == ("auth", "invalid_scope")
    assert len(proxy.tokens) == 2


def test_configured_scopes_are_asked_for_as_they_are(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full"), our_keys.ES384, proxy, scopes="system/Patient.r system/Condition.rs")
    client.read("Patient/1")
    assert client.granted == frozenset({"system/Patient.r", "system/Condition.rs"})
    refused = {a.type for a in plan.plan(client.capability, client.site, client.granted) if a.outcome == "refused"}
    assert refused == set(plan.TYPES) - {"Condition"}
    asked = signed_in(ehrs("full"), our_keys.ES384, proxy, scopes="system/Patient.read")
    assert failure_of(lambda: asked.read("Patient/1")).code == "invalid_scope"
    assert [p.form["scope"] for p in proxy.tokens] == ["system/Patient.r system/Condition.rs", "system/Patient.read"]


def test_a_partial_grant_stands_in_the_plan(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full", "partial-grant=Observation", "partial-grant=Goal"), our_keys.ES384, proxy)
    capability = client.capability  # signs in: what is granted is known from here on
    assert client.granted is not None
    assert not any(".Observation" in scope or "Observation." in scope for scope in client.granted)
    asks = {ask.type: ask for ask in plan.plan(capability, client.site, client.granted)}
    refused = {kind: ask.because for kind, ask in asks.items() if ask.outcome == "refused"}
    assert refused == dict.fromkeys(("Observation", "Goal"), "the scope was not granted")
    before = len(proxy.passed)
    answer = pull.fetch(client, asks["Observation"], "1", lambda *_: None)
    assert (answer.outcome, answer.detail) == ("refused", "the scope was not granted")
    assert len(proxy.passed) == before, "what was not granted is not asked for"
    # and the EHR means it
    assert failure_of(lambda: client.search("Observation", {"patient": "1"})).kind == "policy"
    assert client.search("Condition", {"patient": "1"})


# ---- the life of a token --------------------------------------------------------------------------------------


def test_a_token_is_renewed_before_it_ends(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full", "token-lifetime=2"), our_keys.ES384, proxy)
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        client.read("Patient/1")
        time.sleep(0.1)
    assert {p.status for p in proxy.fhir} == {200}, "no request met the end of its token"
    assert 3 <= len(proxy.tokens) <= 6


@pytest.mark.parametrize(
    ("expires_in", "renewed_after_s"),
    [
        (300, 270),
        ("300", 270),
        (300.0, 270),
        (3600, 3570),
        (60, 30),
        (40, 20),
        (10, 5),
        (1, 1),
        (0, 1),
        # where it makes no sense: a minute is assumed
        (None, 30),
        ("soon", 30),
        (-5, 30),
        ("²", 30),
        (True, 30),
        ([300], 30),
        ("9" * 5000, 30),
        (float("nan"), 30),
        (float("inf"), 30),
    ],
)
def test_how_long_a_token_is_kept(
    httpserver: HTTPServer, our_keys: Keys, expires_in: Any, renewed_after_s: int
) -> None:
    clock = [at_s(0)]
    answer = {"access_token": "t", "expires_in": expires_in} if expires_in is not None else {"access_token": "t"}
    with token_endpoint(httpserver, answering(answer)) as client_of:
        auth = services(client_of(our_keys.ES384, now=lambda: clock[0]))
        auth.token()
        clock[0] = at_s(renewed_after_s) - 1
        auth.token()
        assert len(forms(httpserver)) == 1
        clock[0] = at_s(renewed_after_s)
        auth.token()
        assert len(forms(httpserver)) == 2


def at_s(seconds: float) -> int:
    return 1_800_000_000_000 + int(seconds * 1000)


def test_one_refused_request_signs_in_anew_once(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full", "expired-token=2"), our_keys.ES384, proxy)
    for _ in range(4):
        assert client.read("Patient/1")["id"] == "1"
    assert [p.status for p in proxy.fhir] == [200, 401, 200, 200, 200]
    assert [p.status for p in proxy.tokens] == [200, 200]
    first, second = dict.fromkeys(p.authorization for p in proxy.fhir)
    assert [p.authorization for p in proxy.fhir] == [first, first, second, second, second]


def test_a_refused_write_is_sent_again_as_it_was(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full", "expired-token=1"), our_keys.ES384, proxy)
    note = {"resourceType": "DocumentReference", "status": "current", "subject": {"reference": "Patient/1"},
            "content": [{"attachment": {"contentType": "text/plain", "data": "aGk="}}]}  # fmt: skip
    written = client.write("POST", "DocumentReference", note, {"If-None-Exist": "identifier=urn:x|1"})
    assert written.status == 201
    refused, sent = (p for p in proxy.fhir if p.method == "POST")
    assert (refused.status, sent.status) == (401, 201)
    assert refused.body == sent.body
    assert {p.headers["if-none-exist"] for p in (refused, sent)} == {"identifier=urn:x|1"}
    assert len(client.search("DocumentReference", {"patient": "1", "contenttype": "text/plain"})) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_that_always_refuses_is_left_after_one_more_sign_in(
    httpserver: HTTPServer, our_keys: Keys, method: str
) -> None:
    httpserver.expect_request("/fhir/Condition").respond_with_data("", 401)
    numbers = iter(range(1000))
    with token_endpoint(httpserver, lambda _: ok({"access_token": f"t{next(numbers)}"})) as client_of:
        client = client_of(our_keys.ES384)
        act = client.write if method == "POST" else client.get
        failure = failure_of(lambda: act("POST", "Condition", {}) if method == "POST" else act("Condition"))
        assert (failure.kind, failure.status, failure.retryable) == ("auth", 401, False)
        asked = [r.headers["Authorization"] for r, _ in httpserver.log if r.path == "/fhir/Condition"]
        assert asked == ["Bearer t0", "Bearer t1"]
        assert len(forms(httpserver)) == 2


# ---- many threads ---------------------------------------------------------------------------------------------


def at_once(act: Callable[[], Any]) -> list[Any]:
    """What sixteen threads get (or raise) that begin in the same moment."""
    barrier = threading.Barrier(THREADS)

    def one(_: int) -> Any:
        barrier.wait()
        try:
            return act()
        except EhrFailure as failure:
            return failure

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def test_sixteen_threads_ask_for_one_token(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    client = signed_in(ehrs("full"), our_keys.RS384, proxy)
    assert [r["id"] for r in at_once(lambda: client.read("Patient/1"))] == ["1"] * THREADS
    assert len(proxy.tokens) == 1
    assert len([p for p in proxy.passed if ".well-known" in p.url]) == 1
    assert len({p.authorization for p in proxy.fhir}) == 1


@pytest.fixture
def threaded() -> Iterator[HTTPServer]:
    """A server that answers many at once."""
    with HTTPServer(threaded=True) as server:
        yield server


def test_sixteen_threads_whose_token_is_refused_ask_for_one_more(threaded: HTTPServer, our_keys: Keys) -> None:
    numbers = iter(range(1000))
    all_there = threading.Barrier(THREADS, timeout=20)

    def read(request: Request) -> Response:
        if request.headers["Authorization"] == "Bearer t0":
            all_there.wait()  # every thread has sent the old token before the first hears that it is not good
            return Response("", 401)
        return ok(PATIENT)

    threaded.expect_request("/fhir/Patient/1").respond_with_handler(read)
    with token_endpoint(threaded, lambda _: ok({"access_token": f"t{next(numbers)}"})) as client_of:
        client = client_of(our_keys.ES384, concurrency=THREADS)
        services(client).token()
        assert at_once(lambda: client.read("Patient/1")) == [PATIENT] * THREADS
        assert len(forms(threaded)) == 2


def test_sixteen_threads_whose_sign_in_is_refused_ask_once(threaded: HTTPServer, our_keys: Keys) -> None:
    """A wrong key asked sixteen times at once looks like an attack, and a dead endpoint would be waited for in turn."""

    def refuse(_: Request) -> Response:
        time.sleep(0.3)
        return Response('{"error": "invalid_client"}', 401)

    with token_endpoint(threaded, refuse) as client_of:
        client = client_of(our_keys.ES384, concurrency=THREADS)
        failures = at_once(lambda: client.read("Patient/1"))
        assert {(f.kind, f.code) for f in failures} == {("auth", "invalid_client")}
        assert len(forms(threaded)) == 1
        # whoever comes later asks anew: it may have been mended
        failure_of(lambda: client.read("Patient/1"))
        assert len(forms(threaded)) == 2


# ---- a token goes nowhere else --------------------------------------------------------------------------------


def test_a_next_page_elsewhere_gets_no_token(ehrs: SmartEhrs, our_keys: Keys, other: HTTPServer) -> None:
    base = ehrs("epic", f"next-elsewhere={other.url_for('/fhir')}")
    failure = failure_of(lambda: signed_in(base, our_keys.ES384).search("Observation", {"patient": "1"}))
    assert failure.kind == "policy"
    assert other.log == []
    # nor where that place is known to belong to the EHR
    origin = other.url_for("")
    found = signed_in(base, our_keys.ES384, origins=(origin,)).search("Observation", {"patient": "1"})
    assert len(found) == 20
    ((request, _),) = other.log
    assert "Authorization" not in request.headers
    assert "Cookie" not in request.headers


def test_a_redirect_gets_no_token(ehrs: SmartEhrs, our_keys: Keys, other: HTTPServer) -> None:
    base = ehrs("full", f"redirects={other.url_for('/fhir')}")
    for origins in ((), (other.url_for(""),)):
        client = signed_in(base, our_keys.ES384, origins=origins)
        failure = failure_of(lambda client=client: client.read("Patient/1"))  # type: ignore[misc]
        assert (failure.kind, failure.status) == ("policy", 302)
    assert other.log == []


def test_a_further_origin_is_asked_as_a_stranger(ehrs: SmartEhrs, our_keys: Keys, other: HTTPServer) -> None:
    other.expect_request("/scan").respond_with_data(b"%PDF", content_type="application/pdf")
    client = signed_in(ehrs("full"), our_keys.ES384, origins=(other.url_for(""),))
    client.read("Patient/1")
    assert client.file(other.url_for("/scan"), "application/pdf") == ("application/pdf", b"%PDF")
    assert client.read("Patient/1")["id"] == "1"  # and the EHR still as ourselves
    ((request, _),) = other.log
    assert "Authorization" not in request.headers


def test_a_further_origin_that_refuses_costs_no_sign_in(ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy) -> None:
    with HTTPServer() as guarded:
        guarded.expect_request("/scan").respond_with_data("", 401)
        client = signed_in(ehrs("full"), our_keys.ES384, proxy, origins=(guarded.url_for(""),))
        client.read("Patient/1")
        assert failure_of(lambda: client.file(guarded.url_for("/scan"), "")).kind == "auth"
        assert {request.headers.get("Authorization") for request, _ in guarded.log} == {None}
        client.read("Patient/1")
        assert len(proxy.tokens) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_assertion_is_not_carried_elsewhere(
    httpserver: HTTPServer, our_keys: Keys, other: HTTPServer, status: int
) -> None:
    there = {"Location": other.url_for("/stolen")}
    with token_endpoint(httpserver, lambda _: Response("", status, headers=there)) as client_of:
        failure = failure_of(lambda: client_of(our_keys.ES384).read("Patient/1"))
        assert (failure.kind, failure.status) == ("policy", status)
    assert other.log == []


# ---- token endpoints that misbehave ---------------------------------------------------------------------------

ClientOf = Callable[..., Client]


def ok(body: Any) -> Response:
    return Response(json.dumps(body), content_type="application/json")


def answering(body: Any) -> Callable[[Request], Response]:
    return lambda _: ok(body)


@contextmanager
def token_endpoint(server: HTTPServer, answer: Callable[[Request], Response]) -> Iterator[ClientOf]:
    """An EHR whose token endpoint answers so, and that has a Patient/1: client_of(key file) → a client of it."""
    server.expect_request("/fhir/.well-known/smart-configuration").respond_with_json(
        {"token_endpoint": server.url_for("/token")}
    )
    server.expect_request("/token", method="POST").respond_with_handler(answer)
    server.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)

    def client_of(key_file: Path, **settings: Any) -> Client:
        return signed_in(server.url_for("/fhir"), key_file, **settings)

    yield client_of


def forms(server: HTTPServer) -> list[dict[str, str]]:
    """The token requests that it got."""
    return [request.form.to_dict() for request, _ in server.log if request.path == "/token"]


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (Response('{"error": "invalid_client"}', 401), "auth", "invalid_client"),
        (Response('{"error": "invalid_client"}', 400), "auth", "invalid_client"),
        (Response('{"error": "unauthorized_client"}', 403), "auth", "unauthorized_client"),
        (Response('{"error": "Maren Sampleton"}', 400), "auth", ""),
        (Response('{"error": ["invalid_client"]}', 400), "auth", ""),
        (Response("<html>", 400), "auth", ""),
        (Response("", 401), "auth", ""),
        (Response("", 403), "policy", ""),
        (Response("", 404), "not-found", ""),
        (Response("", 429), "capacity", ""),
        (Response('{"error": "invalid_client"}', 500), "unreachable", ""),
        (Response("", 503), "capacity", ""),
        (Response("", 302), "policy", ""),
        (Response("", 204), "policy", ""),
        (Response("<html>no", 200), "auth", ""),
        (Response("", 200), "auth", ""),
        (ok([]), "auth", ""),
        (ok({}), "auth", ""),
        (ok({"access_token": ""}), "auth", ""),
        (ok({"access_token": 5}), "auth", ""),
        (ok({"access_token": "to\r\nX-Evil: 1"}), "auth", ""),
        (ok({"access_token": "to\nken"}), "auth", ""),
        (ok({"access_token": "tökén"}), "auth", ""),
        (ok({"access_token": "t\0"}), "auth", ""),
        (Response(b"\xff\xfe\x00", 200), "auth", ""),
        (Response(b"[" * 200_000, 200), "auth", ""),
        (Response(b"not gzip", 200, headers={"Content-Encoding": "gzip"}), "unreachable", ""),
        (Response(json.dumps({"access_token": "t", "x": "y" * (2 << 20)})), "auth", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.status_code} {value.get_data()[:40]!r}",
)
def test_what_a_token_endpoint_may_answer(
    httpserver: HTTPServer, our_keys: Keys, caplog: pytest.LogCaptureFixture, answer: Response, kind: str, code: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with token_endpoint(httpserver, lambda _: answer) as client_of:
        client = client_of(our_keys.ES384)
        failure = failure_of(lambda: client.read("Patient/1"))
    assert (failure.kind, failure.code) == (kind, code)
    assert [r.path for r, _ in httpserver.log if r.path.startswith("/fhir/Patient")] == []
    for form in forms(httpserver):
        nothing_leaks(failure, client, caplog, [form["client_assertion"], "to\nken", "X-Evil", "tökén", "Sampleton"])


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("place", ["/token", "/fhir/.well-known/smart-configuration"])
def test_a_sign_in_waits_as_long_as_it_is_told(httpserver: HTTPServer, our_keys: Keys, status: int, place: str) -> None:
    busy = Response("", status, headers={"Retry-After": "120"})
    if place == "/token":
        with token_endpoint(httpserver, lambda _: busy) as client_of:
            failure = failure_of(lambda: client_of(our_keys.ES384).read("Patient/1"))
    else:
        httpserver.expect_request(place).respond_with_handler(lambda _: busy)
        failure = failure_of(lambda: signed_in(httpserver.url_for("/fhir"), our_keys.ES384).read("Patient/1"))
    assert (failure.kind, failure.retry_after_s) == ("capacity", 120.0)


class Raw:
    """A TCP server that answers each request with what `send` does with its connection. Its base, and what came."""

    def __init__(self, send: Callable[[socket.socket], None]) -> None:
        self.requests: list[bytes] = []
        self._send = send
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.requests.append(connection.recv(1 << 16))
                self._send(connection)
            except OSError:
                return

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def raw(send: Callable[[socket.socket], None]) -> Iterator[Raw]:
    server = Raw(send)
    try:
        yield server
    finally:
        server.close()


BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n" + b'{"access_token": "abc'


def dribble(connection: socket.socket) -> None:
    connection.sendall(BEGUN)
    for _ in range(600):
        time.sleep(0.05)
        connection.sendall(b"x")


def stop_in_the_middle(connection: socket.socket) -> None:
    connection.sendall(BEGUN)


def break_off_chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")


def pause_in_the_middle(connection: socket.socket) -> None:
    connection.sendall(BEGUN)
    time.sleep(20)


def say_nothing(connection: socket.socket) -> None:
    time.sleep(20)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


@pytest.mark.parametrize(
    "send", [dribble, stop_in_the_middle, break_off_chunks, pause_in_the_middle, say_nothing, reset]
)
@pytest.mark.parametrize("where", ["token", "configuration"])
def test_a_sign_in_that_breaks_or_does_not_end_is_bounded(
    httpserver: HTTPServer, our_keys: Keys, send: Callable[[socket.socket], None], where: str
) -> None:
    with raw(send) as server:
        if where == "token":
            httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_json(
                {"token_endpoint": f"{server.base}/token"}
            )
        base = httpserver.url_for("/fhir") if where == "token" else f"{server.base}/fhir"
        client = signed_in(base, our_keys.ES384, timeout_s=0.3)
        begun = time.monotonic()
        # a write too: what could not sign in was not sent, so nothing about it is unknown
        failure = failure_of(lambda: client.write("POST", "Patient", PATIENT))
    assert (failure.kind, failure.retryable) == ("unreachable", True)
    assert ("token request" in failure.message) == (where == "token")
    assert time.monotonic() - begun < 3
    assert "abc" not in f"{failure} {failure!r}"
    assert [r.path for r, _ in httpserver.log if r.path == "/fhir/Patient"] == []


def test_threads_do_not_wait_for_a_dead_endpoint_one_after_another(our_keys: Keys) -> None:
    with raw(say_nothing) as server:
        client = signed_in(f"{server.base}/fhir", our_keys.ES384, timeout_s=0.5)
        begun = time.monotonic()
        failures = at_once(lambda: client.write("POST", "Patient", PATIENT))
        assert time.monotonic() - begun < 0.75 * THREADS * 0.5, "each waited for the one before"
        assert {f.kind for f in failures} == {"unreachable"}
        assert len({id(f) for f in failures}) == THREADS, "each thread raises a failure of its own"


# ---- where the token endpoint is ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 403, 401, 200])
def test_without_a_configuration_the_token_url_is_ours_to_say(
    httpserver: HTTPServer, our_keys: Keys, status: int
) -> None:
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_data("<html>", status)
    httpserver.expect_request("/token").respond_with_json({"access_token": "t"})
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    base = httpserver.url_for("/fhir")
    failure = failure_of(lambda: signed_in(base, our_keys.ES384).read("Patient/1"))
    assert failure.kind == "auth"
    assert "token_url" in failure.message
    assert signed_in(base, our_keys.ES384, token_url=httpserver.url_for("/token")).read("Patient/1") == PATIENT
    ((asked, _),) = ((r, a) for r, a in httpserver.log if r.path == "/token")
    claims = claims_of(Passed("POST", "", {}, asked.get_data(), 200))
    assert claims["aud"] == httpserver.url_for("/token")


def test_a_configuration_that_fails_does_not_stop_a_sign_in_whose_token_url_is_known(
    httpserver: HTTPServer, our_keys: Keys
) -> None:
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_data("", 500)
    httpserver.expect_request("/token").respond_with_json({"access_token": "t"})
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    client = signed_in(httpserver.url_for("/fhir"), our_keys.ES384, token_url=httpserver.url_for("/token"))
    assert client.read("Patient/1") == PATIENT


def test_a_configuration_that_was_not_there_is_looked_for_again(httpserver: HTTPServer, our_keys: Keys) -> None:
    """A client lives as long as the service: one bad answer must not last as long."""
    there = "/fhir/.well-known/smart-configuration"
    httpserver.expect_oneshot_request(there).respond_with_data("", 404)
    client = signed_in(httpserver.url_for("/fhir"), our_keys.ES384)
    assert failure_of(lambda: client.read("Patient/1")).kind == "auth"
    httpserver.expect_request(there).respond_with_json({"token_endpoint": httpserver.url_for("/token")})
    httpserver.expect_request("/token").respond_with_json({"access_token": "t"})
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    assert client.read("Patient/1") == PATIENT


@pytest.mark.parametrize(
    "published", ["ftp://x/token", "/auth/token", "auth/token", "x", "http:", "file:///etc/passwd"]
)
def test_a_token_endpoint_that_is_no_address_is_not_tried_again_and_again(
    httpserver: HTTPServer, our_keys: Keys, published: str
) -> None:
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_json({"token_endpoint": published})
    failure = failure_of(lambda: signed_in(httpserver.url_for("/fhir"), our_keys.ES384).read("Patient/1"))
    assert (failure.kind, failure.retryable) == ("auth", False)


# ---- refused assertions ---------------------------------------------------------------------------------------


@pytest.fixture(params=["ES384", "RS384"])
def key_file(request: pytest.FixtureRequest, our_keys: Keys) -> Path:
    file: Path = getattr(our_keys, request.param)
    return file


def wrong_key(file: Path, into: Path) -> Path:
    """Another key under the same kid."""
    (held,) = json.loads(file.read_text())["keys"]
    made: ECKey | RSAKey = (
        ECKey.generate_key("P-384", private=True) if held["kty"] == "EC" else RSAKey.generate_key(2048, private=True)
    )
    into.write_text(json.dumps({"keys": [{**made.as_dict(private=True), "kid": held["kid"], "alg": held["alg"]}]}))
    return into


@pytest.mark.parametrize(
    "fault", ["expired", "not yet", "reused jti", "wrong aud", "wrong key", "unknown kid", "unknown"]
)
def test_our_client_says_that_it_was_refused_and_nothing_more(
    ehrs: SmartEhrs, key_file: Path, proxy: Proxy, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    base = ehrs("full")
    settings: dict[str, Any] = {}
    if fault == "expired":
        settings["now"] = lambda: now_ms() - 3_600_000
    if fault == "not yet":
        settings["now"] = lambda: now_ms() + 3_600_000
    if fault == "reused jti":
        fixed = uuid.uuid4()
        monkeypatch.setattr(smart.uuid, "uuid4", lambda: fixed)
        signed_in(base, key_file).read("Patient/1")
    if fault == "wrong aud":
        settings["token_url"] = token_url(base).replace("127.0.0.1", "localhost")
    if fault == "wrong key":
        key_file = wrong_key(key_file, tmp_path / "wrong")
    if fault == "unknown kid":
        keys.add(tmp_path / "unknown", "ES384", now_s=0, signs_after_h=0)
        key_file = tmp_path / "unknown"
    if fault == "unknown":
        settings["client_id"] = "somebody"
    client = signed_in(base, key_file, proxy, **settings)
    failure = failure_of(lambda: client.read("Patient/1"))
    assert (failure.kind, failure.status, failure.code) == ("auth", 401, "invalid_client")
    assert failure.message == "there: token request: invalid_client."
    (asked,) = proxy.tokens
    assert proxy.fhir == []
    nothing_leaks(failure, client, caplog, [asked.form["client_assertion"], *secrets_of(key_file)])
    assert capsys.readouterr() == ("", "")


def secrets_of(file: Path) -> list[str]:
    return [jwk[name] for jwk in json.loads(file.read_text())["keys"] for name in ("d", "p", "q") if name in jwk]


def nothing_leaks(
    failure: EhrFailure, client: Client, caplog: pytest.LogCaptureFixture, secrets: list[str]
) -> None:  # fmt: skip
    """Nothing of these stands in what a person, a log or a journal gets to see."""
    seen = "\n".join([
        f"{failure} {failure!r} {failure.why} {failure.args} {failure.issues} {vars(failure)}",
        "".join(traceback.format_exception(failure)),
        f"{copy.copy(failure)!r} {pickle.dumps(failure)!r}",
        f"{client!r} {client.auth!r} {client.connection!r}",
        caplog.text,
        *(f"{record.getMessage()} {vars(record)}" for record in caplog.records),
    ])  # fmt: skip
    for secret in secrets:
        signature = secret.rpartition(".")[2] if secret.count(".") == 2 else secret
        assert secret not in seen
        assert signature not in seen


def test_a_good_sign_in_says_nothing_either(
    ehrs: SmartEhrs, our_keys: Keys, proxy: Proxy, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    client = signed_in(ehrs("full"), our_keys.ES384, proxy)
    client.read("Patient/1")
    failure = failure_of(lambda: client.read("Patient/nobody"))
    token = services(client)._token
    assert token
    asked = proxy.tokens[0].form["client_assertion"]
    nothing_leaks(failure, client, caplog, [token, asked, *secrets_of(our_keys.ES384)])
    assert "fhir_secondop" not in caplog.text
    assert capsys.readouterr() == ("", "")


HMAC = OctKey.generate_key(512)


@pytest.mark.parametrize(
    "fault",
    ["none", "expired", "reused jti", "wrong aud", "wrong key", "too long", "another's iss", "alg none", "HS384"],
)
def test_the_simulated_ehr_refuses_what_it_must(ehrs: SmartEhrs, our_keys: Keys, tmp_path: Path, fault: str) -> None:
    """Assertions made by hand: an EHR that took anything would make the tests above worthless."""
    base = ehrs("full")
    file = our_keys.ES384 if fault != "wrong key" else wrong_key(our_keys.ES384, tmp_path / "wrong")
    (held,) = json.loads(file.read_text())["keys"]
    key: Any = ECKey.import_key({name: held[name] for name in ("kty", "crv", "x", "y", "d")})
    header = {"alg": "ES384", "kid": held["kid"], "typ": "JWT"}
    now = int(time.time())
    claims = {"iss": CLIENT, "sub": CLIENT, "aud": token_url(base), "exp": now + 240, "jti": str(uuid.uuid4())}
    changed: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 1}, "wrong aud": {"aud": base}, "too long": {"exp": now + 600},
        "another's iss": {"iss": "somebody"},
    }  # fmt: skip
    claims |= changed.get(fault, {})
    if fault == "HS384":
        header["alg"], key = "HS384", HMAC
    if fault == "alg none":
        parts = ({**header, "alg": "none"}, claims)
        signed = ".".join([*(urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), ""])
    else:
        signed = jwt.encode(header, claims, key, algorithms=[header["alg"]])

    def ask() -> requests.Response:
        form = {"grant_type": "client_credentials", "scope": "system/Patient.rs", "client_assertion_type": ASSERTION,
                "client_assertion": signed}  # fmt: skip
        return requests.post(token_url(base), data=form, timeout=10)

    if fault in ("none", "reused jti"):
        assert ask().status_code == 200
    if fault != "none":
        answer = ask()
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert "access_token" not in answer.json()


# ---- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", ["client_id", "key_file"])
def test_what_is_missing_is_named(lacking: str) -> None:
    given = {"client_id": CLIENT, "key_file": "/nowhere", lacking: ""}
    with pytest.raises(Invalid, match="client_id and key_file"):
        Client(Connection("there", "http://127.0.0.1:1/fhir", auth="smart", **given), now=now_ms)


def test_a_missing_key_file_is_named_before_anything_is_sent(ehrs: SmartEhrs, tmp_path: Path, proxy: Proxy) -> None:
    with pytest.raises(Invalid, match="keys new"):
        signed_in(ehrs("full"), tmp_path / "nowhere", proxy).read("Patient/1")
    assert proxy.tokens == []
