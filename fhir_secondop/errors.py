"""Every failure we raise: a kind, a message for the person who must act, the place in the resource.

One map gives the HTTP status and the FHIR issue code of each kind; nothing else in the program chooses a status code.
Messages never carry patient data: name elements, ids of ours, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issue:
    """One fault in what was sent: where it stands (a FHIRPath expression) and what to do about it.

    `code` is from http://hl7.org/fhir/issue-type; `severity` is fatal, error, warning or information. `line` and
    `column` are from 1, in the text that was sent; 0 where they are not known. `source` names the validator of somebody
    else's that said so; "" is ours.
    """

    severity: str
    code: str
    expression: str
    diagnostics: str
    line: int = 0
    column: int = 0
    source: str = ""


class SecondOpError(Exception):
    """What went wrong, for the person who must act.

    `issues` names every offending element at once; with none given, the message itself is the only issue.
    """

    retryable = False
    retry_after_s: float = 2.0  # said to the caller of what is retryable

    def __init__(self, message: str, *, path: str = "", issues: Sequence[Issue] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.issues = tuple(issues) or (Issue("error", issue_code(type(self)), path, message),)


class Malformed(SecondOpError):
    """What was sent can't be parsed."""


class Invalid(SecondOpError):
    """What was sent breaks a rule; nothing was stored."""


class NotFound(SecondOpError):
    """There is nothing under that address that the caller may see."""


class Gone(SecondOpError):
    """It was there and was deleted."""


class Conflict(SecondOpError):
    """It contradicts what is already there; nothing was changed."""


class PreconditionFailed(SecondOpError):
    """If-Match or If-None-Exist does not hold."""


class Unauthenticated(SecondOpError):
    """The caller did not say who it is, or the token is unknown."""


class TokenRefused(SecondOpError):
    """A request to the token endpoint is refused; `code` is one of RFC 6749's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Forbidden(SecondOpError):
    """The caller is known and may not do this."""


class Unsupported(SecondOpError):
    """We do not offer this."""


class NotAllowed(SecondOpError):
    """This address does not take this."""


class UnsupportedMedia(SecondOpError):
    """The body is in a format that we do not read."""


class NotAcceptable(SecondOpError):
    """The answer is wanted in a format that we do not write."""


class TooLarge(SecondOpError):
    """More than one request may carry."""


class TooCostly(Invalid):
    """More than one answer may cost; asked more narrowly it is given."""


class AddressTooLong(SecondOpError):
    """The request's address has more characters than we read."""


class HeadersTooLarge(SecondOpError):
    """The request's headers have more bytes than we read."""


class TooSlow(SecondOpError):
    """The request did not arrive in the time that we wait for one."""

    retryable = True


class Throttled(SecondOpError):
    """The caller, or its address, asks more often than one may."""

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(SecondOpError):
    """It can't be done now; trying again later may help."""

    retryable = True


# kind → (HTTP status, http://hl7.org/fhir/issue-type)
STATUS: dict[type[SecondOpError], tuple[int, str]] = {
    Malformed: (400, "structure"),
    Invalid: (422, "invalid"),
    NotFound: (404, "not-found"),
    Gone: (410, "deleted"),
    Conflict: (409, "conflict"),
    PreconditionFailed: (412, "conflict"),
    Unauthenticated: (401, "login"),
    TokenRefused: (400, "login"),
    Forbidden: (403, "forbidden"),
    Unsupported: (400, "not-supported"),
    NotAllowed: (405, "not-supported"),
    UnsupportedMedia: (415, "not-supported"),
    NotAcceptable: (406, "not-supported"),
    TooLarge: (413, "too-costly"),
    TooCostly: (422, "too-costly"),
    AddressTooLong: (414, "too-long"),
    HeadersTooLarge: (431, "too-long"),
    TooSlow: (408, "timeout"),
    Throttled: (429, "throttled"),
    Unavailable: (503, "transient"),
}


def issue_code(kind: type[SecondOpError]) -> str:
    """The FHIR issue code of a kind of failure."""
    return STATUS.get(kind, (500, "exception"))[1]


def http_status(error: SecondOpError) -> int:
    """The HTTP status of a failure."""
    return STATUS.get(type(error), (500, "exception"))[0]
