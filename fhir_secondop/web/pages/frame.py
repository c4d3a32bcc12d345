"""What every page works with: who is signed in, the operations, the layout, and the contract with sign-in.

Pages decide nothing about rights: they call the operations and services that the JSON door calls, with the caller who
is signed in. What that caller may not do is not offered; posted all the same, the operation refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flask import Request, Response, g, redirect, render_template, request
from flask.typing import ResponseReturnValue

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import NotFound
from fhir_secondop.model import Caller, Operation
from fhir_secondop.opinion.case import Case
from fhir_secondop.rest.operations import check, may
from fhir_secondop.service import intake, third
from fhir_secondop.service.context import Context
from fhir_secondop.store import resources
from fhir_secondop.web.pages import words

Plain = dict[str, Any]


class Signed(Protocol):
    """Who is signed in: the caller, and the token of the session's forms."""

    @property
    def caller(self) -> Caller: ...
    @property
    def csrf(self) -> str: ...


class SignIn(Protocol):
    """What pages need of sign-in."""

    def require(self, request: Request) -> Signed:
        """Who is signed in. Raises Unauthenticated."""

    def check_csrf(self, request: Request) -> None:
        """Raises Forbidden unless the form field "csrf" is the session's."""

    def recent(self, signed: Any) -> bool:  # of what `require` gave: sign-in knows more of it than we do
        """Whether they proved who they are recently enough to sign a report."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The service as pages see it."""

    service: Service
    sign_in: SignIn
    rows: Mapping[tuple[str, str], Operation]

    @property
    def context(self) -> Context:
        """What the use cases work with."""
        return self.service.context

    @property
    def signed(self) -> Signed:
        """Who is signed in, as found at the beginning of the request."""
        signed: Signed = g.signed
        return signed

    @property
    def caller(self) -> Caller:
        """For whom this request is."""
        return self.signed.caller

    def find(self, case_id: str, *, gathered: bool = False) -> Case:
        """The case, if the caller may see it. Raises NotFound."""
        return intake.find_case(self.context, self.caller, case_id, gathered=gathered)

    def sees_record(self, case_id: str) -> bool:
        """Whether the caller sees the record of the case, too: who only gets its report does not."""
        with self.context.database.reading() as connection:
            return resources.sees_record(connection, self.context.visibility(self.caller), case_id)

    def is_blind(self, case_id: str) -> bool:
        """Whether the first opinion of the case is withheld from the caller."""
        with self.context.database.reading() as connection:
            return resources.is_blind(connection, self.context.visibility(self.caller), case_id)

    def third_opinions(self, case_id: str) -> list[str]:
        """The cases of third opinions on that case which the caller may see."""
        with self.context.database.reading() as connection:
            return third.asked(connection, self.context.visibility(self.caller), case_id)

    def offers(self, code: str, on: str = "ServiceRequest") -> bool:
        """Whether there is such an operation at all."""
        return (on, code) in self.rows

    def run(self, code: str, target: str, plain: Plain | None = None, on: str = "ServiceRequest") -> Plain:
        """What an operation answers to the caller. Raises whatever it refuses with."""
        row = self.rows.get((on, code))
        if row is None or row.raw:
            raise NotFound(f"There is no operation {code!r}.")
        may(self.service.endpoint, self.caller, row)
        check(plain or {}, row.schema)
        return row.handler(self.caller, target, plain or {}).plain

    def page(self, template: str, status: int = 200, **said: Any) -> Response:
        """A page in the common layout."""
        signed: Signed | None = g.get("signed")
        text = render_template(
            f"pages/{template}.html",
            **said,
            me=signed.caller if signed else None,
            csrf=signed.csrf if signed else "",
            places=places(signed.caller) if signed else [],
            words=words,
            here=request.path,
            done=words.DONE.get(request.args.get("done", ""), ""),
        )
        return Response(text, status, mimetype="text/html")


def places(caller: Caller) -> list[tuple[str, str]]:
    """Where the caller can go from every page: path and name."""
    found = []
    if not caller.roles or caller.roles - {"patient", "operator"}:
        found.append(("/", "Work list"))
    if "patient" in caller.roles:
        found.append(("/my", "My second opinion"))
    if caller.roles & {"coordinator", "operator"}:
        found.append(("/connections", "Connections"))
    if caller.roles & {"coordinator", "operator", "auditor"}:
        found.append(("/learned", "What was learned"))
    return found


def by_script() -> bool:
    """Whether our script asks, which wants JSON."""
    return request.accept_mimetypes.best == "application/json"


def seen(path: str) -> ResponseReturnValue:
    """Goes on to a page of ours after a form was taken: reloading that page sends nothing again."""
    return redirect(path, 303)
