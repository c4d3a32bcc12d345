"""The files that say who may sign in: read again when they change. What can't be read lets nobody in."""

from __future__ import annotations

import logging
import secrets
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from werkzeug.security import check_password_hash, generate_password_hash

from fhir_secondop.errors import Invalid, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
HASHED = "scrypt:32768:8:1"


@dataclass(slots=True)
class Watched(Generic[T]):
    """A file and what it says, read again whenever it is another file, of another size or time."""

    path: Path
    parse: Callable[[str], T]
    changed: Callable[[T], None] = lambda _: None
    _mark: tuple[int, int, int] | None = None
    _value: T | None = None

    def read(self) -> T:
        """What the file says now. Raises Unavailable when it can't be read or understood; the log says why."""
        try:
            found = self.path.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
            if mark != self._mark:
                value = self.parse(self.path.read_text("utf-8"))
                self.changed(value)
                self._value, self._mark = value, mark
        except (OSError, UnicodeDecodeError, Invalid) as error:
            self._mark = None
            log.error("%s: %s", self.path, error)
            raise Unavailable("Nobody can sign in now; the operator's log says why.") from error
        assert self._value is not None
        return self._value


def accounts(text: str) -> Mapping[str, str]:
    """Password hashes by account of the demo's file: [accounts] with ID = "scrypt:…". Raises Invalid."""
    try:
        found = tomllib.loads(text)["accounts"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise Invalid("The file of the demo's accounts has a table [accounts].") from error
    if not all(isinstance(hashed, str) and hashed.startswith("scrypt:") for hashed in found.values()):
        raise Invalid('The demo\'s accounts are written ID = "scrypt:…".')
    return dict(found)


@cache
def _nobody() -> str:
    """As costly to check as a real one: whether a name is known does not show in how long the answer takes."""
    return generate_password_hash(secrets.token_urlsafe(), HASHED)


def is_password(known: Mapping[str, str], account: str, password: str) -> bool:
    """Whether it is the account's password; as much work for a name that nobody has."""
    right = check_password_hash(known.get(account) or _nobody(), password)
    return right and account in known
