"""`doctor --production`: what of this configuration is unfit for patients' data, and what nobody but you can know."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
from sqlalchemy.engine import make_url

from fhir_secondop.access import tokens
from fhir_secondop.cli import named_files
from fhir_secondop.cli.output import Plain
from fhir_secondop.config import Settings
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection
from fhir_secondop.store.database import normalised

_HERE = frozenset({"127.0.0.1", "localhost", "::1", "", None})
NOT_CHECKED = (
    "The disk with the database is encrypted, and so are its backups; a drill restored it (restore --drill).",
    "document_keys_file is backed up apart, and the same file on every machine: without it nothing can be verified.",
    "A firewall lets this machine reach its EHRs, the sign-in provider and nothing else.",
    "The audit's anchors are kept where the administrators of this machine can't change them (audit anchors --out).",
    "Somebody reads the log, and is called when deliveries wait for a person.",
    "The agreements are signed that your law asks for; this program has no certificate and claims none.",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `level`: ok, warn (think about it) or red (not with patients' data)."""

    level: str
    what: str
    do: str = ""


def checks(settings: Settings) -> list[Check]:
    """Everything that can be seen from the configuration and the files that it names."""
    return [
        *_reach(settings), *_people(settings), *_secrets(settings), *_storage(settings), *_limits(settings),
        *(found for connection in named_files.asked(settings).values() for found in _connection(connection)),
    ]  # fmt: skip


def _reach(settings: Settings) -> Iterator[Check]:
    if settings.auth == "none":
        yield Check("red", "everybody who reaches the port may do everything", 'set auth = "smart"')
    elif settings.auth == "tokens":
        yield Check("red", "systems sign in with tokens that never end", 'set auth = "smart", register clients')
    else:
        yield Check("ok", "systems sign in with keys, for minutes")
    if not settings.base_url.startswith("https://"):
        yield Check("red", "no https address", "put a proxy with TLS in front; set base_url and trusted_proxy")
    elif not settings.trusted_proxy:
        yield Check("warn", "no trusted_proxy: every client's address is the proxy's", "name the proxy's address")
    else:
        yield Check("ok", f"reached as {settings.base_url}")


def _people(settings: Settings) -> Iterator[Check]:
    if settings.demo_people:
        yield Check("red", "accounts of the demo may sign in", "take demo_people away, name an oidc_issuer")
    if not settings.oidc_issuer:
        yield Check("warn", "people can't sign in", "name an oidc_issuer and a people_file")
    elif not settings.oidc_issuer.startswith("https://"):
        yield Check("red", "the sign-in provider is asked without TLS", "use its https address")
    else:
        yield Check("ok", f"people sign in at {urlsplit(settings.oidc_issuer).netloc}")
    if settings.session_idle_s > 3_600:
        yield Check("warn", "a session that nobody uses lasts over an hour", "lower session_idle_s")


def _secrets(settings: Settings) -> Iterator[Check]:
    for key, name in named_files.secret(settings).items():
        if Path(name).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Check("red", f"{key}: others on this machine can read it", f"chmod 600 {name}")
    if settings.auth == "tokens" and Path(settings.token_file).exists():
        try:
            plain = "token =" in Path(settings.token_file).read_text("utf-8")
            tokens.load(Path(settings.token_file).read_text("utf-8"))
        except (Invalid, UnicodeDecodeError):
            yield Check("red", "the token file can't be read", "see docs/run.md")
        else:
            if plain:
                yield Check("red", "tokens stand in the token file as they are", "keep their token_sha256 instead")


def _storage(settings: Settings) -> Iterator[Check]:
    url = make_url(normalised(settings.database))
    if url.password:
        yield Check("red", "the database's password stands in the configuration", "use a PGPASSFILE")
    if url.get_backend_name() == "sqlite":
        yield Check("warn", "SQLite: one machine, and its disk is all there is", "use PostgreSQL, or back it up often")
    elif url.host not in _HERE and url.query.get("sslmode") not in ("verify-full", "verify-ca"):
        yield Check("red", "the database is reached without a checked certificate", "add ?sslmode=verify-full")
    else:
        yield Check("ok", "PostgreSQL")


def _limits(settings: Settings) -> Iterator[Check]:
    if not settings.requests_per_s:
        yield Check("red", "no limit of requests", "set requests_per_s")
    if settings.log_level.upper() == "DEBUG":
        yield Check("warn", "the log says more than operation needs", 'set log_level = "INFO"')
    if not settings.blocked_labels.strip():
        yield Check("red", "labels keep nothing out of a case", "name some in blocked_labels")
    if settings.audit != "strict":
        yield Check("warn", "up to a second of what was read may be missing after a power failure",
                    'set audit = "strict", or accept it')  # fmt: skip


def _connection(connection: Connection) -> Iterator[Check]:
    asked = urlsplit(connection.base)
    messages = urlsplit(connection.hl7)
    if messages.scheme == "mllp" and messages.hostname not in _HERE:
        yield Check("red", f"{connection.name}: messages travel without TLS", "use mllps, or a tunnel on this machine")
    if connection.base and asked.scheme != "https" and asked.hostname not in _HERE:
        yield Check("red", f"{connection.name}: records travel without TLS", "use its https address")
    if connection.auth in ("none", "basic"):
        yield Check("warn", f"{connection.name}: signs in by {connection.auth}", "use smart where it can")


def show(plain: Plain) -> None:
    """The list for people: what is red first."""
    marks = {"red": "RED  ", "warn": "warn ", "ok": "ok   "}
    for row in sorted(plain["checks"], key=lambda row: list(marks).index(row["level"])):
        click.echo(f"{marks[row['level']]} {row['what']}" + (f": {row['do']}" if row["do"] else ""))
    click.echo("Not to be seen from here; you answer for it:")
    for line in plain["notChecked"]:
        click.echo(f"   [ ] {line}")


def report(settings: Settings) -> Plain:
    """What `--json` prints. "fit" only says that nothing red was seen."""
    found = checks(settings)
    return {
        "fit": not any(check.level == "red" for check in found),
        "checks": [{"level": check.level, "what": check.what, "do": check.do} for check in found],
        "notChecked": list(NOT_CHECKED),
    }
