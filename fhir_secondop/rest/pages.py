"""The link to the next page: sealed, so that nobody reads, changes or lends the place that it names.

A place is a creation number, the name of a kept list, a time: it would tell how much is stored here, or let somebody go
through the list of another. Whoever asks something else, or is somebody else, has another key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fhir_secondop.errors import Issue, Malformed
from fhir_secondop.model import Caller
from fhir_secondop.rest.endpoint import Endpoint

_NONCE_BYTES = 12
_PADDED_TO = 64  # its length tells nothing of the place, either


def sealed(endpoint: Endpoint, caller: Caller, asked: object, place: str) -> str:
    """The `_page` of a place, for this caller and for what is asked: anything whose repr says all that must stay."""
    nonce = os.urandom(_NONCE_BYTES)
    padded = place.encode().ljust(-(-max(len(place.encode()), 1) // _PADDED_TO) * _PADDED_TO)
    return urlsafe_b64encode(nonce + _cipher(endpoint, caller, asked).encrypt(nonce, padded, None)).decode().rstrip("=")


def opened(endpoint: Endpoint, caller: Caller, asked: object, link: str) -> str:
    """The place that a `_page` names. Raises Malformed when it was not made here, for this caller and this question."""
    try:
        raw = urlsafe_b64decode(link + "=" * (-len(link) % 4))
        if urlsafe_b64encode(raw).decode().rstrip("=") != link:
            raise ValueError("another spelling of the same bytes")
        place = _cipher(endpoint, caller, asked).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], None)
    except (ValueError, InvalidTag) as error:
        said = "This page link is not one of ours for this caller and this request; start again at the first page."
        raise Malformed(said, issues=[Issue("error", "invalid", "_page", said)]) from error
    return place.decode().rstrip()


def _cipher(endpoint: Endpoint, caller: Caller, asked: object) -> AESGCM:
    bound = repr((caller.id, caller.on_behalf_of, asked)).encode()
    return AESGCM(hmac.digest(endpoint.page_key, bound, hashlib.sha256))
