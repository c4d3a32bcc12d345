"""Where others can reach it, only the proxy at which TLS ends is served."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from fhir_secondop.web import inbound

PROXY = "10.0.0.0/30"


def application(environ: Any, start_response: Any) -> Iterable[bytes]:
    return Response(Request(environ).remote_addr or "")(environ, start_response)


@pytest.mark.parametrize(
    ("peer", "headers", "path", "status", "said"),
    [
        ("10.0.0.2", {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}, "/fhir/Patient", 200, "192.0.2.7"),
        ("10.0.0.2", {"X-Forwarded-Proto": "http", "X-Forwarded-For": "192.0.2.7"}, "/fhir/Patient", 403, "https"),
        ("10.0.0.2", {"X-Forwarded-For": "192.0.2.7"}, "/fhir/Patient", 403, "https"),
        ("192.0.2.7", {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.2"}, "/", 403, "proxy alone"),
        ("192.0.2.7", {}, "/auth/token", 403, "proxy alone"),
        ("192.0.2.7", {}, "/healthz", 200, "192.0.2.7"),
        ("192.0.2.7", {"X-Forwarded-For": "10.0.0.2"}, "/readyz", 200, "192.0.2.7"),
        ("192.0.2.7", {}, "/readyz/x", 403, "proxy alone"),
    ],
)
def test_only_the_proxy_is_served(peer: str, headers: dict[str, str], path: str, status: int, said: str) -> None:
    client = Client(inbound.behind(application, PROXY, only=True))
    answer = client.get(path, headers=headers, environ_overrides={"REMOTE_ADDR": peer})
    assert (answer.status_code, said in answer.get_data(as_text=True)) == (status, True)


def test_on_this_machine_alone_nobody_is_asked_for_a_proxy() -> None:
    client = Client(inbound.behind(application, ""))
    assert client.get("/fhir/Patient", environ_overrides={"REMOTE_ADDR": "127.0.0.1"}).status_code == 200
