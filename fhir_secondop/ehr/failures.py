"""How an EHR fails us, sorted: each class has a policy of its own (EHR.md, writing safely)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any

from fhir_secondop.errors import Unavailable
from fhir_secondop.fhir import times

KINDS = ("auth", "scope", "validation", "conflict", "capacity", "unreachable", "policy", "not-found", "unknown")
# Trying the same again later can help with these, and only with these.
RETRYABLE = frozenset({"capacity", "unreachable", "unknown"})


class EhrFailure(Unavailable):
    """An EHR did not do what we asked.

    `kind` is one of KINDS; "unknown" means a write may have happened all the same. `retry_after_s` is what it asked
    for, or 0. The message never repeats the EHR's text, which may name the patient.
    """

    def __init__(self, kind: str, message: str, *, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.retryable = kind in RETRYABLE

    def __reduce__(self) -> tuple[Any, ...]:
        # The journal of a workflow keeps failures; an exception with two arguments can't be read back by itself.
        return _remade, (self.kind, self.message, self.status, self.retry_after_s)


def _remade(kind: str, message: str, status: int, retry_after_s: float) -> EhrFailure:
    return EhrFailure(kind, message, status=status, retry_after_s=retry_after_s)


_BY_STATUS = {
    401: "auth", 403: "policy", 404: "not-found", 405: "scope",
    409: "conflict", 410: "not-found", 412: "conflict", 423: "conflict", 429: "capacity", 501: "scope",
    503: "capacity",
}  # fmt: skip
# The request did not arrive whole, or too early: neither says no.
_AMBIGUOUS = (408, 425)


def of_status(status: int, what: str, *, writing: bool, retry_after: str = "", now: int = 0) -> EhrFailure:
    """The failure that an HTTP status means. A 500 on a write is unknown: it may have been stored before it failed.

    A redirect is not followed (a token never goes to another host) and trying again doesn't help. `now` in ms since
    1970, for a Retry-After that is a date.
    """
    if status in _BY_STATUS:
        kind = _BY_STATUS[status]
    elif status < 400:
        kind = "policy"
    elif status < 500 and status not in _AMBIGUOUS:
        kind = "validation"
    else:
        kind = "unknown" if writing else "unreachable"
    return EhrFailure(kind, f"{what}: HTTP {status}.", status=status, retry_after_s=_seconds(retry_after, now))


def _seconds(retry_after: str, now: int) -> float:
    """Seconds of a Retry-After, which is a number of them or a date; 0 of anything else.

    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, (times.milliseconds(parsedate_to_datetime(text)) - now) / 1000)
    except (ValueError, TypeError, OverflowError):
        return 0.0
