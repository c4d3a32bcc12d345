"""Other people's public keys (JWKS): taken from a file or a URL, checked, kept for a while, fetched again on rotation.

Source: https://www.rfc-editor.org/rfc/rfc7517 and
https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhir_secondop.access import jwts
from fhir_secondop.access.jwts import Key
from fhir_secondop.errors import Invalid, SecondOpError, Unavailable

log = logging.getLogger(__name__)

# (body, Cache-Control header) of what stands at a URL; raises Unavailable.
Fetch = Callable[[str], tuple[bytes, str]]
Keys = Mapping[tuple[str, str], Key]
"""Keys by (kid, algorithm)."""

ALGORITHMS: Mapping[str, tuple[str, str]] = {
    "RS256": ("RSA", ""), "RS384": ("RSA", ""), "ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"),
}  # fmt: skip
MIN_RSA_BITS = 2048
MAX_BYTES = 64 * 1024
_MOST_KEYS = 50
DEFAULT_S = 3600
SHORTEST_S = 60
LONGEST_S = 86_400
RETRY_S = 30  # a place is asked no more often, whatever kid is shown to us
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?([0-9]{1,10})", re.IGNORECASE)
_SECRET = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_MEMBERS = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y")}


def secure(url: str) -> bool:
    """Whether keys may come from there: https, or http from this very machine (a loopback address, not a name)."""
    try:
        parts = urlsplit(url)
        host, named = parts.hostname or "", parts.username or parts.password
        if named is not None or parts.fragment or not url.isprintable() or " " in url:
            return False
        return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a host is written as a loopback address: 127.0.0.1, ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def keys(data: bytes, algorithms: tuple[str, ...]) -> Keys:
    """The usable public keys of a JWKS. What is weak, private, for something else or without a kid is left out, and so
    are two keys of one kid. Raises Invalid when it is no JWKS.
    """
    try:
        loaded = jwts.loads(data)
        rows = loaded["keys"]
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid('It is no JWKS: {"keys": […]}.') from error
    if not isinstance(rows, list) or len(rows) > _MOST_KEYS:
        raise Invalid(f"It is no JWKS with at most {_MOST_KEYS} keys.")
    found: dict[tuple[str, str], Key | None] = {}
    for row in rows:
        for alg in algorithms:
            if (key := _usable(row, alg)) is not None:
                found[row["kid"], alg] = None if (row["kid"], alg) in found else key
    return {place: key for place, key in found.items() if key is not None}


def _usable(row: Any, alg: str) -> Key | None:
    """The key of a row if it is a public one for this algorithm."""
    kind, curve = ALGORITHMS[alg]
    if not isinstance(row, dict) or row.get("kty") != kind or row.get("crv", curve) != curve:
        return None
    if not isinstance(row.get("kid"), str) or row.get("alg", alg) != alg or row.get("use", "sig") != "sig":
        return None
    operations = row.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if any(member in row for member in _SECRET):
        log.error("a JWKS publishes a private key; it is not used, and must be replaced")
        return None
    try:
        members = {name: row[name] for name in _MEMBERS[kind]}
        key: Key = ECKey.import_key(members) if kind == "EC" else RSAKey.import_key(members)
        long_enough = key.raw_value.key_size >= (
            MIN_RSA_BITS if kind == "RSA" else 0
        )  # a point off the curve fails here
    except (JoseError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return key if long_enough else None


def kept_s(cache_control: str) -> int:
    """How many seconds an answer is kept, by its Cache-Control header: between a minute and a day."""
    match = _MAX_AGE.search(cache_control)
    if match is None:
        return SHORTEST_S if re.search(r"\bno-(?:store|cache)\b", cache_control, re.IGNORECASE) else DEFAULT_S
    return max(SHORTEST_S, min(LONGEST_S, int(match[1])))


class FromUrl:
    """The keys at a URL, kept in this process. `now` gives ms since 1970; `fetch` does the network."""

    def __init__(self, url: Callable[[], str], fetch: Fetch, algorithms: tuple[str, ...], now: Callable[[], int]):
        self._url = url
        self._fetch = fetch
        self._algorithms = algorithms
        self._now = now
        self._lock = threading.Lock()
        self._kept: tuple[Keys, int] | None = None  # with the ms until which they are good; replaced as a whole
        self._next_ms = 0

    def key(self, kid: str, alg: str) -> Key | None:
        """The key with this kid for this algorithm; fetched anew when it is not among those that are kept.

        Raises Unavailable when there are no keys to look in.
        """
        # Without the lock: while one thread asks after a made-up kid, nobody else waits for it.
        kept = self._good()
        if kept is not None and (kid, alg) in kept:
            return kept[kid, alg]
        with self._lock:
            kept = self._good()
            if kept is None or (kid, alg) not in kept:
                self._renew()
                kept = self._good()
        if kept is None:
            raise Unavailable("The public keys can't be read now; try again in a minute.")
        return kept.get((kid, alg))

    def _good(self) -> Keys | None:
        """The keys that are kept; none when they are too old, even when nothing newer can be had."""
        kept = self._kept
        return kept[0] if kept is not None and self._now() < kept[1] else None

    def _renew(self) -> None:
        now = self._now()
        if now < self._next_ms:
            return
        self._next_ms = now + 1000 * RETRY_S
        try:
            url = self._url()
            if not secure(url):
                raise Invalid("Keys are fetched by https only.")
            data, cache_control = self._fetch(url)
            if len(data) > MAX_BYTES:
                raise Invalid(f"It is larger than {MAX_BYTES} bytes.")
            self._kept = keys(data, self._algorithms), now + 1000 * kept_s(cache_control)
        except SecondOpError as error:
            log.error("keys of another party can't be read: %s", error.message)


class FromFile:
    """The keys in a file, read again when it changes."""

    def __init__(self, file: Path, algorithms: tuple[str, ...]) -> None:
        self._file = file
        self._algorithms = algorithms
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._keys: Keys = {}

    def key(self, kid: str, alg: str) -> Key | None:
        """The key with this kid for this algorithm. Raises Unavailable when the file can't be read or is no JWKS."""
        with self._lock:
            try:
                stat = self._file.stat()
                if self._seen != (stat.st_mtime_ns, stat.st_size):
                    self._keys = keys(self._file.read_bytes(), self._algorithms)
                    self._seen = (stat.st_mtime_ns, stat.st_size)
            except (OSError, Invalid) as error:
                log.error("%s can't be read as a JWKS (%s)", self._file, type(error).__name__)
                raise Unavailable("The public keys can't be read now; try again in a minute.") from error
            return self._keys.get((kid, alg))
