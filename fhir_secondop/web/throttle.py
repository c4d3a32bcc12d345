"""How often one caller may ask: a token bucket for each, in this process's memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address

from werkzeug.wrappers import Request

from fhir_secondop.bootstrap import Service
from fhir_secondop.config import Settings
from fhir_secondop.errors import SecondOpError, Throttled
from fhir_secondop.model import Caller

MAX_BUCKETS = 10_000
_FOUND = "secondop.caller"  # in a request's environ: who it turned out to be, or the failure to find out


@dataclass(frozen=True, slots=True)
class Limit:
    """`per_s` requests a second in the long run, `burst` of them at once."""

    per_s: float
    burst: int
    signed_in: bool = False  # whether a caller that signed in is counted by its id, not by its address


# Where secrets could be guessed: counted by address, whoever asks. A path covers what is below it.
STRICT = {
    "/auth/token": Limit(5, 30),
    "/sign-in": Limit(2, 20),
    "/case-link": Limit(2, 20),
    "/ack": Limit(5, 30),
    "/upload": Limit(5, 30),
    "/readyz": Limit(10, 20),  # each takes the write lock
}


def limit_of(path: str, general: Limit) -> Limit | None:
    """The limit of an address of ours; None for the one that is never limited."""
    if path == "/healthz":
        return None
    asked = f"/{path.strip('/')}/"
    return next((limit for below, limit in STRICT.items() if asked.startswith(f"{below}/")), general)


class Buckets:
    """A bucket for each key that was seen lately; at most `size`, the longest unused go first.

    A bucket that went is full when its key comes again: that is lenient, and bounded memory is worth it.
    """

    def __init__(self, size: int = MAX_BUCKETS, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is in it, and when that was so

    def __len__(self) -> int:
        return len(self._held)

    def draw(self, key: str, limit: Limit) -> float:
        """Takes one; 0 when there was one, else the seconds until there will be."""
        with self._lock:
            now = self._clock()
            left, at = self._held.pop(key, (float(limit.burst), now))
            left = min(float(limit.burst), left + (now - at) * limit.per_s)
            wait_s = 0.0 if left >= 1 else (1 - left) / limit.per_s
            self._held[key] = (left if wait_s else left - 1, now)
            if len(self._held) > self._size:
                self._held.popitem(last=False)
            return wait_s


class Throttle:
    """Looks at each request before anything is done for it."""

    def __init__(self, service: Service, settings: Settings, buckets: Buckets | None = None) -> None:
        self._authenticate = service.authenticate
        self._general = Limit(settings.requests_per_s, settings.burst, signed_in=True)
        # Without sign-in everybody is the one local caller: there is nobody to protect from another.
        self._off = not settings.requests_per_s or settings.auth == "none"
        self._buckets = Buckets() if buckets is None else buckets

    def check(self, request: Request) -> None:
        """Raises Throttled when its caller, or the address of one who does not sign in, has no request left."""
        limit = limit_of(request.path, self._general)
        if limit is None or (self._off and limit is self._general):
            return
        key = f"address {_network(request.remote_addr or '')} {limit.per_s}"
        if limit.signed_in and "Authorization" in request.headers:
            # A flood of wrong tokens from an address must not stop the right ones that come from there too.
            # What fails here fails again in the handler, which answers it.
            with suppress(Exception):
                key = f"caller {self._authenticate(request).id}"
        wait_s = self._buckets.draw(key, limit)
        if wait_s:
            said = f"More than {limit.per_s:g} requests a second; wait as Retry-After says."
            raise Throttled(said, retry_after_s=wait_s)


def remembering(service: Service) -> Service:
    """The same service, whose requests are authenticated once: the throttle asks first, then the handler."""
    asked = once(service.authenticate)
    return replace(service, authenticate=asked, endpoint=replace(service.endpoint, authenticate=asked))


def once(authenticate: Callable[[Request], Caller]) -> Callable[[Request], Caller]:
    """The same answer, or the same failure, each time that one request is asked about."""

    def asked(request: Request) -> Caller:
        found: Caller | SecondOpError | None = request.environ.get(_FOUND)
        if found is None:
            try:
                found = authenticate(request)
            except SecondOpError as error:
                found = error
            request.environ[_FOUND] = found
        if isinstance(found, SecondOpError):
            raise found
        return found

    return asked


def caller_of(request: Request) -> str:
    """Who it turned out to be, by id; "" while nobody has asked, or nobody signed in."""
    found: Caller | SecondOpError | None = request.environ.get(_FOUND)
    return found.id if isinstance(found, Caller) else ""


def _network(address: str) -> str:
    """What one client has for its own: its IPv4 address, or the /64 network of its IPv6 address."""
    try:
        known = ip_address(address.strip("[]"))
    except ValueError:
        return address[:64]
    if isinstance(known, IPv6Address):
        return str(known.ipv4_mapped) if known.ipv4_mapped else known.exploded[:19]
    return str(known)
