"""Who is signed in, in which browser: at an OpenID provider, in the demo by password, as a patient by link and code.

A session counts only while what it stands on does: the entry in the people file, or the invitation.
Source: https://openid.net/specs/openid-connect-core-1_0.html; OWASP, Session Management
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from flask import Blueprint, Request, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from fhir_secondop.access import people
from fhir_secondop.bootstrap import LOCAL
from fhir_secondop.config import Settings
from fhir_secondop.errors import Forbidden, SecondOpError, Unauthenticated, Unavailable, http_status
from fhir_secondop.fhir import times
from fhir_secondop.model import Caller, Person
from fhir_secondop.rest import disclosure
from fhir_secondop.service import invitations
from fhir_secondop.service.context import Context
from fhir_secondop.store.sessions import Session, Sessions, hash_of
from fhir_secondop.web import headers, pending, roster
from fhir_secondop.web.links import by_link

if TYPE_CHECKING:
    from fhir_secondop.web import oidc

log = logging.getLogger(__name__)
TRIES_MS = 900_000
TRIES_OF_ACCOUNT = 5
TRIES_OF_ADDRESS = 30
DEMO = "demo|"


@dataclass(frozen=True, slots=True)
class Signed:
    """Who is signed in, in this browser.

    `csrf` is sent back with every POST, as form field "csrf" or header X-CSRF-Token; `auth_time` is in seconds since
    1970, when this person last proved who it is (0: not known).
    """

    caller: Caller
    csrf: str
    auth_time: int


class SignIn:
    """Sign-in of one service."""

    def __init__(self, context: Context, settings: Settings) -> None:
        self._context = context
        self._settings = settings
        self._sessions = Sessions(
            context.database, context.now, 1000 * settings.session_idle_s, 1000 * settings.session_longest_s
        )
        self._secure = context.public_url.startswith("https://")
        prefix = "__Host-" if self._secure else ""
        self._cookie, self._under_way = f"{prefix}secondop", f"{prefix}secondop-sign-in"
        self._people: roster.Watched[Mapping[str, Person]] | None = None
        self._accounts: roster.Watched[Mapping[str, str]] | None = None
        self._provider: oidc.Provider | None = None
        if settings.people_file:
            self._people = roster.Watched(Path(settings.people_file), people.load, self._people_changed)
            self._people.read()
        if settings.demo_people:
            self._accounts = roster.Watched(Path(settings.demo_people), roster.accounts)
            roster.is_password(self._accounts.read(), "", "")
        if settings.oidc_issuer:
            from fhir_secondop.web import oidc  # its libraries take 7 MB and 0.1 s of a start, which few need

            self._provider = oidc.Provider(
                settings.oidc_issuer, settings.oidc_client_id, f"{context.public_url}/sign-in/callback", context.now,
                secret_file=settings.oidc_secret_file,
                keys_file=settings.keys_file if settings.oidc_client_auth == "private_key_jwt" else "",
            )  # fmt: skip

    # ---- what the pages ask

    def current(self, request: Request) -> Signed | None:
        """Who is signed in; None for nobody. Raises Unavailable when the people file can't be read."""
        cookie = request.cookies.get(self._cookie, "")
        found = self._sessions.find(cookie)
        caller = self._caller(found) if found is not None else None
        if found is None or caller is None:
            if found is not None:
                self._sessions.end(cookie)
            return self._local()
        disclosure.signed_in(caller)
        return Signed(caller, found.csrf, found.auth_time)

    def require(self, request: Request) -> Signed:
        """Who is signed in. Raises Unauthenticated."""
        signed = self.current(request)
        if signed is None:
            raise Unauthenticated("Sign in first.")
        return signed

    def check_csrf(self, request: Request) -> None:
        """Raises Forbidden unless a page of ours, opened in this session, has sent this."""
        self._check_site(request)
        signed = self.current(request)
        sent = request.headers.get("X-CSRF-Token") or request.form.get("csrf", "")
        if signed is None or not hmac.compare_digest(sent.encode(), signed.csrf.encode()):
            raise Forbidden("This page is too old, or was not ours; go back, load it again and repeat.")

    def recent(self, signed: Signed) -> bool:
        """Whether this person proved who it is recently enough to sign (setting signing_age_s)."""
        age = self._now_s() - signed.auth_time
        return -pending.LEEWAY_S <= age <= self._settings.signing_age_s

    # ---- sessions

    def _caller(self, session: Session) -> Caller | None:
        auth_time = times.instant(1000 * session.auth_time) if session.auth_time else ""
        if session.way == "link":
            return invitations.caller_of(self._context, session.person, auth_time)
        person = self._known().get(session.person)
        if person is None or session.proof not in (person.subject, person.email):
            return None
        return people.caller(person, auth_time)

    def _known(self) -> Mapping[str, Person]:
        return self._people.read() if self._people is not None else {}

    def _people_changed(self, known: Mapping[str, Person]) -> None:
        # At once, not at the next request: somebody who is put back later must sign in again.
        self._sessions.keep_only((p.id, p.subject or p.email) for p in known.values())

    def _local(self) -> Signed | None:
        """Without any way to sign in, `--auth none` on one's own machine is the local caller here too."""
        if self._settings.auth != "none" or self._provider is not None or self._accounts is not None:
            return None
        csrf = hmac.new(self._context.link_secret, b"csrf of the local caller", hashlib.sha256).hexdigest()
        disclosure.signed_in(LOCAL)
        return Signed(LOCAL, csrf, self._now_s())

    def _now_s(self) -> int:
        return self._context.now() // 1000

    def _signed_in(
        self, answer: AnyResponse, person: str, way: str, proof: str, auth_time: int, csrf: str = ""
    ) -> None:
        """Puts a new session in place of whatever this browser had: an id known before is worth nothing after."""
        before = request.cookies.get(self._cookie, "")
        cookie = self._sessions.begin(person, way, proof, auth_time, instead_of=before, csrf=csrf)
        self._set(answer, self._cookie, cookie)
        log.info("signed in: %s by %s", person, way)

    def _set(self, answer: AnyResponse, name: str, value: str, max_age: int | None = None) -> None:
        answer.set_cookie(
            name, value, max_age=max_age, path="/", secure=self._secure, httponly=True, samesite="Lax"
        )  # fmt: skip

    def _check_site(self, request: Request) -> None:
        """Raises Forbidden when another site's page has sent this."""
        site, origin = request.headers.get("Sec-Fetch-Site", ""), request.headers.get("Origin", "null")
        if site:
            is_ours = site in ("same-origin", "none")
        else:  # an old browser; "null" is what our own no-referrer makes of an origin
            is_ours = origin == "null" or _origin(origin) in (
                _origin(self._context.public_url),
                _origin(request.host_url),
            )
        if not is_ours:
            raise Forbidden("This was not sent by a page of ours.")

    # ---- routes

    def blueprint(self) -> Blueprint:
        """The routes of signing in and out, and of the patient's link."""
        routes = Blueprint("signin", __name__, template_folder="templates")
        headers.protect(routes)

        @routes.get("/sign-in")
        def ask() -> AnyResponse:
            wanted = pending.own_path(request.args.get("next", "/"))
            if self._provider is not None and request.args.get("at") == "provider":
                return self._to_provider(wanted)
            return self._page("ask", next=wanted)

        @routes.post("/sign-in")
        def by_password() -> AnyResponse:
            self._check_site(request)
            return self._by_password()

        @routes.get("/sign-in/callback")
        def callback() -> AnyResponse:
            return self._callback()

        @routes.get("/sign-in/again")
        def again() -> AnyResponse:
            wanted = pending.own_path(request.args.get("next", "/"))
            signed = self.current(request)
            if signed is None:
                return redirect(f"/sign-in?next={quote(wanted)}", 303)
            if signed.caller.id not in self._known():
                raise Forbidden("Only people with an account sign; you are here by a link.")
            if self._provider is not None:
                return self._to_provider(wanted, again=True)
            return self._page("again", next=wanted, account=signed.caller.id)

        @routes.post("/sign-out")
        def out() -> AnyResponse:
            self.check_csrf(request)
            self._sessions.end(request.cookies.get(self._cookie, ""))
            answer = redirect("/sign-in", 303)
            answer.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True, samesite="Lax")
            return answer

        @routes.get("/case-link/<token>")
        def link(token: str) -> AnyResponse:
            by_link(self._context, invitations.LINK)
            invitations.open_link(self._context, token)
            return self._page("code", token=token)

        @routes.post("/case-link/<token>")
        def enter(token: str) -> AnyResponse:
            by_link(self._context, invitations.LINK)
            self._check_site(request)
            task_id = invitations.enter(self._context, token, request.form.get("code", ""))
            answer = redirect("/", 303)
            self._signed_in(answer, task_id, "link", "", self._now_s())
            return answer

        @routes.errorhandler(SecondOpError)
        def failed(error: SecondOpError) -> AnyResponse:
            return self._page("failed", http_status(error), message=error.message)

        return routes

    def _page(self, state: str, status: int = 200, **said: str) -> Response:
        way = "provider" if self._provider is not None else "password" if self._accounts is not None else ""
        text = render_template("sign-in.html", state=state, way=way, **said)
        return Response(text, status, mimetype="text/html")

    def _to_provider(self, wanted: str, *, again: bool = False) -> AnyResponse:
        assert self._provider is not None
        cookie = request.cookies.get(self._cookie, "")
        begun = pending.begun(wanted, self._context.now(), hash_of(cookie) if again else "")
        answer = redirect(self._provider.start(begun.state, begun.nonce, begun.verifier, again=again), 303)
        self._set(answer, self._under_way, pending.sealed(begun, self._context.link_secret), pending.LASTS_S)
        return answer

    def _callback(self) -> AnyResponse:
        if self._provider is None:
            raise Unauthenticated("There is no provider to sign in at here.")
        query = request.args
        begun = pending.opened(request.cookies.get(self._under_way, ""), self._context.link_secret, self._context.now())
        # The cookie ties the answer to the browser that asked: nobody can sign somebody else in as himself.
        if begun is None or not hmac.compare_digest(query.get("state", "").encode(), begun.state.encode()):
            raise Unauthenticated("This sign-in was not begun here, or too long ago; begin again.")
        if self._sessions.tried(f"state {begun.state}", TRIES_MS) > 1:
            raise Unauthenticated("This sign-in was answered before; begin again.")
        proof = self._provider.finish(query, begun.nonce, begun.verifier, again=bool(begun.again))
        person, proved = self._person_of(proof)
        if person is None:
            log.warning("no access: subject %r is not in the people file", proof.subject)
            answer: AnyResponse = self._page("stranger", 403, subject=proof.subject)
            answer.delete_cookie(self._under_way, path="/", secure=self._secure, httponly=True, samesite="Lax")
            return answer
        answer = redirect(begun.next, 303)
        csrf = self._same_person(begun, person, proof) if begun.again else ""
        self._signed_in(answer, person.id, "oidc", proved, proof.auth_time, csrf)
        answer.delete_cookie(self._under_way, path="/", secure=self._secure, httponly=True, samesite="Lax")
        return answer

    def _person_of(self, proof: oidc.Proof) -> tuple[Person | None, str]:
        known = self._known()
        for proved in (proof.subject, proof.email):
            person = people.of_proof(known, proved)
            if person is not None:
                return person, proved
        return None, ""

    def _same_person(self, begun: pending.Pending, person: Person, proof: oidc.Proof) -> str:
        """The CSRF value of the session whose person proves itself again. Raises Forbidden for somebody else, or for
        a provider that only remembered.
        """
        cookie = request.cookies.get(self._cookie, "")
        found = self._sessions.find(cookie)
        if found is None or hash_of(cookie) != begun.again or found.person != person.id:
            raise Forbidden("Somebody else is signed in here; sign out, then begin again.")
        if proof.auth_time <= found.auth_time or proof.auth_time < begun.at // 1000 - pending.LEEWAY_S:
            raise Forbidden("The provider did not ask you again who you are; try once more, or ask who runs it.")
        return found.csrf

    def _by_password(self) -> AnyResponse:
        if self._accounts is None:
            raise Unauthenticated("There are no accounts with a password here.")
        account, password = request.form.get("account", "").strip(), request.form.get("password", "")
        for what, most in (
            (f"account {account}", TRIES_OF_ACCOUNT),
            (f"address {request.remote_addr}", TRIES_OF_ADDRESS),
        ):
            if self._sessions.tried(what, TRIES_MS) > most:
                raise Unavailable("Too many tries; wait a quarter of an hour.")
        right = roster.is_password(self._accounts.read(), account, password)
        person = self._known().get(account)
        if not right or person is None or person.subject != f"{DEMO}{account}":
            raise Unauthenticated("This is not the name and its password.")
        self._sessions.forget_tries(f"account {account}")
        csrf = ""
        if "again" in request.form:
            signed = self.require(request)
            if signed.caller.id != person.id:
                raise Forbidden("Somebody else is signed in here; sign out, then begin again.")
            csrf = signed.csrf
        answer = redirect(pending.own_path(request.form.get("next", "/")), 303)
        self._signed_in(answer, person.id, "demo", person.subject, self._now_s(), csrf)
        return answer


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
