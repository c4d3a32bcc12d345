"""The systems that may sign in, from a file that is read again when it changes.

[clients.ID] with name, roles, scopes (the most it may be granted), parties, on_behalf_of, and jwks_url or jwks_file.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fhir_secondop.access import keysets, scopes, tokens
from fhir_secondop.access.jwts import Key
from fhir_secondop.access.scopes import Scope
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Caller

log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,99}")
_KNOWN = ("name", "roles", "scopes", "parties", "on_behalf_of", "jwks_url", "jwks_file")
_LISTS = ("roles", "scopes", "parties")


class Keyring(Protocol):
    """Where a client's public keys come from: keysets.FromUrl, keysets.FromFile."""

    def key(self, kid: str, alg: str) -> Key | None:
        """The key with this kid for this algorithm."""


@dataclass(frozen=True, slots=True)
class Client:
    """A registered system. `registration` names its keys' place: tokens that were given for others count no more."""

    id: str
    name: str
    roles: frozenset[str]
    scopes: tuple[Scope, ...]
    parties: frozenset[str]
    on_behalf_of: str
    jwks_url: str
    registration: str
    keys: Keyring

    def caller(self, granted: tuple[Scope, ...]) -> Caller:
        """The client as a caller with these scopes, as far as it may have them now."""
        now = tuple(map(str, scopes.intersect(granted, self.scopes)))
        return Caller(self.id, self.name, self.roles, now, self.parties, self.on_behalf_of)


@dataclass(frozen=True, slots=True)
class _NoKeys:
    """A client that signs in at an external issuer: we need no keys of it."""

    def key(self, kid: str, alg: str) -> Key | None:
        return None


@dataclass(frozen=True, slots=True)
class Rings:
    """How keyrings are made; kept from one reading of the file to the next, with what they have fetched."""

    from_url: Callable[[str], Keyring]
    from_file: Callable[[Path], Keyring]


def parse(text: str, folder: Path, rings: Rings, *, need_keys: bool = True) -> Mapping[str, Client]:
    """The clients of a file that stands in this folder. Raises Invalid naming the entry that is wrong."""
    try:
        loaded = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"The clients file is not TOML: {error}") from error
    entries = loaded.get("clients", {})
    if set(loaded) - {"clients"} or not isinstance(entries, dict):
        raise Invalid("The clients file has tables [clients.ID] and nothing else.")
    return {key: _client(key, entry, folder, rings, need_keys) for key, entry in entries.items()}


def _client(key: str, entry: Any, folder: Path, rings: Rings, need_keys: bool) -> Client:
    check_entry(key, entry, need_keys=need_keys)
    url, file = entry.get("jwks_url", ""), entry.get("jwks_file", "")
    place = url or (str(folder / file) if file else "")
    ring: Keyring = rings.from_url(url) if url else rings.from_file(folder / file) if file else _NoKeys()
    return Client(
        id=key,
        name=entry.get("name", key),
        roles=frozenset(entry.get("roles", [])),
        scopes=scopes.canonical(map(scopes.parse, entry.get("scopes", []))),
        parties=frozenset(entry.get("parties", [])),
        on_behalf_of=entry.get("on_behalf_of", ""),
        jwks_url=url,
        registration=hashlib.sha256(place.encode()).hexdigest(),
        keys=ring,
    )


def check_entry(key: str, entry: Any, *, need_keys: bool = True) -> None:
    """Raises Invalid naming what is wrong in one client's table."""
    where = f"clients.{key}"
    if not _ID.fullmatch(key):
        raise Invalid(f"{where}: an id has letters, digits, - . _ ~ and at most 100 of them.")
    if not isinstance(entry, dict):
        raise Invalid(f"{where} must be a table: [clients.{key}].")
    for member, value in entry.items():
        if member not in _KNOWN:
            raise Invalid(f"{where}.{member} is unknown; known are {', '.join(_KNOWN)}.")
        many = isinstance(value, list) and all(isinstance(v, str) and v for v in value)
        if not (many if member in _LISTS else isinstance(value, str) and value):
            raise Invalid(
                f"{where}.{member} must be {'a list of texts' if member in _LISTS else 'a text'}.", path=where
            )
    if unknown := set(entry.get("roles", [])) - tokens.ROLES:
        raise Invalid(f"{where}.roles: unknown {sorted(unknown)}; known are {sorted(tokens.ROLES)}.")
    for text in entry.get("scopes", []):
        try:
            system = all(scope.context == "system" for scope in scopes.parse_all(text))
        except Invalid as error:
            raise Invalid(f"{where}.scopes: {text}: {error.message}") from error
        if not system:
            raise Invalid(f"{where}.scopes: {text}: a client signs in for itself: system/….")
    _check_keys(where, entry, need_keys)


def _check_keys(where: str, entry: dict[str, Any], need_keys: bool) -> None:
    url, file = entry.get("jwks_url"), entry.get("jwks_file")
    if (url and file) or (need_keys and not (url or file)):
        raise Invalid(f"{where} needs jwks_url or jwks_file, one of them.")
    if url and not keysets.secure(url):
        raise Invalid(f"{where}.jwks_url must be https (http only at a loopback address, 127.0.0.1).")


class Registry:
    """The clients of a file as it is now; none where there is no file."""

    def __init__(self, file: Path, rings: Rings, *, need_keys: bool = True) -> None:
        """Reads the file. Raises Invalid when it is broken: only a running service has a last good state."""
        self._file = file
        self._rings = rings
        self._need_keys = need_keys
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._clients = self._read()

    def find(self, client_id: str) -> Client | None:
        """The client with this id, by the file as it stands now."""
        stamp = self._stamp()
        if stamp != self._seen:
            with self._lock:
                if stamp != self._seen and self._renewed():
                    self._seen = stamp
        return self._clients.get(client_id)

    def _renewed(self) -> bool:
        """Reads the file as it is now; whether that need not be tried again."""
        try:
            self._clients = self._read()
        except OSError as error:
            log.error("%s can't be read (%s), the clients stay as they were", self._file, error.strerror)
            return False
        except Invalid as error:
            log.error("%s is broken, the clients stay as they were: %s", self._file, error.message)
        return True

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = self._file.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        except OSError:
            return (-1, 0, 0)  # it is there and can't be looked at
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _read(self) -> Mapping[str, Client]:
        try:
            text = self._file.read_text("utf-8")
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError as error:
            raise Invalid(f"{self._file} is not UTF-8 text.") from error
        return parse(text, self._file.parent, self._rings, need_keys=self._need_keys)
