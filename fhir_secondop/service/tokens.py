"""Tokens of single-use links: a Task's id with a signature of ours, so that no table of tokens can leak."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid

from fhir_secondop.errors import NotFound
from fhir_secondop.service.context import Context

ACKNOWLEDGE = b"ack-link"
UPLOAD = b"upload-link"


def make(context: Context, purpose: bytes, task_id: str) -> str:
    """The token of a Task's link; one of another purpose opens nothing."""
    raw = uuid.UUID(task_id).bytes
    return _text(raw + _signature(context, purpose, raw))


def task_of(context: Context, purpose: bytes, token: str) -> str:
    """The id of the Task that a token names. Raises NotFound for one that we did not make."""
    try:
        data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        data = b""
    # Only as we wrote it: base64 leaves bits of the last character free.
    if (
        len(data) != 34
        or _text(data) != token
        or not hmac.compare_digest(data[16:], _signature(context, purpose, data[:16]))
    ):
        raise NotFound("This link is not valid.")
    return str(uuid.UUID(bytes=data[:16]))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _signature(context: Context, purpose: bytes, raw: bytes) -> bytes:
    return hmac.new(context.link_secret, purpose + raw, hashlib.sha256).digest()[:18]
