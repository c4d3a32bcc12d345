"""What lies between us and an EHR: TLS with a CA of one's own, client certificates, proxies, passwords, patience."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop.ehr import client as client_module
from fhir_secondop.ehr import keys
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Invalid
from tests.conftest import free_port, wait_for
from tests.ehr.conftest import RECORDS, Ehrs, client_of, held, new_patient
from tests.ehr.recording import Proxy, recording

PATIENT = {"resourceType": "Patient", "birthDate": "1971-04-17"}
HERE = "127.0.0.1"


def failure_of(act: Callable[[], Any]) -> EhrFailure:
    with pytest.raises(EhrFailure) as caught:
        act()
    return caught.value


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with recording() as proxy:
        yield proxy


# ---- TLS ------------------------------------------------------------------------------------------------------


class Pki:
    """A hospital's own CA, another one, and what they certify, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca, self.stranger = trustme.CA(), trustme.CA()
        self.bundle = self._written("ca.pem", self.ca.cert_pem.bytes())
        self.strangers_bundle = self._written("stranger.pem", self.stranger.cert_pem.bytes())
        self.here = self.ca.issue_cert(HERE, "localhost")
        self.elsewhere = self.ca.issue_cert("ehr.example")
        ours = self.ca.issue_cert("us@second-opinion.example")
        self.cert, self.key, self.pem = self._client("ours", ours)
        self.strangers_cert, self.strangers_key, _ = self._client(
            "stranger", self.stranger.issue_cert("us@second-opinion.example")
        )
        loaded = serialization.load_pem_private_key(ours.private_key_pem.bytes(), None)
        locked = loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x1y2"),
        )
        self.locked_key = self._written("locked.key", locked)
        self.locked_pem = self._written("locked.pem", locked + ours.cert_chain_pems[0].bytes())

    def _written(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return str(self.folder / name)

    def _client(self, name: str, made: trustme.LeafCert) -> tuple[str, str, str]:
        return (
            self._written(f"{name}.crt", made.cert_chain_pems[0].bytes()),
            self._written(f"{name}.key", made.private_key_pem.bytes()),
            self._written(f"{name}.pem", made.private_key_and_cert_chain_pem.bytes()),
        )


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@contextmanager
def over_tls(
    pki: Pki, *, cert: trustme.LeafCert | None = None, demands_certificate: bool = False,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Iterator[HTTPServer]:  # fmt: skip
    """A server with that certificate; it has a Patient/1 and takes another."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    (cert or pki.here).configure_cert(context)
    if demands_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        pki.ca.configure_trust(context)
    with HTTPServer(host=HERE, ssl_context=context) as server:
        server.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
        server.expect_request("/fhir/Patient", method="POST").respond_with_json({**PATIENT, "id": "2"}, 201)
        yield server


def base(server: HTTPServer) -> str:
    made = server.url_for("/fhir")
    assert made.startswith(f"https://{HERE}:")
    return made


def refused(server: HTTPServer, **settings: Any) -> None:
    """Neither a read nor a write reaches the server, and it is not said that one may have."""
    client = client_of(base(server), timeout_s=3.0, **settings)
    for act in (lambda: client.read("Patient/1"), lambda: client.write("POST", "Patient", PATIENT)):
        failure = failure_of(act)
        assert (failure.kind, failure.retryable) == ("unreachable", True)
    assert server.log == []


def test_a_hospitals_own_ca_is_trusted_where_it_is_named(pki: Pki) -> None:
    with over_tls(pki) as server:
        refused(server)
        refused(server, ca_bundle=pki.strangers_bundle)
        client = client_of(base(server), ca_bundle=pki.bundle)
        assert client.read("Patient/1") == PATIENT
        assert client.write("POST", "Patient", PATIENT).location == "Patient/2"


def test_a_certificate_of_another_host_is_refused(pki: Pki) -> None:
    with over_tls(pki, cert=pki.elsewhere) as server:
        refused(server, ca_bundle=pki.bundle)


def test_trust_does_not_come_from_the_environment(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    with over_tls(pki) as server:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, pki.bundle)
        refused(server)
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.setenv(name, pki.strangers_bundle)
        assert client_of(base(server), ca_bundle=pki.bundle).read("Patient/1") == PATIENT


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)
def test_a_client_certificate_is_shown_to_a_server_that_demands_one(pki: Pki, version: ssl.TLSVersion) -> None:
    with over_tls(pki, demands_certificate=True, version=version) as server:
        for settings in ({"client_cert": pki.cert, "client_key": pki.key}, {"client_cert": pki.pem}):
            client = client_of(base(server), ca_bundle=pki.bundle, **settings)
            assert client.read("Patient/1") == PATIENT
            assert client.write("POST", "Patient", PATIENT).status == 201
        assert len(server.log) == 4
        assert all("CERTIFICATE" in request.environ["SSL_CLIENT_CERT"] for request, _ in server.log)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)
def test_without_the_right_client_certificate_nothing_arrives(pki: Pki, version: ssl.TLSVersion) -> None:
    with over_tls(pki, demands_certificate=True, version=version) as server:
        for settings in ({}, {"client_cert": pki.strangers_cert, "client_key": pki.strangers_key}):
            client = client_of(base(server), ca_bundle=pki.bundle, timeout_s=3.0, **settings)
            assert failure_of(lambda client=client: client.read("Patient/1")).kind == "unreachable"  # type: ignore[misc]
            # With TLS 1.3 the refusal may come after what was written: then it can't be told from a broken answer.
            wrote = failure_of(lambda client=client: client.write("POST", "Patient", PATIENT))  # type: ignore[misc]
            assert wrote.kind in ("unreachable", "unknown")
        assert server.log == []


@pytest.fixture
def smart_keys(tmp_path: Path) -> str:
    keys.add(tmp_path / "keys.json", "ES384", now_s=0, signs_after_h=0)
    return str(tmp_path / "keys.json")


def test_signing_in_goes_the_same_way(pki: Pki, smart_keys: str, proxy: Proxy) -> None:
    with over_tls(pki, demands_certificate=True) as server:
        server.expect_request("/fhir/.well-known/smart-configuration").respond_with_json(
            {"token_endpoint": server.url_for("/token")}
        )
        server.expect_request("/token", method="POST").respond_with_json({"access_token": "t"})
        smart: dict[str, Any] = {"auth": "smart", "client_id": "us", "key_file": smart_keys}
        tls = {"ca_bundle": pki.bundle, "client_cert": pki.pem}
        assert client_of(base(server), proxy=proxy.url, **smart, **tls).read("Patient/1") == PATIENT
        assert [r.path for r, _ in server.log] == ["/fhir/.well-known/smart-configuration", "/token", "/fhir/Patient/1"]
        # through the tunnel, every one of them; what went through it nobody on the way could read
        assert {(p.method, p.url) for p in proxy.passed} == {("CONNECT", f"{HERE}:{server.port}")}
        server.clear_log()
        for lacking in tls:
            left = {name: value for name, value in tls.items() if name != lacking}
            failure = failure_of(lambda left=left: client_of(base(server), **smart, **left).read("Patient/1"))  # type: ignore[misc]
            assert (failure.kind, failure.message) == ("unreachable", "there: smart-configuration request: no answer.")
        assert server.log == []


@pytest.mark.parametrize("scheme", ["http", "HTTP", " http", "hTtP"])
def test_an_assertion_is_not_sent_in_the_clear(pki: Pki, smart_keys: str, httpserver: HTTPServer, scheme: str) -> None:
    there = f"{scheme}://{httpserver.host}:{httpserver.port}/token"
    with over_tls(pki) as server:
        server.expect_request("/fhir/.well-known/smart-configuration").respond_with_json({"token_endpoint": there})
        smart: dict[str, Any] = {"auth": "smart", "client_id": "us", "key_file": smart_keys, "ca_bundle": pki.bundle}
        for settings in ({}, {"token_url": there}):
            client = client_of(base(server), **smart, **settings)
            failure = failure_of(lambda client=client: client.read("Patient/1"))  # type: ignore[misc]
            assert (failure.kind, failure.retryable) == ("policy", False)
            assert "not https" in failure.message
    assert httpserver.log == []


def test_files_that_are_no_certificates_are_named(pki: Pki, tmp_path: Path) -> None:
    """Else they would look like an EHR that does not answer, and be tried again for half an hour."""
    junk = tmp_path / "junk"
    junk.write_text("not PEM")
    (tmp_path / "empty").write_text("")
    for settings, named in (
        ({"ca_bundle": str(junk)}, "junk"),
        ({"ca_bundle": str(tmp_path / "empty")}, "empty"),
        ({"ca_bundle": str(tmp_path / "nowhere")}, "nowhere"),
        ({"client_cert": str(junk)}, "junk"),
        ({"client_cert": str(tmp_path / "nowhere"), "client_key": pki.key}, "nowhere"),
        ({"client_cert": pki.cert}, "ours.crt"),  # its key is not in it
        ({"client_cert": pki.cert, "client_key": pki.strangers_key}, "ours.crt"),
    ):
        with pytest.raises(Invalid, match=named):
            client_of("https://127.0.0.1:1/fhir", **settings).read("Patient/1")


@pytest.mark.parametrize("combined", [True, False])
def test_a_locked_key_does_not_ask_for_its_password(pki: Pki, combined: bool) -> None:
    """OpenSSL would ask on the terminal, and the service would wait for an answer that nobody gives."""
    cert = {"client_cert": pki.locked_pem} if combined else {"client_cert": pki.cert, "client_key": pki.locked_key}
    code = (
        "from tests.ehr.conftest import client_of\n"
        f"client_of('https://127.0.0.1:1/fhir', **{cert!r}).read('Patient/1')\n"
    )
    leader, follower = os.openpty()  # a terminal, as an operator's
    try:
        process = subprocess.run([sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=subprocess.PIPE,
                                 timeout=30, start_new_session=True, cwd=Path(__file__).parent.parent.parent,
                                 preexec_fn=lambda: _take_terminal(follower))  # fmt: skip
    finally:
        os.close(leader)
        os.close(follower)
    said = process.stderr.decode()
    assert "Invalid" in said
    assert "password" in said
    assert "pass phrase" not in said


def _take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


# ---- proxies --------------------------------------------------------------------------------------------------


def test_everything_goes_through_the_proxy(ehrs: Ehrs, proxy: Proxy) -> None:
    there = ehrs("full")
    client = client_of(there, proxy=proxy.url)
    patient = client.write("POST", "Patient", PATIENT).location
    assert client.read(patient)["birthDate"] == "1971-04-17"
    client.search("Patient", {"birthdate": "1971-04-17"})
    assert [(p.method, p.status) for p in proxy.passed[:2]] == [("POST", 201), ("GET", 200)]
    assert {p.url.split("/fhir")[0] for p in proxy.passed} == {there.removesuffix("/fhir")}
    assert len(proxy.passed) >= 3


def test_a_file_elsewhere_goes_through_the_proxy_too(ehrs: Ehrs, httpserver: HTTPServer, proxy: Proxy) -> None:
    httpserver.expect_request("/scan").respond_with_data(b"%PDF", content_type="application/pdf")
    client = client_of(ehrs("full"), proxy=proxy.url, origins=(httpserver.url_for(""),))
    assert client.file(httpserver.url_for("/scan"), "")[1] == b"%PDF"
    assert [p.url for p in proxy.passed] == [httpserver.url_for("/scan")]


def test_the_proxy_can_not_read_what_goes_over_tls(pki: Pki, proxy: Proxy) -> None:
    with over_tls(pki) as server:
        client = client_of(base(server), proxy=proxy.url, ca_bundle=pki.bundle)
        assert client.read("Patient/1") == PATIENT
        assert [(p.method, p.url) for p in proxy.passed] == [("CONNECT", f"{HERE}:{server.port}")]
        # a tunnel does not make a wrong certificate right
        server.clear_log()
        assert failure_of(lambda: client_of(base(server), proxy=proxy.url).read("Patient/1")).kind == "unreachable"
        assert server.log == []


@pytest.fixture
def surroundings(httpserver: HTTPServer, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's environment: a proxy for everything, and a netrc with a password for this very host."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv(name.lower(), proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("".join(f"machine {h} login operator password hunter2\n" for h in (httpserver.host, HERE)))
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text(netrc.read_text())


@pytest.mark.usefixtures("surroundings")
def test_neither_proxies_nor_passwords_come_from_the_environment(
    httpserver: HTTPServer, proxy: Proxy, smart_keys: str
) -> None:
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_json(
        {"token_endpoint": httpserver.url_for("/token")}
    )
    httpserver.expect_request("/token").respond_with_json({"access_token": "t"})
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    there = httpserver.url_for("/fhir")
    client_of(there).read("Patient/1")
    client_of(there, auth="smart", client_id="us", key_file=smart_keys).read("Patient/1")
    assert proxy.passed == []
    sent = [(r.path, r.headers.get("Authorization")) for r, _ in httpserver.log]
    assert sent == [("/fhir/Patient/1", None), ("/fhir/.well-known/smart-configuration", None), ("/token", None),
                    ("/fhir/Patient/1", "Bearer t")]  # fmt: skip


@pytest.mark.usefixtures("surroundings")
def test_no_proxy_of_the_environment_does_not_lead_past_the_configured_one(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    with recording() as configured:
        client_of(httpserver.url_for("/fhir"), proxy=configured.url).read("Patient/1")
        assert len(configured.passed) == 1


def test_a_proxy_that_is_not_there_carried_nothing(ehrs: Ehrs, pki: Pki) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    for there in (ehrs("full"), f"https://127.0.0.1:{free_port()}/fhir"):
        client = client_of(there, proxy=gone)
        assert failure_of(lambda client=client: client.read("Patient/1")).kind == "unreachable"  # type: ignore[misc]
        wrote = failure_of(lambda client=client: client.write("POST", "Patient", PATIENT))  # type: ignore[misc]
        assert wrote.kind == "unreachable"


@pytest.mark.parametrize("proxy_url", ["127.0.0.1:3128", "socks5://127.0.0.1:1080", "proxy.hospital.example:8080"])
def test_a_proxy_that_is_no_url_is_named(proxy_url: str) -> None:
    with pytest.raises(Invalid, match="http://host:port"):
        client_of("http://127.0.0.1:1/fhir", proxy=proxy_url).write("POST", "Patient", PATIENT)


def test_the_proxys_password_goes_to_the_proxy_alone(
    httpserver: HTTPServer, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    with_password = proxy.url.replace("http://", "http://us:hunter2@")
    client_of(httpserver.url_for("/fhir"), proxy=with_password).read("Patient/1")
    assert [p.headers["proxy-authorization"] for p in proxy.passed] == ["Basic dXM6aHVudGVyMg=="]
    ((request, _),) = httpserver.log
    assert not [name for name in request.headers if "authorization" in name[0].lower()]
    gone = f"http://us:hunter2@127.0.0.1:{free_port()}"
    failure = failure_of(lambda: client_of(httpserver.url_for("/fhir"), proxy=gone).read("Patient/1"))
    seen = f"{failure} {failure!r} {''.join(traceback.format_exception(failure))} {caplog.text}"
    assert "hunter2" not in seen
    assert "dXM6aHVudGVyMg" not in seen


# ---- passwords ------------------------------------------------------------------------------------------------


def test_no_more_requests_at_once_than_the_connection_allows() -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def slowly(request: Request) -> Response:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.05)
        with lock:
            under_way -= 1
        return Response('{"resourceType": "Basic"}', content_type="application/fhir+json")

    with HTTPServer(threaded=True) as server:
        server.expect_request("/Basic/1").respond_with_handler(slowly)
        for allowed, seen in ((2, {2}), (0, set(range(4, 9)))):
            asked = client_of(server.url_for("").rstrip("/"), concurrency=allowed)
            most = 0
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(asked.read, ["Basic/1"] * 16))
            assert most in seen


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """guarded("basic", "us:password") → the base of an EHR process that lets in who shows that."""
    running: list[subprocess.Popen[bytes]] = []

    def start(way: str, secret: str) -> str:
        port = free_port()
        (tmp_path / "theirs").write_text(secret, "utf-8")
        command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--shape", "full", "--port", str(port),
                   "--database", str(tmp_path / "ehr.sqlite"), "--load", str(RECORDS / "lakeside.json"),
                   "--auth", way, "--secret-file", str(tmp_path / "theirs")]  # fmt: skip
        with open(tmp_path / "ehr.log", "wb") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
        wait_for(f"http://127.0.0.1:{port}/healthz", running[-1])
        return f"http://127.0.0.1:{port}/fhir"

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("password", ["hunter2", "päss wörd", "€uro", "a:b:c", "日本"])
def test_a_password_of_any_alphabet_lets_in(guarded: Callable[[str, str], str], tmp_path: Path, password: str) -> None:
    there = guarded("basic", f"us:{password}")
    mine = tmp_path / "mine"
    mine.write_text(f"  {password}\r\n", "utf-8")
    settings: dict[str, Any] = {"auth": "basic", "username": "us", "secret_file": str(mine)}
    assert client_of(there, **settings).read("Patient/1")["id"] == "1"
    mine.write_text("another", "utf-8")
    failure = failure_of(lambda: client_of(there, **settings).read("Patient/1"))
    assert (failure.kind, failure.status, failure.retryable) == ("auth", 401, False)


def test_a_fixed_token_lets_in(guarded: Callable[[str, str], str], tmp_path: Path, proxy: Proxy) -> None:
    there = guarded("bearer", "t0ken.with~odd/+characters==")
    mine = tmp_path / "mine"
    mine.write_text("t0ken.with~odd/+characters==\n")
    client = client_of(there, auth="bearer", secret_file=str(mine), proxy=proxy.url)
    assert client.read("Patient/1")["id"] == "1"
    mine.write_text("wrong")
    wrong = client_of(there, auth="bearer", secret_file=str(mine), proxy=proxy.url)
    assert failure_of(lambda: wrong.read("Patient/1")).kind == "auth"
    assert len(proxy.passed) == 2, "a fixed token is not tried twice"


@pytest.mark.parametrize("way", ["basic", "bearer"])
@pytest.mark.parametrize("content", [b"", b" \n", b"s3cr\xe9t"])
def test_a_secret_file_that_holds_none_is_named_not_quoted(tmp_path: Path, way: str, content: bytes) -> None:
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(Invalid, match="mine") as caught:
        client_of("http://127.0.0.1:1/fhir", auth=way, username="us", secret_file=str(tmp_path / "mine"))
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "content", ["s3cret one\ns3cret two\n", "s3cret\r\nX-Evil: 1", "s3crét", "s3cret\0", "a s3cret"]
)
def test_a_token_that_no_header_can_carry_is_not_quoted(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine").write_text(content, "utf-8", newline="")
    with pytest.raises(Invalid, match="mine") as caught:
        client_of("http://127.0.0.1:1/fhir", auth="bearer", secret_file=str(tmp_path / "mine")).read("Patient/1")
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("way", "settings"), [("basic", {"username": "us"}), ("bearer", {})])
def test_a_fixed_secret_goes_nowhere_else(
    httpserver: HTTPServer, tmp_path: Path, way: str, settings: dict[str, str]
) -> None:
    (tmp_path / "mine").write_text("hunter2")
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    with HTTPServer() as other:
        other.expect_request("/scan").respond_with_data(b"%PDF")
        client = client_of(httpserver.url_for("/fhir"), auth=way, secret_file=str(tmp_path / "mine"),
                           origins=(other.url_for(""),), **settings)  # fmt: skip
        client.read("Patient/1")
        client.file(other.url_for("/scan"), "")
        client.read("Patient/1")
        assert [r.headers.get("Authorization") for r, _ in other.log] == [None]
    assert all(r.headers["Authorization"] for r, _ in httpserver.log)
    shown = f"{client!r} {client.auth!r} {client.connection!r}"
    assert "hunter2" not in shown


# ---- patience -------------------------------------------------------------------------------------------------


def within(seconds: float, act: Callable[[], Any]) -> EhrFailure:
    """The failure that comes within so many seconds."""
    begun = time.monotonic()
    failure = failure_of(act)
    assert time.monotonic() - begun < seconds
    return failure


def test_an_ehr_that_never_answers_is_left_in_time(ehrs: Ehrs) -> None:
    client = client_of(ehrs("full", "hangs"), timeout_s=0.5)
    for act in (lambda: client.read("Patient/1"), lambda: client.search("Condition", {}), lambda: client.capability):
        assert within(2, act).kind == "unreachable"
    wrote = within(2, lambda: client.write("POST", "Patient", PATIENT))
    assert (wrote.kind, wrote.retryable) == ("unknown", True)
    assert within(2, lambda: client.post("Patient/$match", {"resourceType": "Parameters"})).kind == "unreachable"


def test_a_slow_answer_is_waited_for_as_long_as_it_goes_on(ehrs: Ehrs) -> None:
    there = ehrs("full", "slow-bytes=3")
    begun = time.monotonic()
    assert client_of(there, timeout_s=1.0).read("Patient/1")["id"] == "1"
    assert time.monotonic() - begun > 2  # the time-out is between two bytes, not for the whole
    impatient = client_of(there, timeout_s=0.1)
    assert within(3, lambda: impatient.read("Patient/1")).kind == "unreachable"
    assert within(3, lambda: impatient.write("POST", "Patient", PATIENT)).kind == "unknown"


def test_a_write_whose_answer_came_too_late_did_happen(ehrs: Ehrs) -> None:
    there = ehrs("full", "late-answer=2")
    client = client_of(there, timeout_s=0.4)
    assert within(2, lambda: client.write("POST", "Patient", {**PATIENT, "birthDate": "1901-01-01"})).kind == "unknown"
    assert len(held(there, "Patient", birthdate="1901-01-01")) == 1
    assert client.read(new_patient(there))["resourceType"] == "Patient"  # reading is not late


@contextmanager
def raw(send: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that reads each request and does that with the connection; its address without the scheme."""
    listening = socket.create_server((HERE, 0))

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                secured = context.wrap_socket(connection, server_side=True) if context else connection
                request = b""
                while b"\r\n\r\n" not in request:
                    request += secured.recv(1 << 16)
                # with TLS: what `send` sends goes out below it
                send(socket.socket(fileno=secured.detach()) if context else connection)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"{HERE}:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def test_an_answer_that_dribbles_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps every time-out between two bytes away."""
    monkeypatch.setattr(client_module, "SLOWEST", 4)

    def dribble(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: 60000\r\n\r\n{")
        for _ in range(400):
            time.sleep(0.05)
            connection.sendall(b" ")

    with raw(dribble) as address:
        client = client_of(f"http://{address}/fhir", timeout_s=0.3)
        assert within(4, lambda: client.read("Patient/1")).kind == "unreachable"
        assert within(4, lambda: client.write("POST", "Patient", PATIENT)).kind == "unknown"


def test_tls_that_breaks_after_a_write_leaves_it_unknown(pki: Pki) -> None:
    """A certificate that is refused carried nothing; a record that can't be read says nothing about what was sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki.here.configure_cert(context)

    def babble(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 201 Created\r\n\r\n")  # in the clear

    with raw(babble, context) as address:
        client = client_of(f"https://{address}/fhir", ca_bundle=pki.bundle, timeout_s=2.0)
        assert failure_of(lambda: client.write("POST", "Patient", PATIENT)).kind == "unknown"
        assert failure_of(lambda: client.read("Patient/1")).kind == "unreachable"


def test_an_answer_as_large_as_it_may_be_comes_whole(httpserver: HTTPServer) -> None:
    """Pieces of any size, packed or not, are put together as they were."""
    import gzip
    import json

    big = {**PATIENT, "text": {"status": "generated", "div": "<div>" + "ä" * 1_000_000 + "</div>"}}
    body = json.dumps(big).encode()
    httpserver.expect_request("/fhir/Patient/plain").respond_with_data(body)
    httpserver.expect_request("/fhir/Patient/packed").respond_with_data(
        gzip.compress(body), headers={"Content-Encoding": "gzip"}
    )
    httpserver.expect_request("/fhir/Patient/chunked").respond_with_handler(
        lambda _: Response((body[at : at + 1000] for at in range(0, len(body), 1000)), direct_passthrough=True)
    )
    httpserver.expect_request("/fhir/Patient/empty").respond_with_data(b"")
    client = client_of(httpserver.url_for("/fhir"))
    for name in ("plain", "packed", "chunked"):
        assert client.read(f"Patient/{name}") == big, name
    assert client.get("Patient/empty").body == b""


def test_a_tries_of_a_read_do_not_become_tries_of_a_write(httpserver: HTTPServer) -> None:
    asked: list[str] = []

    def busy(request: Request) -> Response:
        asked.append(request.method)
        return Response("", 503, headers={"Retry-After": "0"})

    httpserver.expect_request("/fhir/Patient/1").respond_with_handler(busy)
    httpserver.expect_request("/fhir/Patient").respond_with_handler(busy)
    patient = Client(client_of(httpserver.url_for("/fhir")).connection, now=lambda: 0, tries=2)
    failure_of(lambda: patient.read("Patient/1"))
    failure_of(lambda: patient.write("POST", "Patient", PATIENT))
    assert asked == ["GET", "GET", "POST"]
