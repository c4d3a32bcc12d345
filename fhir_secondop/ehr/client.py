"""read, search all pages, write; every failure sorted. One requests Session per thread and connection."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from urllib.parse import urljoin

import requests

from fhir_secondop import tracing
from fhir_secondop.ehr import hl7_files, mllp, vendors, watched, wire
from fhir_secondop.ehr import limits as limiting
from fhir_secondop.ehr.auth import NoAuth, auth_of
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.failures import EhrFailure, Refused, of_status
from fhir_secondop.ehr.hl7_answers import failure_of
from fhir_secondop.ehr.limits import InProcess, Limits
from fhir_secondop.ehr.origins import Origin, origin
from fhir_secondop.ehr.smart import BackendServices
from fhir_secondop.errors import Invalid, Malformed
from fhir_secondop.fhir import codec, refs, times
from fhir_secondop.model import Connection, Page, Resource

JSON = "application/fhir+json"
MAX_PAGES = 2_000
MAX_ANSWER_BYTES = 64 * 1024 * 1024
SLOWEST = 20  # times the time-out: an answer that dribbles is not waited for without end
LONGEST_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Written:
    """What an EHR answered to a write. `location` is "Type/id" there, or "" when it did not say."""

    status: int
    location: str
    resource: Resource | None


class Client:
    """One EHR, over HTTP. Threads share it; each has its own session. `now` gives ms since 1970.

    `tries` is how often a read is sent before a failure that time may mend is raised; a write is always sent once.
    No answer takes longer than `longest_s`, SLOWEST times the time-out where nothing is said, nor has it more than
    `most_bytes`, MAX_ANSWER_BYTES where nothing is said.
    """

    def __init__(
        self, connection: Connection, *, now: Callable[[], int], limits: Limits | None = None, tries: int = 1,
        longest_s: float = 0.0, most_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.connection = connection
        self.base = connection.base.rstrip("/")
        self.site = vendors.site(connection)
        self.auth = auth_of(connection, now)
        # Without a base there is no FHIR endpoint: only messages go there, and no URL is on its origin.
        self._origin = _configured(connection, self.base) if self.base else None
        self._elsewhere = frozenset(_configured(connection, url) for url in connection.origins)
        self._now = now
        self._limits = limits or InProcess()
        self._tries = tries
        self._longest_s = longest_s or SLOWEST * connection.timeout_s
        self._most_bytes = most_bytes
        self._local = threading.local()
        self._at_once = limiting.at_once(self.site.concurrency)
        self._capability: Capability | None = None
        self.answers = 0
        """How often the server was there for us: rises with every answer but that it is busy, or broken."""
        self.skew_s: float | None = None
        """How far the server's clock is ahead of ours, as of its last answer; None where it sends no Date."""

    @property
    def granted(self) -> frozenset[str] | None:
        """The scopes that were granted; None where that is not known."""
        return self.auth.granted if isinstance(self.auth, BackendServices) else None

    @property
    def capability(self) -> Capability:
        """What the server declares, kept for the life of this client; nothing where there is none."""
        # No cached_property: until Python 3.12 it has one lock for all clients, and each would wait for a dead EHR.
        if self._capability is None:
            self._capability = Capability(_resource(self.get("metadata").body) if self.base else {})
        return self._capability

    @contextmanager
    def announced(self, before: Callable[[], None]) -> Iterator[None]:
        """Within it, `before` is called right before each request of this thread that writes; what it raises, we do.

        Then nothing of ours is waited for any more: turn, place and access token are there.
        """
        outer = getattr(self._local, "before", None)
        self._local.before = before
        try:
            yield
        finally:
            self._local.before = outer

    def _announce(self) -> None:
        before: Callable[[], None] | None = getattr(self._local, "before", None)
        if before is not None:
            before()

    def get(self, url: str, params: Mapping[str, str] | None = None, *, accept: str = JSON) -> Page:
        """One GET; the answer as bytes. `url` is below the base, or absolute on the same origin or a configured one."""
        for number in range(1, self._tries + 1):
            try:
                answer = self._send("GET", url, params=params, headers={"Accept": accept})
                break
            except EhrFailure as failure:
                later = failure.kind in ("capacity", "unreachable") and failure.retry_after_s <= LONGEST_RETRY_S
                if number == self._tries or not later:
                    raise
                time.sleep(failure.retry_after_s or float(3 ** (number - 1)))
        return Page(answer.url, times.instant(self._now()), answer.headers.get("Content-Type", ""), answer.body)

    def file(self, url: str, content_type: str) -> tuple[str, bytes]:
        """Media type and bytes of a file: of a Binary, or of whatever stands at that URL.

        Raw bytes are asked for first: FHIR JSON would carry them a third larger.
        Source: https://hl7.org/fhir/R4/binary.html#rest
        """
        limiting.take_document(self._limits, self.connection.name, self.site.documents_per_day, self._now())
        try:
            page = self.get(url, accept=f"{content_type or '*/*'}, */*;q=0.9, {JSON};q=0.8")
        except EhrFailure as failure:
            if failure.status != 406:
                raise
            page = self.get(url)
        kind = page.content_type.partition(";")[0].strip()
        if kind not in (JSON, "application/json"):
            return kind, page.body
        binary = _resource(page.body)
        if binary.get("resourceType") != "Binary":
            raise EhrFailure("validation", "A file was asked for and something else came.")
        try:
            return str(binary.get("contentType", "")), base64.b64decode(binary.get("data", ""), validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise EhrFailure("validation", "A Binary came whose data is not base64.") from error

    def post(self, path: str, resource: Resource) -> Resource:
        """An operation that changes nothing there ($match, say): what it answers."""
        return _resource(self._send("POST", path, body=codec.dumps(resource).encode(), reads=True).body)

    def outcome(self, path: str, text: str) -> Resource:
        """What it says of a resource that is sent as this text, and not kept ($validate): an OperationOutcome.

        Some servers answer 412 or 422 with it when they find a fault.
        """
        found = _resource(self._send("POST", path, body=text.encode(), reads=True, answers=(412, 422)).body)
        if found.get("resourceType") != "OperationOutcome":
            raise EhrFailure("validation", f"{self.connection.name} answered with something else than an outcome.")
        return found

    def read(self, reference: str) -> Resource:
        """The resource at "Type/id". Raises EhrFailure "unreachable" when something else comes, whatever its status."""
        found = _resource(self.get(reference).body)
        ref = refs.parse(reference)
        if ref and (found.get("resourceType"), found.get("id", ref.id)) != (ref.type, ref.id):
            what = f"{self.connection.name}: a {ref.type} was asked for and something else came."
            raise EhrFailure("unreachable", what)
        return found

    def pages(self, path: str, params: Mapping[str, str]) -> Iterator[tuple[Page, Resource]]:
        """Every page of a search with its Bundle, following `next` verbatim, to no other host like every request.

        An EHR's maintenance page is no record: it is raised, not handed on.
        """
        page = self.get(path, params)
        seen = {page.url}
        while True:
            bundle = _bundle(page.body)
            following = _next_link(bundle)
            yield page, bundle
            if not following:
                return
            url = _joined(page.url, following, path)
            if url in seen or len(seen) >= MAX_PAGES:
                raise EhrFailure("capacity", f"{path}: its pages don't end.")
            seen.add(url)
            page = self.get(url)

    def search(self, resource_type: str, params: Mapping[str, str]) -> list[Resource]:
        """The matches of a search, over all pages."""
        return [match for _, bundle in self.pages(resource_type, params) for match in matches(bundle, resource_type)]

    def first_page(self, resource_type: str, params: Mapping[str, str]) -> list[Resource]:
        """The matches on the first page of a search."""
        return matches(next(self.pages(resource_type, params))[1], resource_type)

    def write(self, method: str, path: str, resource: Resource, headers: Mapping[str, str] | None = None) -> Written:
        """POST or PUT. Raises EhrFailure "unknown" when it may have happened and nobody told us."""
        answer = self._send(method, path, body=codec.dumps(resource).encode(), headers=headers)
        location = answer.headers.get("Location") or answer.headers.get("Content-Location") or ""
        sent_back = _sent_back(answer.body)
        if not location and _says_no(answer.body, sent_back):
            what = f"{self.connection.name}: {method} {path.partition('/')[0]}".strip()
            raise EhrFailure(
                "unknown", f"{what}: HTTP {answer.status} with what is no answer to it.", status=answer.status
            )
        if not location and sent_back and sent_back.get("resourceType") == resource.get("resourceType"):
            location = f"{sent_back['resourceType']}/{sent_back.get('id', '')}"
        return Written(answer.status, below(location), sent_back)

    def message(self, data: bytes, control_id: str) -> str:
        """Sends an HL7 v2 message, by MLLP or into the folder; how it was acknowledged.

        Raises EhrFailure as `mllp.send` and `hl7_files.put` do, and what a refusal means (`hl7_answers`).
        """
        connection = self.connection
        limiting.wait(self._limits, connection.name, self.site.rate_per_s)
        self._announce()
        if connection.hl7_folder:
            new = hl7_files.put(connection.hl7_folder, control_id, data)
            self.answers += 1
            return "put into the folder" if new else "put into the folder before"
        answer = mllp.send(connection, data, control_id)
        self.answers += 1  # whatever it says: it is there
        failure = failure_of(answer, connection.name)
        if failure is not None:
            raise failure
        return answer.code

    def reach_messages(self) -> None:
        """Connects where messages go, or looks at the folder, and sends nothing. Raises EhrFailure "unreachable"."""
        if not self.connection.hl7_folder:
            mllp.reach(self.connection)
        elif because := hl7_files.usable(self.connection.hl7_folder):
            raise EhrFailure("unreachable", f"{self.connection.name}: {because}.")

    def _session(self, *, signed_in: bool) -> requests.Session:
        name = "session" if signed_in else "stranger"
        session: requests.Session | None = getattr(self._local, name, None)
        if session is None:
            session = wire.session(self.connection, longest_s=self._longest_s)
            session.auth = self.auth if signed_in else NoAuth()
            # HAPI answers a search from its cache for a minute: what was just written must be found.
            session.headers.update({"Accept": JSON, "Cache-Control": "no-cache"})
            setattr(self._local, name, session)
        return session

    def _send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        reads: bool = False,
        answers: tuple[int, ...] = (),
    ) -> _Answer:
        """One request; its failure is counted. `answers` are statuses that are no failures here."""
        with watched.failures(self.connection.name):
            return self._sent(method, url, params, body, headers or {}, answers, writing=body is not None and not reads)

    def _sent(
        self, method: str, url: str, params: Mapping[str, str] | None, body: bytes | None, headers: Mapping[str, str],
        answers: tuple[int, ...], *, writing: bool,
    ) -> _Answer:  # fmt: skip
        """The same; signs in anew, once, when the server no longer takes the token."""
        target = url if "://" in url else f"{self.base}/{url}" if url else self.base
        # The kind alone: an id or a query may say who the patient is.
        kind = "page" if "://" in url else url.partition("?")[0].partition("/")[0]
        what = f"{self.connection.name}: {method} {kind}".strip()
        asked = self._allowed(target, what)
        extra = {**headers, **({"Content-Type": JSON} if body is not None else {})}
        # A configured further origin is asked without our credentials: a token never goes to another host.
        signed_in = asked == self._origin
        asking = partial(
            self._exchange, method, target, params, body, extra, kind, writing=writing, signed_in=signed_in
        )
        answer = asking()
        if answer.status == 401 and isinstance(self.auth, BackendServices):
            self.auth.forget(answer.sent_authorization)
            answer = asking()
        if answer.status >= 300 and answer.status not in answers:
            raise of_status(
                answer.status, what, writing=writing, retry_after=answer.headers.get("Retry-After", ""),
                now=self._now(), outcome=_sent_back(answer.body) or {}, codes=self.site.error_codes,
            )  # fmt: skip
        return answer

    def _exchange(
        self, method: str, target: str, params: Mapping[str, str] | None, body: bytes | None,
        headers: Mapping[str, str], kind: str, *, writing: bool, signed_in: bool,
    ) -> _Answer:  # fmt: skip
        """One request and its answer, whatever its status."""
        what = f"{self.connection.name}: {method} {kind}".strip()
        limiting.wait(self._limits, self.connection.name, self.site.rate_per_s)
        session = self._session(signed_in=signed_in)
        most = self._most_bytes or MAX_ANSWER_BYTES
        try:
            with ExitStack() as held:
                held.enter_context(self._at_once)
                if writing:
                    if signed_in and isinstance(self.auth, BackendServices):
                        self.auth.token()  # may take requests of its own
                    self._announce()
                answered = held.enter_context(watched.exchange(self.connection.name, method, kind))
                more = tracing.headers() if self.connection.traceparent else {}
                with session.request(
                    method, target, params=params, data=body, headers={**headers, **more},
                    timeout=wire.timeout(self.connection), allow_redirects=False, stream=True,
                ) as answer:  # fmt: skip
                    content = wire.whole(answer, most)
                answered(answer.status_code)
        except wire.TooMuch:
            raise EhrFailure("unknown" if writing else "policy", f"{what}: an answer of over {most} bytes.") from None
        except requests.exceptions.ConnectTimeout as error:
            raise EhrFailure("unreachable", f"{what}: no connection.") from error
        except requests.RequestException as error:
            # A connection that was refused, or failed in its TLS handshake, carried nothing; one that broke later may.
            failure = "unknown" if writing and not wire.never_sent(error) else "unreachable"
            raise EhrFailure(failure, f"{what}: no answer.") from error
        if answer.status_code < 500 and answer.status_code != 429:
            self.answers += 1
        self._note_clock(answer.headers.get("Date", ""))
        sent = str(answer.request.headers.get("Authorization", ""))
        return _Answer(answer.status_code, answer.url or target, answer.headers, content, sent)

    def _allowed(self, target: str, what: str) -> Origin:
        """The origin of what is to be asked: our EHR's own, or a configured one. Raises Refused of any other."""
        try:
            asked = origin(target)
        except ValueError:
            raise Refused(f"{what}: its address is no plain http(s) URL; not asked.") from None
        if asked != self._origin and asked not in self._elsewhere:
            raise Refused(f"{what}: it is on another host; not asked. If it is meant, name its origin in the "
                          "connection's setting origins.")  # fmt: skip
        return asked

    def _note_clock(self, said: str) -> None:
        try:
            self.skew_s = parsedate_to_datetime(said).timestamp() - self._now() / 1000
        except (ValueError, TypeError):
            self.skew_s = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes
    sent_authorization: str = field(repr=False)


def _configured(connection: Connection, url: str) -> Origin:
    try:
        return origin(url)
    except ValueError:
        raise Invalid(f"{connection.name}: base and origins must be plain http(s) URLs, without a user name.") from None


def _joined(page: str, following: str, what: str) -> str:
    """The absolute address of the next page. Raises Refused of what is none, or holds what urljoin would take away."""
    try:
        if following.isprintable():
            return urljoin(page, following)
    except ValueError:
        pass
    raise Refused(f"{what}: the address of its next page is no URL; not asked.")


def matches(bundle: Resource, resource_type: str) -> list[Resource]:
    """The resources of that type in a Bundle."""
    entries = bundle.get("entry", [])
    return [e["resource"] for e in entries if e.get("resource", {}).get("resourceType") == resource_type]


def _sent_back(body: bytes) -> Resource | None:
    """What came with the answer to a write, where it can be read. It was accepted all the same where it can't."""
    try:
        return codec.parse(body)
    except Malformed:
        return None


def _says_no(body: bytes, sent_back: Resource | None) -> bool:
    """Whether an answer of success to a write is none: an error in an OperationOutcome, or a page for people."""
    if sent_back is None:
        return bool(body.strip())
    issues = sent_back.get("issue", []) if sent_back.get("resourceType") == "OperationOutcome" else []
    return any(isinstance(issue, dict) and issue.get("severity") in ("error", "fatal") for issue in issues)


def below(location: str) -> str:
    """ "Type/id" of a Location header, whatever base and version it has."""
    parts = location.split("?")[0].rstrip("/").split("/")
    if "_history" in parts:
        parts = parts[: parts.index("_history")]
    return "/".join(parts[-2:]) if len(parts) >= 2 else ""


def _bundle(body: bytes) -> Resource:
    bundle = _resource(body)
    if bundle.get("resourceType") != "Bundle":
        raise EhrFailure("validation", "The EHR answered a search with something that is not a Bundle.")
    return bundle


def _next_link(bundle: Resource) -> str:
    links = bundle.get("link", [])
    return next((link.get("url", "") for link in links if link.get("relation") == "next"), "")


def _resource(body: bytes) -> Resource:
    try:
        return codec.parse(body)
    except Malformed as error:
        raise EhrFailure("validation", "The EHR answered something that is not FHIR JSON.") from error
