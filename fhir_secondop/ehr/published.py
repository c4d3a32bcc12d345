"""What other parties publish for everybody: key sets, discovery documents. Fetched within limits."""

from __future__ import annotations

import time

import requests
import urllib3

from fhir_secondop.ehr import wire
from fhir_secondop.errors import Unavailable

MAX_BYTES = 64 * 1024
_TIMEOUT_S = 5.0
_LONGEST_S = 10.0


def fetch(url: str) -> tuple[bytes, str]:
    """The bytes at a URL and its Cache-Control header. No redirects, at most 64 KB, at most ten seconds.

    Raises Unavailable. Whether the URL may be asked at all is decided by who calls.
    """
    ends = time.monotonic() + _LONGEST_S
    body = b""
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no password that nobody configured here
            with session.get(
                url, timeout=_TIMEOUT_S, allow_redirects=False, stream=True, headers={"Accept": "application/json"}
            ) as answer:
                if answer.status_code != 200:
                    raise Unavailable(f"{url} answers {answer.status_code}.")
                for piece in wire.pieces(answer):
                    body += piece
                    if len(body) > MAX_BYTES or time.monotonic() > ends:
                        raise Unavailable(f"{url}: its answer is larger than {MAX_BYTES} bytes, or does not end.")
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise Unavailable(f"{url} does not answer.") from error
    return body, answer.headers.get("Cache-Control", "")
