"""A webhook: a JSON POST to a configured URL that its receiver can verify.

Signed as Standard Webhooks say: HMAC-SHA256 over id, time and body, with a secret that both know.
Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from pathlib import Path
from typing import Any

import requests

from fhir_secondop.ehr import wire
from fhir_secondop.ehr.failures import EhrFailure, of_status
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

_PREFIX = "whsec_"
_LEAST, _MOST = 24, 64  # bytes of a secret, as the specification has it


def post(connection: Connection, message_id: str, body: dict[str, Any], now: int) -> None:
    """Posts the body, which any 2xx acknowledges. `message_id` is the same whenever the same is sent again.

    `now` in ms since 1970: when it is sent, by which a receiver tells a replay. No redirect is followed, nothing of
    the answer is read. Raises EhrFailure; Invalid where the secret can't be used.
    """
    data = json.dumps(body, ensure_ascii=False).encode()
    at = str(now // 1000)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": at,
        "webhook-signature": signature(secret(connection), message_id, at, data),
    }
    with wire.session(connection, longest_s=connection.timeout_s) as session:
        try:
            answer = session.post(
                connection.base, data=data, headers=headers, timeout=wire.timeout(connection), allow_redirects=False,
                stream=True,
            )  # fmt: skip
        except requests.RequestException as error:
            raise EhrFailure("unreachable", f"webhook {connection.name}: no answer.") from error
        with answer:
            if not 200 <= answer.status_code < 300:
                raise of_status(answer.status_code, f"webhook {connection.name}", writing=True)


def signature(key: bytes, message_id: str, at: str, body: bytes) -> str:
    """The header `webhook-signature`; `at` is the header `webhook-timestamp`, seconds since 1970."""
    signed = b".".join((message_id.encode(), at.encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}"


def secret(connection: Connection) -> bytes:
    """The secret of a webhook, read anew each time: one that was changed counts at once. Raises Invalid."""
    path = connection.secret_file
    try:
        key = base64.b64decode(Path(path).read_text("ascii").strip().removeprefix(_PREFIX), validate=True)
    except OSError as error:
        raise Invalid(f"{path} can't be read ({error.strerror}).") from error
    except (UnicodeDecodeError, binascii.Error):
        key = b""
    if not _LEAST <= len(key) <= _MOST:
        raise Invalid(f"{path} must hold whsec_ and the base64 of {_LEAST} to {_MOST} random bytes.")
    return key
