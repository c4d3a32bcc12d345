"""E-mail to a real SMTP server, and webhooks that the Standard Webhooks library verifies."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import AuthResult
from pytest_httpserver import HTTPServer

from fhir_secondop.ehr import mail, webhook
from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.errors import Invalid
from fhir_secondop.store.database import now_ms
from tests.service.alerting import DESK, Mailbox, email, hooked, mail_server

BODY = {"type": "alert.began", "data": {"text": "Übergabe an riverside wartet"}}


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    """A certificate authority, and the file that we trust it by."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made, str(tmp_path / "ca.pem")


def server_tls(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def sent(server: Any, message_id: str = "msg_1") -> None:
    mail.send(server, DESK, message_id, "riverside: queue depth began", "Wait: ü\n", now_ms())


def test_a_mail_arrives_with_the_same_message_id_each_time() -> None:
    box = Mailbox()
    with mail_server(box) as port:
        for _ in range(2):
            sent(email(port))
    first, second = box.got
    assert first["Message-ID"] == second["Message-ID"] == "<msg_1@hospital.example>"
    assert (first["Subject"], first["From"]) == ("riverside: queue depth began", "secondop@hospital.example")
    assert first["Auto-Submitted"] == "auto-generated"
    assert first.get_content().splitlines() == ["Wait: ü"]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_password_goes_over_tls_alone(security: str, authority: tuple[trustme.CA, str], tmp_path: Path) -> None:
    ca, trusted = authority
    (tmp_path / "password").write_text("s3cret\n")
    box, tried = Mailbox(), []

    def signs_in(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        tried.append((data.login, data.password))
        return AuthResult(success=data.password == b"s3cret", handled=False)

    options: dict[str, Any] = {"authenticator": signs_in, "auth_required": True}
    if security == "tls":
        options |= {"ssl_context": server_tls(ca), "auth_require_tls": False}
    else:
        options |= {"tls_context": server_tls(ca), "require_starttls": True}
    with mail_server(box, **options) as port:
        way = {"security": security, "username": "us", "secret_file": str(tmp_path / "password"), "ca_bundle": trusted}
        sent(email(port, **way))
        (tmp_path / "password").write_text("wrong")
        with pytest.raises(EhrFailure, match="user and password"):
            sent(email(port, **way))
        with pytest.raises(EhrFailure, match="certificate"):
            sent(email(port, **{**way, "ca_bundle": ""}))
    assert len(box.got) == 1
    assert tried[0] == (b"us", b"s3cret")


def test_nothing_is_sent_to_a_server_that_does_not_offer_what_was_asked_for() -> None:
    box = Mailbox()
    with mail_server(box) as port, pytest.raises(EhrFailure, match="STARTTLS") as caught:
        sent(email(port, security="starttls"))
    assert caught.value.kind == "policy"
    assert box.got == []


def test_what_a_mail_server_says_is_not_repeated() -> None:
    box = Mailbox()
    box.refuses.add(DESK)
    with mail_server(box) as port, pytest.raises(EhrFailure) as caught:
        sent(email(port))
    assert "Jane" not in str(caught.value)
    assert DESK in caught.value.message


@pytest.mark.parametrize("farewell", ["421 4.3.2 Restarting", "", None])
def test_a_mail_that_was_accepted_is_sent_however_the_server_takes_its_leave(farewell: str | None) -> None:
    """Else the same would be sent again, time after time."""

    class Box(Mailbox):
        async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
            if farewell == "":
                await asyncio.sleep(5)  # says nothing within the time-out
            if farewell is None:
                server.transport.abort()
            return farewell or "221 Bye"

    box = Box()
    with mail_server(box) as port:
        sent(email(port, timeout_s=0.5))
    assert len(box.got) == 1


def test_a_mail_server_that_dribbles_is_left_after_three_times_the_time_out() -> None:
    hung_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def dribble() -> None:
            taken, _ = listening.accept()
            with taken:
                try:
                    for _ in range(80):
                        taken.send(b"2")
                        time.sleep(0.1)
                except OSError:
                    hung_up.set()

        thread = threading.Thread(target=dribble)
        thread.start()
        with pytest.raises(EhrFailure, match="mail server"):
            sent(email(listening.getsockname()[1], timeout_s=0.3))
        thread.join()
    assert hung_up.is_set()


def test_a_mail_server_is_asked_only_where_that_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **options: asked("127.0.0.1", *more, **options))
    box = Mailbox()
    with mail_server(box) as port:
        server = email(port)
        named = type(server)("mail.hospital.example", port, server.sender, security="none", timeout_s=3.0)
        with pytest.raises(Refused, match="networks"):
            sent(named)
        sent(type(server)("mail.hospital.example", port, server.sender, security="none", networks=("127.0.0.0/8",)))
    assert len(box.got) == 1


def test_a_webhook_is_verified_by_the_library_of_standard_webhooks(httpserver: HTTPServer, tmp_path: Path) -> None:
    hook, connection = hooked(httpserver, tmp_path)
    for _ in range(2):
        webhook.post(connection, "msg_1", BODY, now_ms())
    assert hook.got == [("msg_1", BODY)] * 2


def test_an_old_webhook_is_no_longer_taken_by_the_library(httpserver: HTTPServer, tmp_path: Path) -> None:
    hook, connection = hooked(httpserver, tmp_path)
    with pytest.raises(EhrFailure, match="HTTP 500"):
        webhook.post(connection, "msg_1", BODY, now_ms() - 600_000)
    assert hook.got == []


@pytest.mark.parametrize(("status", "kind"), [(302, "policy"), (307, "policy"), (400, "validation"), (503, "capacity")])
def test_a_webhook_that_is_not_acknowledged_has_failed(
    httpserver: HTTPServer, tmp_path: Path, status: int, kind: str
) -> None:
    hook, connection = hooked(httpserver, tmp_path)
    hook.answers = [status]
    with pytest.raises(EhrFailure) as caught:
        webhook.post(connection, "msg_1", BODY, now_ms())
    assert caught.value.kind == kind
    assert "Jane" not in caught.value.message
    assert hook.seen == 1, "no redirect is followed"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", "whsec_ü"])
def test_a_secret_that_is_none_is_said_before_anything_is_sent(
    httpserver: HTTPServer, tmp_path: Path, secret: str
) -> None:
    hook, connection = hooked(httpserver, tmp_path)
    (tmp_path / "hook.secret").write_text(secret)
    with pytest.raises(Invalid, match=r"hook\.secret must hold whsec_"):
        webhook.post(connection, "msg_1", BODY, now_ms())
    assert hook.seen == 0
