"""One document from a configured URL: from where it may come, how large and how late."""

from __future__ import annotations

import gzip
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Response

from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.ehr.outbound import fetch
from tests.ehr.recording import recording
from tests.ehr.resolving import Plugs, Resolver

HERE = "127.0.0.1"
KEYS = b'{"keys": []}'


def got(url: str, **more: Any) -> bytes:
    return fetch(url, **{"timeout_s": 5.0, "max_bytes": 10_000, **more}).body


def failure_of(url: str, **more: Any) -> EhrFailure:
    with pytest.raises(EhrFailure) as caught:
        got(url, **more)
    return caught.value


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


@pytest.fixture
def plugs(monkeypatch: pytest.MonkeyPatch) -> Plugs:
    return Plugs(monkeypatch)


def test_what_stands_there_is_fetched(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/jwks").respond_with_data(KEYS)
    assert got(httpserver.url_for("/jwks")) == KEYS
    ((request, _),) = httpserver.log
    assert "Authorization" not in request.headers


REFUSED = (
    "http://ehr.example/jwks", "http://93.184.215.14/jwks", "http://10.0.0.1/jwks", "http://[2606:4700::1111]/jwks",
    "https://us@ehr.example/jwks", "https://ehr.example\\@evil.example/", "https://2130706433/", "https://127.1/",
    "https://0x7f.1/", "https://0177.0.0.1/", "https://169.254.169.254/latest", "https://[fd00:ec2::254]/",
    "https://100.100.100.200/", "https://inside.example/jwks", "https://loop.example/jwks", "https://cloud.example/jwks",
    "https://mapped.example/jwks", "file:///etc/passwd", "ftp://ehr.example/jwks", "jwks", "", "https://",
    "//ehr.example",
    "https:/ehr.example", "https://ehr.example/\r\nX: y", "https://[::1/", "HTTP://ehr.example/",
)  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_what_must_not_be_fetched_is_not_asked(resolver: Resolver, plugs: Plugs, url: str) -> None:
    resolver.answers |= {"inside.example": [["10.0.0.1"]], "loop.example": [["127.0.0.1", "::1"]],
                         "cloud.example": [["169.254.169.254"]], "mapped.example": [["::ffff:10.0.0.1"]]}  # fmt: skip
    failure = failure_of(url, networks=("fd00::/8", "100.64.0.0/10"))
    assert isinstance(failure, Refused)
    assert plugs.to == []


def test_what_another_server_named_is_not_configured(httpserver: HTTPServer) -> None:
    """An issuer names where its keys are: inside our walls only where the issuer itself was configured to be."""
    httpserver.expect_request("/jwks").respond_with_data(KEYS)
    url = httpserver.url_for("/jwks").replace("localhost", HERE)
    assert isinstance(failure_of(url, named_by="https://issuer.example/"), Refused)
    assert httpserver.log == []
    assert got(url, named_by=f"http://{HERE}:1/issuer") == KEYS
    assert got(url, named_by="https://issuer.example/", networks=("127.0.0.0/8",)) == KEYS


def test_a_name_inside_is_fetched_over_tls_where_its_network_is_configured(resolver: Resolver, tmp_path: Path) -> None:
    ca = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("issuer.example").configure_cert(context)
    resolver.answers["issuer.example"] = [[HERE]]
    with HTTPServer(host=HERE, ssl_context=context) as server:
        server.expect_request("/jwks").respond_with_data(KEYS)
        url, trust = f"https://issuer.example:{server.port}/jwks", {"ca_bundle": str(tmp_path / "ca.pem")}
        assert isinstance(failure_of(url, **trust), Refused)
        assert got(url, networks=("127.0.0.1/32",), **trust) == KEYS
        # the certificate is looked at all the same
        assert failure_of(url, networks=("127.0.0.1/32",)).kind == "unreachable"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(httpserver: HTTPServer, status: int) -> None:
    there = {"Location": httpserver.url_for("/jwks")}
    httpserver.expect_request("/old").respond_with_data("", status, headers=there)
    assert (failure_of(httpserver.url_for("/old")).kind, len(httpserver.log)) == ("policy", 1)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(204, "policy"), (400, "validation"), (404, "not-found"), (500, "unreachable"), (503, "capacity")],
)
def test_another_status_is_a_failure(httpserver: HTTPServer, status: int, kind: str) -> None:
    httpserver.expect_request("/jwks").respond_with_data("{}" if status != 204 else "", status)
    failure = failure_of(httpserver.url_for("/jwks"), who="client lakeside")
    assert failure.kind == kind
    assert failure.message.startswith("client lakeside")


@pytest.mark.parametrize("packed", [False, True])
def test_a_document_that_is_too_large_is_not_read(httpserver: HTTPServer, packed: bool) -> None:
    body = b" " * 10_001
    headers = {"Content-Encoding": "gzip"} if packed else {}
    httpserver.expect_request("/more").respond_with_data(gzip.compress(body) if packed else body, headers=headers)
    httpserver.expect_request("/most").respond_with_data(
        gzip.compress(body[1:]) if packed else body[1:], headers=headers
    )
    assert failure_of(httpserver.url_for("/more")).kind == "policy"
    assert got(httpserver.url_for("/most")) == body[1:]


def test_a_document_that_dribbles_is_left_in_time(httpserver: HTTPServer) -> None:
    to_the_end: list[str] = []

    def dribble() -> Any:
        for _ in range(100):
            time.sleep(0.1)
            yield b" "
        to_the_end.append("10 s")

    httpserver.expect_request("/jwks").respond_with_handler(lambda _: Response(dribble(), direct_passthrough=True))
    assert failure_of(httpserver.url_for("/jwks"), timeout_s=0.5).kind == "unreachable"
    assert to_the_end == []


def test_a_document_may_come_through_a_proxy(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/jwks").respond_with_data(KEYS)
    with recording() as proxy:
        assert got(httpserver.url_for("/jwks"), proxy=proxy.url) == KEYS
        assert len(proxy.passed) == 1
        assert isinstance(failure_of("https://10.0.0.1/", named_by="https://issuer.example", proxy=proxy.url), Refused)
        assert len(proxy.passed) == 1
