"""One e-mail by SMTP: plain text, to one address, over a connection that goes only where it may."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from fhir_secondop.alert_settings import Email
from fhir_secondop.ehr import sockets
from fhir_secondop.ehr.addresses import Reach, reach_of
from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import Connection

_READY = 220


def send(server: Email, to: str, message_id: str, subject: str, text: str, made: int) -> None:
    """Hands the message to the server, which has accepted it for that address when this returns.

    `message_id` makes the header Message-ID: the same whenever the same is sent again. `made` in ms since 1970.
    Raises EhrFailure: whatever happened, it may have arrived; Refused where we don't connect; Invalid for a file that
    can't be used. None of them quotes what the server said.
    """
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = server.sender, to, subject
    message["Date"] = format_datetime(times.moment(made))
    message["Message-ID"] = f"<{message_id}@{server.sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answer, please
    message.set_content(text)
    who = f"mail server {server.host}"
    try:
        with _connected(server) as smtp:
            smtp.send_message(message, server.sender, [to])
    except Refused:
        raise
    except smtplib.SMTPRecipientsRefused as error:
        raise EhrFailure("validation", f"{who}: it takes nothing for {to}.") from error
    except smtplib.SMTPAuthenticationError as error:
        raise EhrFailure("auth", f"{who}: it does not take user and password.") from error
    except smtplib.SMTPNotSupportedError as error:
        raise EhrFailure("policy", f"{who}: it offers no STARTTLS, or no sign-in.") from error
    except smtplib.SMTPResponseException as error:
        raise EhrFailure("unknown", f"{who}: SMTP {error.smtp_code}.") from error
    except ssl.SSLCertVerificationError as error:
        raise EhrFailure("unreachable", f"{who}: its certificate is not trusted.") from error
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        raise EhrFailure("unreachable", f"{who}: no answer.") from error


@contextmanager
def _connected(server: Email) -> Iterator[smtplib.SMTP]:
    """A conversation with the server, signed in; cut off when it takes three times its time-out altogether."""
    password = _password(server)
    tls = _tls(server)
    connection = Connection(
        f"mail server {server.host}", f"https://{_bracketed(server.host)}", networks=server.networks
    )
    reach = reach_of(connection, server.timeout_s)
    smtp = _Secured(reach, server, tls) if server.security == "tls" else _Guarded(reach, server)
    # A server that dribbles would never run into a time-out: those count from byte to byte.
    ends = threading.Timer(3 * server.timeout_s, _hang_up, [smtp])
    ends.daemon = True
    ends.start()
    try:
        code, _ = smtp.connect(server.host, server.port)
        if code != _READY:
            raise smtplib.SMTPConnectError(code, "")
        if server.security == "starttls":
            smtp.starttls(context=tls)
        if server.username:
            smtp.login(server.username, password)
        yield smtp
    finally:
        # Not `with smtp`: what was accepted would have failed when the server took its leave in its own way.
        with suppress(OSError, smtplib.SMTPException):
            smtp.quit()
        smtp.close()
        ends.cancel()


def _hang_up(smtp: smtplib.SMTP) -> None:
    if smtp.sock is not None:
        with suppress(OSError):  # it has ended by itself
            smtp.sock.shutdown(socket.SHUT_RDWR)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _password(server: Email) -> str:
    if not server.username:
        return ""
    try:
        found = Path(server.secret_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{server.secret_file} can't be read.") from error
    if not found:
        raise Invalid(f"{server.secret_file} is empty.")
    return found


def _tls(server: Email) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=server.ca_bundle or None)
    except (OSError, ValueError) as error:
        raise Invalid(f"{server.ca_bundle} holds no CA certificates in PEM.") from error


class _Guarded(smtplib.SMTP):
    """Connects only where `reach` allows, to the very address that was checked."""

    def __init__(self, reach: Reach, server: Email) -> None:
        self._reach = reach
        super().__init__(timeout=server.timeout_s, local_hostname=socket.gethostname())
        self._host = server.host  # whom STARTTLS asks for: smtplib keeps it only where its constructor connects

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        return sockets.connect(host, port, self._reach, timeout_s=timeout)


class _Secured(_Guarded):
    """TLS from the first byte."""

    def __init__(self, reach: Reach, server: Email, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__(reach, server)

    def _get_socket(self, host: str, port: int, timeout: Any) -> socket.socket:
        return self._tls.wrap_socket(super()._get_socket(host, port, timeout), server_hostname=host)
