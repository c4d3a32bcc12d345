"""The alerts by hand: what stands, who takes care of it, and whether people would hear of it."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from fhir_secondop.cli.output import Plain, config_option, json_option, print_
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Caller

if TYPE_CHECKING:
    from fhir_secondop.service.context import Context

_database = click.option("--database", default=None, help="A file for SQLite, or a PostgreSQL URL.")


@click.group()
def alerts() -> None:
    """What waits too long, and who is told: list, acknowledge, test."""


@contextmanager
def _opened(config_file: str, database: str | None) -> Iterator[Context]:
    from fhir_secondop import bootstrap, config

    settings = config.load(config_file, said={"database": database} if database else {})
    context = bootstrap.assembled(settings).context
    try:
        yield context
    finally:
        context.database.dispose()


def _operator(name: str) -> Caller:
    """Who has the configuration and the database, and sits at this machine."""
    return Caller(f"operator:{name}", name, frozenset({"operator"}))


@alerts.command(name="list")
@config_option
@_database
@json_option
def list_(config_file: str, database: str | None, as_json: bool) -> None:
    """What stands, then what is over, with what was told of it.

    Example: fhir-secondop alerts list
    """
    from fhir_secondop.service.alerts import plain, watch

    with _opened(config_file, database) as context:
        found = [plain.of_alert(*row) for row in watch.listed(context, _operator(getpass.getuser()))]

    def show(said: Plain) -> None:
        for row in said["alerts"]:
            state = f"over since {row['ended']}" if row["ended"] else "STANDS"
            click.echo(f"{row['id']}  {state}, began {row['began']}: {row['ehr'] or 'all EHRs'}: {row['text']}")
            if row["acknowledgedBy"]:
                click.echo(f"  acknowledged by {row['acknowledgedBy']}, {row['acknowledged']}")
            for message in row["messages"]:
                why = f": {message['why']}" if message["why"] else ""
                click.echo(f"  {message['event']} to {message['channel']}: {message['state']}{why}")
        if not said["alerts"]:
            click.echo("No alert stands, and none was there in the last ninety days.")

    print_({"alerts": found}, as_json, show)


@alerts.command()
@click.argument("alert_id", metavar="ALERT")
@click.option("--by", default="", help="Your name; by default that of your account here.")
@config_option
@_database
@json_option
def acknowledge(alert_id: str, by: str, config_file: str, database: str | None, as_json: bool) -> None:
    """You take care of it: the next level is not told. That it is over will be.

    Example: fhir-secondop alerts acknowledge 7d4c… --by "Night shift"
    """
    from fhir_secondop.service.alerts import plain, watch

    with _opened(config_file, database) as context:
        found = watch.acknowledge(context, _operator(by or getpass.getuser()), alert_id)
    print_(plain.of_alert(found, []), as_json, lambda said: click.echo(f"acknowledged by {said['acknowledgedBy']}"))


@alerts.command()
@config_option
@json_option
def test(config_file: str, as_json: bool) -> None:
    """Sends a test message to everybody who would be told, and says what became of each. Exits 1 where one failed.

    Example: fhir-secondop alerts test --config secondop.toml
    """
    from fhir_secondop import config
    from fhir_secondop.service.alerts import channels
    from fhir_secondop.store.database import now_ms

    settings = config.load(config_file)
    if not settings.alerts.levels:
        raise Invalid(
            "Nobody is told of alerts: there is no [[alerts.levels]] in the settings; docs/alerts.md shows one."
        )
    found = channels.tried(settings.alerts, f"{settings.public_url}/connections", now_ms())

    def show(said: Plain) -> None:
        for row in said["channels"]:
            click.echo(f"{row['channel']}: {'sent' if row['ok'] else row['why']}")

    print_({"ok": all(row["ok"] for row in found), "channels": found}, as_json, show)
    sys.exit(0 if all(row["ok"] for row in found) else 1)
