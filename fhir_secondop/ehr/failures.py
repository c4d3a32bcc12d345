"""How an EHR fails us, sorted: each class has a policy of its own (EHR.md, writing safely)."""

from __future__ import annotations

from fhir_secondop.errors import Unavailable

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


_BY_STATUS = {
    400: "validation", 401: "auth", 403: "policy", 404: "not-found", 405: "scope", 406: "validation",
    409: "conflict", 410: "not-found", 412: "conflict", 413: "validation", 415: "validation", 422: "validation",
    429: "capacity", 501: "scope", 503: "capacity",
}  # fmt: skip


def of_status(status: int, what: str, *, writing: bool, retry_after: str = "") -> EhrFailure:
    """The failure that an HTTP status means. A 500 on a write is unknown: it may have been stored before it failed."""
    kind = _BY_STATUS.get(status, "unknown" if writing else "unreachable")
    wait = float(retry_after) if retry_after.isdecimal() else 0.0
    return EhrFailure(kind, f"{what}: HTTP {status}.", status=status, retry_after_s=wait)
