"""The audit by hand: verify it, keep its anchors, export it, ask who saw a record."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from fhir_secondop.cli.output import Plain, config_option, json_option, print_
from fhir_secondop.errors import Invalid, NotFound

database_option = click.option("--database", default=None, help="A file for SQLite, or a PostgreSQL URL.")


@click.group()
def audit() -> None:
    """Who did and who saw what: verify, anchors, export, who."""


@contextmanager
def _opened(config_file: str, database: str | None) -> Iterator[tuple[Any, str]]:
    """The database of the configuration, and our FHIR base."""
    from fhir_secondop import config
    from fhir_secondop.store.database import Database

    settings = config.load(config_file, said={"database": database} if database else {})
    opened = Database(settings.database)
    if opened.is_sqlite and not Path(opened.engine.url.database or "").exists():
        raise NotFound(f"There is no database {opened.engine.url.database}; name it with --database or --config.")
    try:
        yield opened, f"{settings.public_url}/fhir"
    finally:
        opened.dispose()


@contextmanager
def _progress(length: int, label: str, as_json: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for people at a terminal."""
    if as_json or not sys.stderr.isatty():
        yield lambda n: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


@audit.command()
@click.option("--anchors", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Anchors kept elsewhere: a file of `audit anchors`, or the service's log.")  # fmt: skip
@config_option
@database_option
@json_option
def verify(anchors: Path | None, config_file: str, database: str | None, as_json: bool) -> None:
    """Checks every row against its chain, and the chains against their anchors. Exits 1 at a fault.

    Without --anchors, who may write to the table can also have made it all anew: see docs/security.md.

    Example: fhir-secondop audit verify --anchors anchors.txt
    """
    from fhir_secondop.store.audit import anchors as anchoring
    from fhir_secondop.store.audit import verify as verifying

    kept = anchoring.of_lines(anchors.read_text("utf-8", errors="replace")) if anchors else []
    if anchors and not kept:
        raise Invalid(f"{anchors} holds no anchor; write one with: fhir-secondop audit anchors --out FILE")
    with (
        _opened(config_file, database) as (opened, _),
        opened.reading() as connection,
        _progress(verifying.size(connection), "verifying", as_json) as step,
    ):
        found = verifying.verify(connection, kept, step)

    def show(plain: Plain) -> None:
        click.echo(f"{plain['chains']} chain(s), {plain['rows']} row(s), {plain['anchors']} anchor(s), "
                   f"{plain['exported']} of them compared with what was kept elsewhere")  # fmt: skip
        click.echo(f"BROKEN: {plain['bad']}" if plain["bad"] else "Nothing is missing, nothing was changed.")

    print_(
        {"ok": not found.bad, "chains": found.chains, "rows": found.rows, "anchors": found.anchors,
         "exported": found.exported, "bad": found.bad}, as_json, show,
    )  # fmt: skip
    sys.exit(1 if found.bad else 0)


@audit.command()
@click.option("--out", type=click.Path(path_type=Path), help="A file, on another machine at best; lines are added.")
@config_option
@database_option
@json_option
def anchors(out: Path | None, config_file: str, database: str | None, as_json: bool) -> None:
    """The newest anchor of each process, a line each: kept elsewhere, they fix every row before them.

    Example: fhir-secondop audit anchors --out anchors.txt
    """
    from fhir_secondop.store.audit import anchors as anchoring

    with _opened(config_file, database) as (opened, _), opened.reading() as connection:
        lines = [anchoring.line(head) for head in anchoring.newest(connection)]
    if out is not None:
        with open(out, "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    said = f"{len(lines)} anchor(s) written to {out}" if out else "\n".join(lines)
    print_({"anchors": lines, "written": str(out) if out else ""}, as_json, lambda plain: click.echo(said))


@audit.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; it is replaced.")
@click.option("--to", default="", help="For syslog: udp://host:514 or tcp://host:601 instead of a file.")
@click.option("--format", "form", type=click.Choice(["ndjson", "syslog"]), default="ndjson", show_default=True,
              help="ndjson: an AuditEvent a line. syslog: RFC 5424.")  # fmt: skip
@click.option("--since", default="", help="From this date or instant on (FHIR form, 2026-05-01 say).")
@config_option
@database_option
@json_option
def export(
    out: Path | None, to: str, form: str, since: str, config_file: str, database: str | None, as_json: bool
) -> None:
    """Every row, oldest first.

    Example: fhir-secondop audit export --out audit.ndjson --since 2026-05-01
    """
    from fhir_secondop.fhir import codec, times
    from fhir_secondop.service import audit_events
    from fhir_secondop.store.audit import trail

    if (out is None) == (not to) or (to and form != "syslog"):
        raise click.UsageError("Name --out FILE, or with --format syslog --to udp://host:port or tcp://host:port.")
    begin = times.interval(since).low if since else 0
    host = socket.gethostname()
    number = 0
    with (
        _opened(config_file, database) as (opened, base_url),
        opened.reading() as connection,
        _progress(trail.count_since(connection, begin), "exporting", as_json) as step,
        _sink(out, to) as write,
    ):
        for row in trail.since(connection, begin):
            write(
                codec.dumps(audit_events.event(row, base_url)) if form == "ndjson" else audit_events.syslog(row, host)
            )
            number += 1
            step(1)
    where = str(out) if out else to
    print_({"rows": number, "written": where}, as_json, lambda plain: click.echo(f"{number} row(s) to {where}"))


@contextmanager
def _sink(out: Path | None, to: str) -> Iterator[Callable[[str], object]]:
    """Where lines go: a file; datagrams; or a stream with octet counting (RFC 6587)."""
    if out is not None:
        with open(out, "w", encoding="utf-8") as file:
            yield lambda line: file.write(f"{line}\n")
        return
    url = urlsplit(to)
    if url.scheme not in ("udp", "tcp") or not url.hostname or not url.port:
        raise Invalid(f"--to {to}: write udp://host:port or tcp://host:port.")
    if url.scheme == "udp":
        family, kind, _, _, address = socket.getaddrinfo(url.hostname, url.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as datagrams:
            yield lambda line: datagrams.sendto(line.encode(), address)
        return
    with socket.create_connection((url.hostname, url.port), timeout=30) as stream:
        yield lambda line: stream.sendall(f"{len(line.encode())} {line}".encode())


@audit.command()
@click.argument("record", metavar="CASE-or-PATIENT")
@config_option
@database_option
@json_option
def who(record: str, config_file: str, database: str | None, as_json: bool) -> None:
    """Who saw this record: a case's id, a Patient's id here, or a patient's identifier, "system|value".

    Example: fhir-secondop audit who 0f0c…
    """
    from fhir_secondop.fhir import times
    from fhir_secondop.store.audit import trail

    rows: list[Plain] = []
    with _opened(config_file, database) as (opened, _), opened.reading() as connection:
        cases = trail.cases_of(connection, record)
        if not cases:
            raise NotFound("There is no case of that record; give a case's id, a Patient's id or system|value.")
        for case_id in cases:
            for row in trail.callers(connection, case_id):
                rows.append({"case": case_id, "caller": row.caller or "anonymous", "behalf": row.behalf,
                             "reads": int(row.reads), "writes": int(row.writes), "denied": int(row.denied),
                             "first": times.instant(row.first), "last": times.instant(row.last)})  # fmt: skip

    def show(plain: Plain) -> None:
        for row in plain["who"]:
            behalf = f" for {row['behalf']}" if row["behalf"] else ""
            click.echo(f"{row['case']}  {row['caller']}{behalf}: {row['reads']} read(s), {row['writes']} write(s), "
                       f"{row['denied']} denied; {row['first']} to {row['last']}")  # fmt: skip

    print_({"who": rows}, as_json, show)
