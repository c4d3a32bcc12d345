"""Sign-in for tests: a cookie names the caller. What a real one must do is the sign-in's own tests' business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flask import Flask, Request, redirect
from flask.typing import ResponseReturnValue

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Forbidden, Unauthenticated
from fhir_secondop.model import Caller
from fhir_secondop.web import pages
from fhir_secondop.web.app import create

COOKIE = "visitor"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in."""

    caller: Caller
    csrf: str
    auth_time: int = 0


@dataclass(slots=True)
class Visitors:
    """Callers by the word in their cookie; those in `stale` must prove again who they are before they sign."""

    callers: Mapping[str, Caller]
    stale: set[str] = field(default_factory=set)

    def current(self, request: Request) -> Visitor | None:
        word = request.cookies.get(COOKIE, "")
        return Visitor(self.callers[word], f"token-of-{word}") if word in self.callers else None

    def require(self, request: Request) -> Visitor:
        found = self.current(request)
        if found is None:
            raise Unauthenticated("Sign in first.")
        return found

    def check_csrf(self, request: Request) -> None:
        if request.form.get("csrf") != self.require(request).csrf:
            raise Forbidden("This form is of another session; open the page again.")

    def recent(self, signed: pages.Signed) -> bool:
        return signed.caller.id not in self.stale


def app_with_pages(service: Service, visitors: Visitors) -> Flask:
    """The application with the pages in it, and stand-ins for the routes of sign-in."""
    app = create(service)
    app.register_blueprint(pages.blueprint(service, visitors))

    @app.get("/sign-in/as/<word>")
    def sign_in(word: str) -> ResponseReturnValue:
        answer = redirect("/")
        answer.set_cookie(COOKIE, word)
        visitors.stale.discard(word)
        return answer

    return app
