"""read, search all pages, write; every failure sorted. One requests Session per thread and connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from fhir_secondop.ehr.auth import auth_of
from fhir_secondop.ehr.failures import EhrFailure, of_status
from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import codec, times
from fhir_secondop.model import Connection, Page, Resource

JSON = "application/fhir+json"
MAX_PAGES = 2_000
MAX_ANSWER_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """What an EHR answered to a write. `location` is "Type/id" there, or "" when it did not say."""

    status: int
    location: str
    resource: Resource | None


class Capability:
    """What a server declares at /metadata. Declared is not entitled: a refusal later is still possible."""

    def __init__(self, statement: Resource) -> None:
        self.statement = statement
        rest: Resource = next((r for r in statement.get("rest", []) if r.get("mode") == "server"), {})
        self._resources = {r["type"]: r for r in rest.get("resource", []) if "type" in r}
        self._system = {i.get("code") for i in rest.get("interaction", [])}

    def offers(self, resource_type: str, interaction: str) -> bool:
        """Whether it declares this interaction on the type ("search-type", "create" …)."""
        return any(i.get("code") == interaction for i in self._resources.get(resource_type, {}).get("interaction", []))

    def system(self, interaction: str) -> bool:
        """Whether it declares "transaction" or "batch"."""
        return interaction in self._system

    def conditional_create(self, resource_type: str) -> bool:
        """Whether it declares If-None-Exist on the type."""
        return self._resources.get(resource_type, {}).get("conditionalCreate") is True

    def parameter(self, resource_type: str, *names: str) -> str:
        """The first of these search parameters that it declares on the type, or ""."""
        declared = {p.get("name") for p in self._resources.get(resource_type, {}).get("searchParam", [])}
        return next((name for name in names if name in declared), "")


class Client:
    """One EHR, over HTTP. Threads share it; each has its own session."""

    def __init__(self, connection: Connection, *, now: Any) -> None:
        self.connection = connection
        self.base = connection.base.rstrip("/")
        self._origin = _origin(self.base)
        self._now = now
        self._local = threading.local()

    @cached_property
    def capability(self) -> Capability:
        """What the server declares, fetched once for the life of this client."""
        page = self.get("metadata")
        return Capability(_resource(page.body))

    def get(self, url: str, params: Mapping[str, str] | None = None) -> Page:
        """One GET; the answer as bytes. `url` is below the base, or absolute on the same origin."""
        answer = self._send("GET", url, params=params)
        return Page(answer.url, times.instant(self._now()), answer.headers.get("Content-Type", ""), answer.body)

    def read(self, reference: str) -> Resource:
        """The resource at "Type/id"."""
        return _resource(self.get(reference).body)

    def pages(self, resource_type: str, params: Mapping[str, str]) -> Iterator[Page]:
        """Every page of a search, following `next` verbatim, and on the same origin only as every request.

        Each is known to be a Bundle. An EHR's maintenance page is no record: it is raised, not handed on.
        """
        page = self.get(resource_type, params)
        seen = {page.url}
        while True:
            following = next_link(page.body)
            yield page
            if not following:
                return
            url = urljoin(page.url, following)
            if url in seen or len(seen) >= MAX_PAGES:
                raise EhrFailure("capacity", f"{resource_type}: its pages don't end.")
            seen.add(url)
            page = self.get(url)

    def search(self, resource_type: str, params: Mapping[str, str]) -> list[Resource]:
        """The matches of a search, over all pages."""
        return [match for page in self.pages(resource_type, params) for match in _matches(page, resource_type)]

    def first_page(self, resource_type: str, params: Mapping[str, str]) -> list[Resource]:
        """The matches on the first page of a search."""
        return _matches(next(self.pages(resource_type, params)), resource_type)

    def write(self, method: str, path: str, resource: Resource, headers: Mapping[str, str] | None = None) -> Written:
        """POST or PUT. Raises EhrFailure "unknown" when it may have happened and nobody told us."""
        answer = self._send(method, path, body=codec.dumps(resource).encode(), headers=headers)
        location = answer.headers.get("Location") or answer.headers.get("Content-Location") or ""
        sent_back = _sent_back(answer.body)
        if not location and sent_back and sent_back.get("resourceType") == resource.get("resourceType"):
            location = f"{sent_back['resourceType']}/{sent_back.get('id', '')}"
        return Written(answer.status, below(location), sent_back)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # no netrc: a password of the operator's must not go to an EHR
            session.auth = auth_of(self.connection)
            session.headers.update({"Accept": JSON})
            self._local.session = session
        return session

    def _send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        target = url if "://" in url else f"{self.base}/{url}" if url else self.base
        # The kind alone: an id or a query may say who the patient is.
        kind = "page" if "://" in url else url.partition("?")[0].partition("/")[0]
        what = f"{self.connection.name}: {method} {kind}".strip()
        if _origin(target) != self._origin:
            raise EhrFailure("policy", f"{what}: it is on another host; not asked.")
        extra = {**(headers or {}), **({"Content-Type": JSON} if body is not None else {})}
        timeout = (min(10.0, self.connection.timeout_s), self.connection.timeout_s)
        try:
            with self._session().request(
                method, target, params=params, data=body, headers=extra, timeout=timeout, allow_redirects=False,
                stream=True,
            ) as answer:  # fmt: skip
                content = b"".join(_limited(answer, what, writing=body is not None))
        except (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError) as error:
            raise EhrFailure("unreachable", f"{what}: no connection.") from error
        except requests.RequestException as error:
            # A connection that was refused carried nothing; one that broke later may have.
            kind = "unknown" if body is not None and not _refused(error) else "unreachable"
            raise EhrFailure(kind, f"{what}: no answer.") from error
        if answer.status_code >= 300:
            raise of_status(
                answer.status_code, what, writing=body is not None, retry_after=answer.headers.get("Retry-After", ""),
                now=self._now(),
            )  # fmt: skip
        return _Answer(answer.status_code, answer.url or target, answer.headers, content)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes


def _limited(answer: requests.Response, what: str, *, writing: bool) -> Iterator[bytes]:
    """The answer's bytes as they come; too many are not read to the end."""
    size = 0
    for piece in answer.iter_content(1 << 16):
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            kind = "unknown" if writing else "capacity"
            raise EhrFailure(kind, f"{what}: an answer of over {MAX_ANSWER_BYTES} bytes.")
        yield piece


_DEFAULT_PORT = {"http": ":80", "https": ":443"}


def _origin(url: str) -> tuple[str, str]:
    """Scheme and host with port, as far as they must be the same. User names in an address make it another one."""
    scheme, host = (part.lower() for part in urlsplit(url)[:2])
    return scheme, host.removesuffix(_DEFAULT_PORT.get(scheme, "")) if scheme in _DEFAULT_PORT else host


def _matches(page: Page, resource_type: str) -> list[Resource]:
    entries = _resource(page.body).get("entry", [])
    return [e["resource"] for e in entries if e.get("resource", {}).get("resourceType") == resource_type]


def _sent_back(body: bytes) -> Resource | None:
    """What came with the answer to a write, where it can be read. It was accepted all the same where it can't."""
    try:
        return codec.parse(body)
    except Malformed:
        return None


def _refused(error: requests.RequestException) -> bool:
    return "NewConnectionError" in repr(error) or "Connection refused" in str(error)


def below(location: str) -> str:
    """ "Type/id" of a Location header, whatever base and version it has."""
    parts = location.split("?")[0].rstrip("/").split("/")
    if "_history" in parts:
        parts = parts[: parts.index("_history")]
    return "/".join(parts[-2:]) if len(parts) >= 2 else ""


def next_link(body: bytes) -> str:
    """The URL of a Bundle's next page, or "". Raises EhrFailure when it is no Bundle."""
    bundle = _resource(body)
    if bundle.get("resourceType") != "Bundle":
        raise EhrFailure("validation", "The EHR answered a search with something that is not a Bundle.")
    links = bundle.get("link", [])
    return next((link.get("url", "") for link in links if link.get("relation") == "next"), "")


def _resource(body: bytes) -> Resource:
    try:
        return codec.parse(body)
    except Malformed as error:
        raise EhrFailure("validation", "The EHR answered something that is not FHIR JSON.") from error
