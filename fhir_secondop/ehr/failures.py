"""How an EHR fails us, sorted: each class has a policy of its own (EHR.md, writing safely)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any

from fhir_secondop.errors import Unavailable
from fhir_secondop.fhir import times

KINDS = (
    "auth", "scope", "validation", "conflict", "capacity", "quota", "expired", "unreachable", "policy", "not-found",
    "duplicate", "unknown",
)  # fmt: skip
# Trying the same again later can help with these, and only with these. "expired" is a page whose search is over.
RETRYABLE = frozenset({"capacity", "quota", "expired", "unreachable", "unknown"})


class EhrFailure(Unavailable):
    """An EHR did not do what we asked.

    `kind` is one of KINDS; "unknown" means a write may have happened all the same. `retry_after_s` is what it asked
    for, or 0; `code` a vendor's error code, `element` the place in what we sent that it names. The message never
    repeats the EHR's text, which may name the patient.
    """

    def __init__(
        self, kind: str, message: str, *, status: int = 0, retry_after_s: float = 0.0, code: str = "", element: str = ""
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.code = code
        self.element = element
        self.retryable = kind in RETRYABLE

    @property
    def why(self) -> str:
        """The failure in a few words, with the code and the element where the EHR named them."""
        more = [f"code {self.code}"] if self.code else []
        more += [f"at {self.element}"] if self.element else []
        status = f"HTTP {self.status}" if self.status else self.message
        return ", ".join([status, *more])

    def __reduce__(self) -> tuple[Any, ...]:
        # The journal of a workflow keeps failures; an exception with two arguments can't be read back by itself.
        return _remade, (self.kind, self.message, self.status, self.retry_after_s, self.code, self.element)


class Refused(EhrFailure):
    """Our own rules forbid to ask there: nothing was sent, and trying again doesn't help.

    It is no answer of the EHR's. The message names the connection and the setting that would allow it, never what was
    to be sent nor what was resolved.
    """

    def __init__(self, message: str) -> None:
        super().__init__("policy", message)

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.message,)


def _remade(kind: str, message: str, status: int, retry_after_s: float, code: str, element: str) -> EhrFailure:
    return EhrFailure(kind, message, status=status, retry_after_s=retry_after_s, code=code, element=element)


_BY_STATUS = {
    401: "auth", 403: "policy", 404: "not-found", 405: "scope",
    409: "conflict", 410: "not-found", 412: "conflict", 423: "conflict", 429: "capacity", 501: "scope",
    503: "capacity",
}  # fmt: skip
# The request did not arrive whole, or too early: neither says no.
_AMBIGUOUS = (408, 425)


# What a vendor's error code means → our kind. "partial" is no failure: the answer lacks something, which is said.
_BY_CODE = {"expired": "expired", "policy": "policy", "quota": "quota", "duplicate": "duplicate",
            "validation": "validation"}  # fmt: skip
_CODE = re.compile(r"[A-Za-z0-9_-]{1,40}")
_ELEMENT = re.compile(r"[A-Za-z]+(\.[A-Za-z]+(\[\w+\])?)*")
_DAY_MS = 86_400_000
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def of_status(
    status: int, what: str, *, writing: bool, retry_after: str = "", now: int = 0,
    outcome: Mapping[str, Any] = _NOTHING, codes: Mapping[str, str] = _NOTHING,
) -> EhrFailure:  # fmt: skip
    """The failure that an HTTP status means. A 500 on a write is unknown: it may have been stored before it failed.

    A redirect is not followed (a token never goes to another host) and trying again doesn't help. `now` in ms since
    1970, for a Retry-After that is a date. `outcome` is the OperationOutcome that came along, of which only codes and
    element paths are kept; `codes` says what the vendor's mean (`Site.error_codes`) and wins over the status.
    """
    seconds = _seconds(retry_after, now)
    found, element = vendor_codes(outcome), failing_element(outcome)
    meaning, code = next(((_BY_CODE[codes[c]], c) for c in found if codes.get(c) in _BY_CODE), ("", ""))
    if meaning:
        if meaning == "quota":
            seconds = max(seconds, (_DAY_MS - now % _DAY_MS) / 1000)  # tomorrow, by UTC
        return EhrFailure(
            meaning, f"{what}: HTTP {status}, code {code}.", status=status, retry_after_s=seconds, code=code,
            element=element,
        )  # fmt: skip
    if status in _BY_STATUS:
        kind = _BY_STATUS[status]
    elif status == 303 and writing:
        kind = "unknown"  # it says where to look for what was made: it may have been
    elif status < 400:
        kind = "policy"
    elif status < 500 and status not in _AMBIGUOUS:
        kind = "validation"
    else:
        kind = "unknown" if writing else "unreachable"
    return EhrFailure(
        kind, f"{what}: HTTP {status}.", status=status, retry_after_s=seconds, code=next(iter(found), ""),
        element=element,
    )  # fmt: skip


def vendor_codes(outcome: Mapping[str, Any]) -> list[str]:
    """The codes in `issue.details.coding` of an OperationOutcome, as far as they look like codes."""
    return [
        str(coding["code"])
        for issue in _issues(outcome)
        for coding in _listed(_mapped(issue.get("details")).get("coding"))
        if _CODE.fullmatch(str(coding.get("code", "")))
    ]


def failing_element(outcome: Mapping[str, Any]) -> str:
    """The first element path that an OperationOutcome names, or ""."""
    for issue in _issues(outcome):
        for name in ("expression", "location"):
            places = issue.get(name)
            for place in places if isinstance(places, list) else []:
                if isinstance(place, str) and len(place) <= 200 and _ELEMENT.fullmatch(place):
                    return place
    return ""


def _issues(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _listed(outcome.get("issue")) if outcome.get("resourceType") == "OperationOutcome" else []


def _listed(value: Any) -> list[dict[str, Any]]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _mapped(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
