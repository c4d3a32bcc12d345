"""Receivers of alerts: a real mail server, and an HTTP server that verifies with the library of Standard Webhooks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from pytest_httpserver import HTTPServer
from standardwebhooks import Webhook
from werkzeug.wrappers import Request, Response

from fhir_secondop.alert_settings import Email, Level
from fhir_secondop.model import Connection
from tests.conftest import free_port

SECRET = "whsec_" + base64.b64encode(b"a secret of 32 bytes for a test.").decode()
DESK, HEAD = "desk@hospital.example", "head@hospital.example"


class Mailbox:
    """What a mail server has accepted. `refuses` are addresses that it takes nothing for."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.refuses: set[str] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.refuses:
            return "550 Jane Doe is not known here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = BytesParser(_class=EmailMessage, policy=default).parsebytes(envelope.content)
        assert envelope.rcpt_tos == [message["To"]]
        self.got.append(message)
        return "250 OK"


@contextmanager
def mail_server(mailbox: Mailbox, **options: Any) -> Iterator[int]:
    """A mail server on this machine; its port."""
    port = free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@dataclass
class Hook:
    """What a webhook's receiver has verified: ids and bodies. `answers` are the statuses that come first."""

    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    seen: int = 0

    def __call__(self, request: Request) -> Response:
        self.seen += 1
        verified = Webhook(SECRET).verify(request.get_data(), dict(request.headers))
        assert verified == json.loads(request.get_data())
        if self.answers and (status := self.answers.pop(0)) >= 300:
            return Response("Jane Doe", status, headers={"Location": "/elsewhere"})
        self.got.append((request.headers["webhook-id"], verified))
        return Response("", 204)


def hooked(server: HTTPServer, folder: Path) -> tuple[Hook, Connection]:
    """A receiver, and how we reach it."""
    hook = Hook()
    server.expect_request("/hook/").respond_with_handler(hook)
    (folder / "hook.secret").write_text(SECRET + "\n")
    return hook, Connection("pager", server.url_for("/hook/"), secret_file=str(folder / "hook.secret"), timeout_s=3.0)


def email(port: int, **more: Any) -> Email:
    """How we reach a mail server of this machine."""
    return Email("127.0.0.1", port, "secondop@hospital.example", **{"security": "none", "timeout_s": 3.0, **more})


LEVELS = (Level(0, (DESK,), ("pager",)), Level(30, (HEAD,), ("pager",)))
