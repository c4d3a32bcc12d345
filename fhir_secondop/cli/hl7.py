"""`hl7`: messages from systems that speak HL7 v2 are taken, by MLLP or from a folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fhir_secondop.cli.output import Plain, config_option, json_option, print_
from fhir_secondop.errors import Invalid, NotFound

if TYPE_CHECKING:
    from fhir_secondop.config import Settings

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_database = click.option("--database", default=None, help="A file for SQLite, or a PostgreSQL URL.")


@click.group()
def hl7() -> None:
    """HL7 v2 in: referrals (REF^I12) and orders (OMG^O19)."""


@hl7.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other than loopback needs --certificate.")
@click.option("--certificate", default="", help="For TLS: our certificate with its chain, PEM.")
@click.option("--key", default="", help="For TLS: its key, where it isn't in the same file.")
@click.option("--client-ca", default="", help="For TLS: who connects must show a certificate of this CA.")
@config_option
@_database
def listen(
    port: int, host: str, certificate: str, key: str, client_ca: str, config_file: str, database: str | None
) -> None:  # fmt: skip
    """Takes messages by MLLP until it is stopped, beside a running service on the same database.

    Example: fhir-secondop hl7 listen --port 2575
    """
    from fhir_secondop import bootstrap, config
    from fhir_secondop.web import mllp

    settings = _with_senders(config.load(config_file, said={"database": database} if database else {}))
    if host not in _LOOPBACK and not certificate:
        raise Invalid(f"--host {host}: messages that others can read on the way need TLS; name --certificate.")
    if not certificate and (key or client_ca):
        raise click.UsageError("--key and --client-ca go with --certificate.")
    os.umask(0o077)
    tls = mllp.tls_context(certificate, key, client_ca) if certificate else None
    service = bootstrap.build(settings)
    listener = mllp.Listener(service, host, port, tls)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    click.echo(f"HL7 v2 is taken at {'mllps' if tls else 'mllp'}://{host}:{listener.port}")
    sys.stdout.flush()
    ended.wait()
    listener.stop()
    service.context.database.dispose()


@hl7.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--every", "every_s", type=float, default=0.0, help="Seconds; goes on until it is stopped.")
@config_option
@_database
@json_option
def poll(folder: Path, every_s: float, config_file: str, database: str | None, as_json: bool) -> None:
    """Takes the files NAME.hl7 of a folder: they are moved to done/ or failed/, with the answer and the reason.

    Example: fhir-secondop hl7 poll /srv/hl7/in --every 5
    """
    from fhir_secondop import bootstrap, config
    from fhir_secondop.web import hl7_folder

    settings = _with_senders(config.load(config_file, said={"database": database} if database else {}))
    os.umask(0o077)
    service = bootstrap.build(settings)
    ended = threading.Event()
    if every_s > 0:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
    whole: Plain = {"done": 0, "failed": 0, "left": 0}
    while True:
        found = hl7_folder.poll(service, folder)
        whole = {"done": whole["done"] + found.done, "failed": whole["failed"] + found.failed, "left": found.left}
        if every_s <= 0 or ended.wait(every_s):
            break
    service.context.database.dispose()
    print_(whole, as_json, lambda p: click.echo(f"{p['done']} taken, {p['failed']} refused, {p['left']} left"))


def _with_senders(settings: Settings) -> Settings:
    """The settings, where they name whose messages are taken. Raises NotFound."""
    if not settings.hl7_senders:
        raise NotFound("No sender of HL7 v2 is configured; docs/hl7v2.md has an example of [hl7_senders.NAME].")
    return settings
