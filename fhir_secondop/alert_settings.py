"""The [alerts] table: from which on something is an alert, who is told of it, and by which way; docs/alerts.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

Plain = dict[str, Any]
Reached = Callable[[str, Any, Path, str], Connection]
"""How a connection is read from its table: name, entry, file, the table's name. It is `config.connection`."""

SECURITIES = ("starttls", "tls", "none")
_MOST = {"queue_depth": 1_000_000}
_LONGEST_MINUTES = 525_600  # a year
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# One mailbox in ASCII: what could end a header, or name a second one, can't be written.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9a-fA-F:]+")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Beyond which something is an alert; 0: never. `queue_depth` counts deliveries, the others are minutes."""

    oldest_undelivered_minutes: int = 60
    queue_depth: int = 100
    held_minutes: int = 1_440
    gathering_minutes: int = 120


OVERALL = Bounds(0, 500, 0, 0)
"""Of all EHRs together, where nothing is said: what each one's own bounds do not tell already."""


@dataclass(frozen=True, slots=True)
class Email:
    """The mail server, and from whom its messages come. `security`: starttls, tls, or none within one's own network."""

    host: str
    port: int
    sender: str
    security: str = "starttls"
    username: str = ""
    secret_file: str = ""
    timeout_s: float = 20.0
    networks: tuple[str, ...] = ()
    ca_bundle: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """Who is told when an alert has stood for so many minutes, unless somebody has acknowledged it before."""

    after_minutes: int
    email: tuple[str, ...] = ()
    webhooks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alerts:
    """All of it. Without levels nobody is told; what stands is listed all the same.

    `no_worker_minutes` is for how long no worker may have been seen. `of_connection` are the bounds of EHRs that have
    some of their own. What flaps is damped: something must stand, and be over, for `hold_down_s` before it counts. A
    webhook is a connection: `base` is its URL, `secret_file` has its secret.
    """

    each: Bounds = field(default_factory=Bounds)
    overall: Bounds = OVERALL
    of_connection: Mapping[str, Bounds] = field(default_factory=dict)
    no_worker_minutes: int = 2
    hold_down_s: int = 120
    levels: tuple[Level, ...] = ()
    email: Email | None = None
    webhooks: Mapping[str, Connection] = field(default_factory=dict)

    def bounds(self, connection: str) -> Bounds:
        """The bounds of one EHR; of all together with ""."""
        return self.of_connection.get(connection, self.each) if connection else self.overall


_BOUNDS = tuple(f.name for f in fields(Bounds))
_TABLES = ("overall", "connections", "email", "webhooks", "levels")
# Of a connection, what says how a webhook is reached.
_REACHING = ("secret_file", "timeout_s", "proxy", "ca_bundle", "client_cert", "client_key", "networks")


def read(given: Any, file: Path, connections: Mapping[str, Connection], reached: Reached) -> Alerts:
    """The table as it stands in that file; paths are meant from where the file stands.

    Raises Invalid naming the key that is wrong, and what is allowed.
    """
    where = f"{file}: alerts"
    _known(where, given, (*_BOUNDS, "no_worker_minutes", "hold_down_s", *_TABLES))
    each = _bounds(where, {k: v for k, v in given.items() if k in _BOUNDS}, Bounds())
    of_connection = _table(where, given, "connections")
    for name in of_connection:
        if name not in connections:
            raise Invalid(f"{where}.connections.{name}: there is no such connection.")
    email = _email(f"{where}.email", given["email"], file, reached) if "email" in given else None
    webhooks = {
        name: _webhook(f"{where}.webhooks.{name}", name, entry, file, reached)
        for name, entry in _table(where, given, "webhooks").items()
    }
    return Alerts(
        each=each,
        overall=_bounds(f"{where}.overall", given.get("overall", {}), OVERALL),
        of_connection={n: _bounds(f"{where}.connections.{n}", e, each) for n, e in of_connection.items()},
        no_worker_minutes=_number(where, given, "no_worker_minutes", Alerts().no_worker_minutes, 0, _LONGEST_MINUTES),
        hold_down_s=_number(where, given, "hold_down_s", Alerts().hold_down_s, 0, 3_600),
        levels=_levels(where, given.get("levels", []), email, webhooks),
        email=email,
        webhooks=webhooks,
    )


def _known(where: str, given: Any, known: tuple[str, ...]) -> None:
    if not isinstance(given, dict):
        raise Invalid(f"{where} must be a table.")
    for key in given:
        if key not in known:
            raise Invalid(f"{where}.{key} is unknown; known are {', '.join(sorted(known))}.")


def _table(where: str, given: Plain, key: str) -> Plain:
    found = given.get(key, {})
    if not isinstance(found, dict):
        raise Invalid(f"{where}.{key} are tables, [alerts.{key}.NAME].")
    return found


def _bounds(where: str, given: Any, default: Bounds) -> Bounds:
    _known(where, given, _BOUNDS)
    return Bounds(*(_number(where, given, n, getattr(default, n), 0, _MOST.get(n, _LONGEST_MINUTES)) for n in _BOUNDS))


def _number(where: str, given: Plain, key: str, default: int, least: int, most: int) -> int:
    found = given.get(key, default)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise Invalid(f"{where}.{key}: use a whole number from {least} to {most}.")
    return found


def _email(where: str, given: Any, file: Path, reached: Reached) -> Email:
    _known(where, given, tuple(f.name for f in fields(Email)))
    host, sender, username = (given.get(name, "") for name in ("host", "sender", "username"))
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        raise Invalid(f"{where}.host must be the mail server's name or address.")
    if not isinstance(sender, str) or not _ADDRESS.fullmatch(sender):
        raise Invalid(f"{where}.sender must be one e-mail address.")
    security = given.get("security", "starttls")
    if security not in SECURITIES:
        raise Invalid(f"{where}.security: use one of {', '.join(SECURITIES)}.")
    if not isinstance(username, str) or bool(username) != ("secret_file" in given):
        raise Invalid(f"{where}.username and secret_file belong together.")
    if username and security == "none":
        raise Invalid(f"{where}.security: a password is sent by starttls or tls only.")
    made = Email(host, _number(where, given, "port", {"tls": 465, "none": 25}.get(security, 587), 1, 65_535), sender)
    # What says how a server is reached is checked as it is of any other.
    reaching = {n: given[n] for n in ("ca_bundle", "networks", "timeout_s", "secret_file") if n in given}
    checked = reached("email", {"base": "https://mail", "timeout_s": made.timeout_s, **reaching}, file, "alerts")
    return replace(
        made, security=security, username=username, secret_file=checked.secret_file, ca_bundle=checked.ca_bundle,
        networks=checked.networks, timeout_s=_seconds(where, checked),
    )  # fmt: skip


def _webhook(where: str, name: str, given: Any, file: Path, reached: Reached) -> Connection:
    _known(where, given, ("url", *_REACHING))
    url = given.get("url", "")
    parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise Invalid(f"{where}.url must be an https URL.")
    if "secret_file" not in given:
        raise Invalid(f"{where}.secret_file must name the file with the secret that signs, whsec_….")
    entry = {"timeout_s": 20.0, **{k: v for k, v in given.items() if k != "url"}, "base": url}
    made = reached(name, entry, file, "alerts.webhooks")
    _seconds(where, made)
    return replace(made, base=url)  # whole: a slash at its end is part of it


def _seconds(where: str, made: Connection) -> float:
    if not 1 <= made.timeout_s <= 30:
        raise Invalid(f"{where}.timeout_s: use seconds from 1 to 30.")
    return made.timeout_s


def _levels(where: str, given: Any, email: Email | None, webhooks: Mapping[str, Connection]) -> tuple[Level, ...]:
    if not isinstance(given, list):
        raise Invalid(f"{where}.levels is a list of tables, [[alerts.levels]].")
    found: list[Level] = []
    for number, entry in enumerate(given, 1):
        place = f"{where}.levels[{number}]"
        _known(place, entry, ("after_minutes", "email", "webhooks"))
        after = _number(place, entry, "after_minutes", 0, 0, _LONGEST_MINUTES)
        if found and after <= found[-1].after_minutes:
            raise Invalid(f"{place}.after_minutes: each level comes later than the one before.")
        made = Level(after, *(tuple(_names(place, entry, key)) for key in ("email", "webhooks")))
        _check_ways(place, made, email, webhooks)
        found.append(made)
    return tuple(found)


def _names(place: str, entry: Plain, key: str) -> list[str]:
    found = entry.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Invalid(f"{place}.{key} is a list of words.")
    return list(dict.fromkeys(found))


def _check_ways(place: str, level: Level, email: Email | None, webhooks: Mapping[str, Connection]) -> None:
    if not level.email and not level.webhooks:
        raise Invalid(f"{place}: name somebody in email or in webhooks.")
    if level.email and email is None:
        raise Invalid(f"{place}.email: say in [alerts.email] by which server.")
    for address in level.email:
        if not _ADDRESS.fullmatch(address):
            raise Invalid(f"{place}.email: {address!r} is no e-mail address.")
    for name in level.webhooks:
        if name not in webhooks:
            raise Invalid(f"{place}.webhooks: there is no [alerts.webhooks.{name}].")
