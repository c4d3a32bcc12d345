"""Signing in at an EHR that we did not write: SEKMET (PyPI sekmet-fhir), by SMART Backend Services at its own endpoint.

Clients are registered in its settings file, by a JWKS or the URL of one. What it does its own way (0.1.1): it passes
over `kid` and tries every key of a client, and answers 500 when it meets one of another kind than the assertion's
algorithm (so each client here has keys of one kind); it keeps a JWKS from a URL for five minutes; it grants or refuses
each scope as a whole; a transaction needs a scope for all types (`system/*.c`).
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from fhir_secondop.ehr import keys, plan, pull, scopes, smart
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.model import Connection
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.story import Story
from fhir_secondop.store.database import now_ms
from tests.conftest import free_port
from tests.ehr.recording import Proxy, recording

pytestmark = pytest.mark.shared

CASE = Path(__file__).parent.parent.parent / "examples/breast-treatment-plan"
CLIENTS = {"ES384": "second-opinion-es", "RS384": "second-opinion-rs"}
READER = "reader"  # may read, not write
NARROW = "narrow"  # may read two types
ROTATING = "rotating"  # its keys are at a URL
EVERYTHING = "system/*.cruds"
LOADER = "t0-load-and-l00k"  # a fixed token for the tests' own requests
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
Plain = dict[str, Any]


class Sekmet:
    """A SEKMET process; `base` is its FHIR base, `token_url` its token endpoint, `ca` the file of its CA.

    `clients` are its registered clients: client_id, jwks or jwks_url, scopes.
    """

    def __init__(self, folder: Path, clients: list[Plain], ca: trustme.CA | None = None, port: int = 0) -> None:
        folder.mkdir()
        port = port or free_port()
        root = f"{'https' if ca else 'http'}://127.0.0.1:{port}"
        self.base, self.token_url, self.ca = f"{root}/fhir", f"{root}/auth/token", ""
        self.log = folder / "log"
        settings: Plain = {
            "base_url": self.base, "host": "127.0.0.1", "port": port, "data_dir": str(folder),
            "simulator": {"enabled": False},
            "server_auth": {"types": ["smart", "bearer"], "tokens": [LOADER], "token_lifetime": 300,
                            "smart_clients": clients},
        }  # fmt: skip
        if ca:
            self.ca = str(folder / "ca.pem")
            ca.cert_pem.write_to_path(self.ca)
            cert = ca.issue_cert("127.0.0.1")
            settings["tls_certfile"], settings["tls_keyfile"] = str(folder / "tls.crt"), str(folder / "tls.key")
            cert.cert_chain_pems[0].write_to_path(settings["tls_certfile"])
            cert.private_key_pem.write_to_path(settings["tls_keyfile"])
        (folder / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
        command = [sys.executable, "-c", "from sekmet.cli import app; app()", "serve",
                   "--config", str(folder / "settings.yaml"), "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def wait(self) -> None:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.get("metadata").status_code == 200:
                    return
            except requests.RequestException:
                time.sleep(0.1)
        raise AssertionError("SEKMET did not start")

    def get(self, path: str) -> requests.Response:
        """A request of the tests' own."""
        headers = {"Authorization": f"Bearer {LOADER}"}
        return requests.get(f"{self.base}/{path}", headers=headers, timeout=20, verify=self.ca or True)

    def load(self, file: Path) -> None:
        """Stores a transaction."""
        headers = {"Authorization": f"Bearer {LOADER}", "Content-Type": "application/fhir+json"}
        loaded = requests.post(self.base, data=file.read_bytes(), headers=headers, timeout=60, verify=self.ca or True)
        assert loaded.status_code == 200, loaded.text[:500]


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of ours for each algorithm."""
    folder = tmp_path_factory.mktemp("keys")
    files = {alg: folder / alg for alg in ("ES384", "RS384")}
    for alg, file in files.items():
        keys.add(file, alg, now_s=0, signs_after_h=0)
    return files


@pytest.fixture(scope="module")
def rotating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, HTTPServer]]:
    """A key file, and where its public half is published."""
    file = tmp_path_factory.mktemp("rotating") / "keys.json"
    keys.add(file, "ES384", now_s=0, signs_after_h=0)
    with HTTPServer() as server:
        server.expect_request("/.well-known/jwks.json").respond_with_handler(
            lambda _: Response(json.dumps(keys.public([file])), content_type="application/json")
        )
        yield file, server


@pytest.fixture(scope="module")
def sekmet(
    key_files: dict[str, Path], rotating: tuple[Path, HTTPServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sekmet]:
    """SEKMET over HTTP, with one hospital's record."""
    pytest.importorskip("sekmet")
    jwks = {alg: keys.public([file]) for alg, file in key_files.items()}
    jwks_url = rotating[1].url_for("/.well-known/jwks.json")
    clients = [{"client_id": client_id, "jwks": jwks[alg], "scopes": EVERYTHING} for alg, client_id in CLIENTS.items()]
    clients += [
        {"client_id": READER, "jwks": jwks["ES384"], "scopes": "system/*.rs"},
        {"client_id": NARROW, "jwks": jwks["ES384"], "scopes": "system/Patient.rs system/Condition.rs"},
        {"client_id": ROTATING, "jwks_url": jwks_url, "scopes": EVERYTHING},
    ]
    server = Sekmet(tmp_path_factory.mktemp("smart") / "sekmet", clients)
    try:
        server.wait()
        server.load(CASE / "records/lakeside.json")
        yield server
    finally:
        server.process.terminate()
        server.process.wait()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with recording() as proxy:
        yield proxy


def client_id_of(key_file: Path) -> str:
    return CLIENTS[of_file(key_file)[0]["alg"]]


def signed_in(sekmet: Sekmet, key_file: Path, client_id: str = "", **settings: Any) -> Client:
    now = settings.pop("now", now_ms)
    client_id = client_id or client_id_of(key_file)
    settings = {"rate_per_s": 0.0, "timeout_s": 10.0, "key_file": str(key_file), **settings}
    return Client(Connection("sekmet", sekmet.base, auth="smart", client_id=client_id, **settings), now=now)


def failure_of(act: Callable[[], Any]) -> EhrFailure:
    with pytest.raises(EhrFailure) as caught:
        act()
    return caught.value


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
def test_it_lets_us_in_with_either_algorithm(
    sekmet: Sekmet, key_files: dict[str, Path], proxy: Proxy, alg: str
) -> None:
    client = signed_in(sekmet, key_files[alg], proxy=proxy.url)
    assert client.read("Patient/1")["resourceType"] == "Patient"
    assert len(client.search("Observation", {"patient": "1"})) == 23
    assert len(proxy.tokens) == 1
    assert sekmet.get("Patient/1").status_code == 200
    stranger = requests.get(f"{sekmet.base}/Patient/1", timeout=10)
    assert stranger.status_code == 401, "and nobody without"
    granted = client.granted
    assert granted == frozenset(proxy.tokens[0].form["scope"].split())
    assert {a.outcome for a in plan.plan(client.capability, client.site, granted)} <= {"", "not-offered"}


@pytest.fixture(params=["ES384", "RS384"])
def key_file(request: pytest.FixtureRequest, key_files: dict[str, Path]) -> Path:
    return key_files[request.param]


def of_file(file: Path) -> tuple[Plain, ECKey | RSAKey]:
    """The first key of a file, as it stands there and to sign with."""
    held = json.loads(file.read_text())["keys"][0]
    return held, keys.signing(file, [], int(time.time())).key


FAULTS: dict[str, Callable[[Plain, int, str], None]] = {
    "expired": lambda claims, now, base: claims.update(exp=now - 5),
    "too long": lambda claims, now, base: claims.update(exp=now + 900),
    "wrong aud": lambda claims, now, base: claims.update(aud=base),
    "another's": lambda claims, now, base: claims.update(iss="somebody", sub="somebody"),
    "iss is not sub": lambda claims, now, base: claims.update(sub="somebody"),
}


@pytest.mark.parametrize("fault", ["none", *FAULTS, "reused jti", "wrong key"])
def test_it_refuses_an_assertion_that_is_not_good(sekmet: Sekmet, key_file: Path, fault: str) -> None:
    """Made by hand, past our client: what it refuses below is refused because it is wrong."""
    held, key = of_file(key_file)
    if fault == "wrong key":
        key = ECKey.generate_key("P-384") if held["kty"] == "EC" else RSAKey.generate_key(2048)
    now = int(time.time())
    client_id = client_id_of(key_file)
    claims: Plain = {"iss": client_id, "sub": client_id, "aud": sekmet.token_url, "iat": now, "exp": now + 240,
                     "jti": str(uuid.uuid4())}  # fmt: skip
    if fault in FAULTS:
        FAULTS[fault](claims, now, sekmet.base)
    header = {"alg": held["alg"], "kid": held["kid"], "typ": "JWT"}
    signed = jwt.encode(header, claims, key, algorithms=[held["alg"]])

    def ask() -> tuple[int, str]:
        form = {"grant_type": "client_credentials", "scope": "system/Patient.rs", "client_assertion_type": ASSERTION,
                "client_assertion": signed}  # fmt: skip
        answer = requests.post(sekmet.token_url, data=form, timeout=10)
        return answer.status_code, answer.json().get("error", "")

    if fault in ("none", "reused jti"):
        assert ask() == (200, "")
    if fault != "none":
        assert ask() == (401, "invalid_client")


@pytest.mark.parametrize("fault", ["expired", "not yet", "reused jti", "wrong aud", "wrong key", "unknown client"])
def test_our_client_says_why_it_was_not_let_in(
    sekmet: Sekmet, key_file: Path, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch, proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    settings: Plain = {"proxy": proxy.url}
    if fault == "expired":
        settings["now"] = lambda: now_ms() - 3_600_000
    if fault == "not yet":
        settings["now"] = lambda: now_ms() + 3_600_000
    if fault == "reused jti":
        fixed = uuid.uuid4()
        monkeypatch.setattr(smart.uuid, "uuid4", lambda: fixed)
        signed_in(sekmet, key_file).read("Patient/1")
    if fault == "wrong aud":
        settings["token_url"] = sekmet.token_url.replace("127.0.0.1", "localhost")
    if fault == "wrong key":
        held, _ = of_file(key_file)
        other = tmp_path / "other"
        keys.add(other, held["alg"], now_s=0, signs_after_h=0)
        other.write_text(other.read_text().replace(of_file(other)[0]["kid"], held["kid"]))
        key_file = other
    client = signed_in(sekmet, key_file, "somebody" if fault == "unknown client" else "", **settings)
    failure = failure_of(lambda: client.read("Patient/1"))
    assert (failure.kind, failure.status, failure.code) == ("auth", 401, "invalid_client")
    (asked,) = proxy.tokens
    seen = f"{failure} {failure!r} {failure.why} {client!r} {client.auth!r} {client.connection!r} {caplog.text}"
    assertion = asked.form["client_assertion"]
    for secret in (assertion, assertion.rpartition(".")[2], of_file(key_file)[0]["d"]):
        assert secret not in seen


def test_a_client_that_may_only_read_reads_everything(sekmet: Sekmet, key_files: dict[str, Path]) -> None:
    """It grants or refuses each scope as a whole: reading must not be asked for together with writing."""
    client = signed_in(sekmet, key_files["ES384"], READER)
    capability = client.capability
    assert not any(scopes.permits(client.granted, kind, letter) for kind in plan.WRITTEN for letter in "cu")
    assert "refused" not in {a.outcome for a in plan.plan(capability, client.site, client.granted)}
    assert client.search("DiagnosticReport", {"patient": "1"})
    wrote = failure_of(lambda: client.write("POST", "Communication", {"resourceType": "Communication"}))
    assert (wrote.kind, wrote.status) == ("policy", 403)


def test_what_it_does_not_grant_stands_in_the_plan(sekmet: Sekmet, key_files: dict[str, Path], proxy: Proxy) -> None:
    client = signed_in(sekmet, key_files["ES384"], NARROW, proxy=proxy.url)
    capability = client.capability
    assert client.granted == frozenset({"system/Patient.rs", "system/Condition.rs"})
    asks = {ask.type: ask for ask in plan.plan(capability, client.site, client.granted)}
    assert asks["Observation"].because == "the scope was not granted"
    before = len(proxy.passed)
    assert pull.fetch(client, asks["Observation"], "1", lambda *_: None).outcome == "refused"
    assert len(proxy.passed) == before
    assert failure_of(lambda: client.search("Observation", {"patient": "1"})).status == 403
    assert client.search("Condition", {"patient": "1"})


def test_scopes_that_it_does_not_know_are_refused_with_their_code(
    sekmet: Sekmet, key_files: dict[str, Path], proxy: Proxy
) -> None:
    client = signed_in(sekmet, key_files["ES384"], NARROW, scopes="system/Observation.rs", proxy=proxy.url)
    failure = failure_of(lambda: client.read("Patient/1"))
    assert (failure.kind, failure.status, failure.code) == ("auth", 400, "invalid_scope")
    assert len(proxy.tokens) == 1


def test_our_jwks_is_fetched_from_its_url(sekmet: Sekmet, rotating: tuple[Path, HTTPServer], proxy: Proxy) -> None:
    """It keeps our JWKS for five minutes: a key that signed as soon as it is made would be refused."""
    file, published = rotating
    client = signed_in(sekmet, file, ROTATING, proxy=proxy.url)
    assert client.read("Patient/1")["id"] == "1"
    assert [r.path for r, _ in published.log] == ["/.well-known/jwks.json"]
    new = keys.add(file, "ES384", now_s=int(time.time()), signs_after_h=24)
    assert new in {key["kid"] for key in keys.public([file])["keys"]}
    assert signed_in(sekmet, file, ROTATING).read("Patient/1")["id"] == "1"
    rash = file.with_name("rash")
    held = json.loads(file.read_text())
    rash.write_text(json.dumps({"keys": [{**key, "signs_from": 0} for key in held["keys"] if key["kid"] == new]}))
    failure = failure_of(lambda: signed_in(sekmet, rash, ROTATING).read("Patient/1"))
    assert (failure.kind, failure.code) == ("auth", "invalid_client")
    assert len(published.log) == 1


@pytest.mark.parametrize("ahead_s", [-200, -1, 2, 45])
def test_clocks_may_differ(sekmet: Sekmet, key_file: Path, ahead_s: int) -> None:
    """PyJWT, which many servers use, refuses an iat that is a second ahead."""
    client = signed_in(sekmet, key_file, now=lambda: now_ms() + 1000 * ahead_s)
    assert client.read("Patient/1")["id"] == "1"


def test_a_token_that_it_no_longer_takes_is_replaced(sekmet: Sekmet, key_files: dict[str, Path], proxy: Proxy) -> None:
    client = signed_in(sekmet, key_files["ES384"], proxy=proxy.url)
    client.read("Patient/1")
    client.auth._token = client.auth._token[:-4] + "AAAA"  # type: ignore[attr-defined]
    assert client.read("Patient/1")["id"] == "1"
    assert len(proxy.tokens) == 2
    assert [p.status for p in proxy.fhir] == [200, 401, 200]


@pytest.mark.parametrize("alg", ["ES384", "RS384"])
def test_a_record_is_gathered_over_tls_and_smart(tmp_path: Path, alg: str) -> None:
    """Each program with its own configuration: SEKMET fetches the JWKS that our service publishes."""
    pytest.importorskip("sekmet")
    # given a case whose hospital is a SEKMET with a certificate that only its own CA knows
    port = free_port()
    case = tmp_path / "case"
    shutil.copytree(CASE, case)
    ehrs = json.loads((case / "ehrs.json").read_text())
    ehrs["lakeside"]["base"] = f"https://127.0.0.1:{port}/fhir"
    (case / "ehrs.json").write_text(json.dumps(ehrs))
    layout = demo.lay_out(tmp_path / "demo", case)
    clients = [{"client_id": CLIENTS[alg], "jwks_url": f"{layout.url}/.well-known/jwks.json", "scopes": EVERYTHING}]
    server = Sekmet(tmp_path / "sekmet", clients, trustme.CA(), port)
    # and the service signs in there with its own keys
    keys.add(layout.folder / "keys.json", alg, now_s=int(time.time()), signs_after_h=24)
    config = layout.folder / "secondop.toml"
    signing = f'[connections.lakeside]\nauth = "smart"\nclient_id = "{CLIENTS[alg]}"\nca_bundle = "lakeside-ca.pem"\n'
    config.write_text(config.read_text().replace("[connections.lakeside]\n", signing))
    shutil.copy(server.ca, layout.folder / "lakeside-ca.pem")
    story = Story(case, demo.people(layout), lambda _: None)
    try:
        server.wait()
        server.load(CASE / "records/lakeside.json")
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{server.base}/metadata", timeout=10)
        with demo.running(layout) as processes:
            # when the record is gathered
            story.request()
            story.gathered()

            # then everything came, and nothing more
            manifest = story.people["coordinator"].get(f"/{story.case_id}/manifest")
            (source,) = [s for s in manifest["sources"] if s["source"].startswith("Lakeside")]
            answers = {a["type"]: a for a in source["types"]}
            held = {kind: count(server, kind) for kind in ("Condition", "Observation", "DiagnosticReport", "Encounter")}
            assert held["Observation"] == 23
            assert {kind: answers[kind]["received"] for kind in held} == held
            statement = server.get("metadata").json()
            offered = {"Attachment", *(r["type"] for r in statement["rest"][0]["resource"])}
            outcomes = {kind: a["outcome"] for kind, a in answers.items()}
            assert outcomes == {k: "answered" if k in offered else "not-offered" for k in outcomes}
            assert sum(a["strangers"] for a in answers.values()) == 0
            shown = [Path(f"/proc/{p.pid}/cmdline").read_text() for p in processes._running.values()]
            shown.append(requests.get(f"{layout.url}/.well-known/jwks.json", timeout=10).text)
    finally:
        server.process.terminate()
        server.process.wait()
    # and no secret is anywhere but in its file
    shown += [(layout.folder / "service.log").read_text(), config.read_text()]
    for text in shown:
        assert of_file(layout.folder / "keys.json")[0]["d"] not in text
        assert "eyJ" not in text  # neither an assertion nor SEKMET's tokens, which are JWTs too
    seen_there = server.log.read_text()
    assert seen_there.count("POST /auth/token") == 1
    assert "401 Unauthorized" not in seen_there


def count(server: Sekmet, kind: str) -> int:
    bundle = server.get(f"{kind}?patient=1&_count=500").json()
    return sum(1 for e in bundle.get("entry", []) if e["resource"]["resourceType"] == kind)
