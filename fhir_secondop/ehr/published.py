"""What other parties publish for everybody: key sets, discovery documents. Fetched within limits."""

from __future__ import annotations

from fhir_secondop.ehr import outbound
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Unavailable

MAX_BYTES = 64 * 1024
_TIMEOUT_S = 5.0


def fetch(url: str, named_by: str = "") -> tuple[bytes, str]:
    """The bytes at a URL and its Cache-Control header, by the rules of `outbound`. Raises Unavailable.

    `named_by` is the configured URL of the server that named this one.
    """
    try:
        found = outbound.fetch(url, timeout_s=_TIMEOUT_S, max_bytes=MAX_BYTES, who=url, named_by=named_by)
    except EhrFailure as error:
        raise Unavailable(error.message) from error
    return found.body, found.cache_control
