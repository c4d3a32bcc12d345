"""Sign-in for tests: a cookie names the caller. What a real one must do is the sign-in's own tests' business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flask import Flask, Request

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Forbidden, Unauthenticated
from fhir_secondop.model import Caller
from fhir_secondop.web.app import create

COOKIE = "visitor"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in."""

    caller: Caller
    csrf: str


@dataclass(slots=True)
class Visitors:
    """Callers by the word in their cookie; those in `stale` must prove again who they are before they sign."""

    callers: Mapping[str, Caller]
    stale: set[str] = field(default_factory=set)

    def require(self, request: Request) -> Visitor:
        word = request.cookies.get(COOKIE, "")
        if word not in self.callers:
            raise Unauthenticated("Sign in first.")
        return Visitor(self.callers[word], f"token-of-{word}")

    def check_csrf(self, request: Request) -> None:
        if request.form.get("csrf") != self.require(request).csrf:
            raise Forbidden("This form is of another session; open the page again.")

    def recent(self, signed: Visitor) -> bool:
        return signed.caller.id not in self.stale


def app_with_pages(service: Service, visitors: Visitors) -> Flask:
    """The application with the pages in it."""
    return create(service, visitors)
