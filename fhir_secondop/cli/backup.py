"""`backup` and `restore`: everything of the service in one folder, and back, with its time and its proof."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fhir_secondop.cli.output import Plain, config_option, json_option, print_, private_files

if TYPE_CHECKING:
    from fhir_secondop.config import Settings
    from fhir_secondop.store.database import Database
    from fhir_secondop.store.restore import Proved

_database = click.option("--database", default=None, help="A file for SQLite, or a PostgreSQL URL.")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@config_option
@_database
@json_option
def backup(out: Path, config_file: str, database: str | None, as_json: bool) -> None:
    """Writes everything that the service holds into a folder, as it was at one moment; the service may run.

    Keys and secrets are not in it: what is to be kept besides is printed, and stands in its manifest.

    Example: fhir-secondop backup --out backups/2026-11-29
    """
    from fhir_secondop import __version__, config
    from fhir_secondop.cli import named_files
    from fhir_secondop.fhir import times
    from fhir_secondop.store import backup as backups
    from fhir_secondop.store.database import now_ms

    private_files()
    settings = config.load(config_file, said={"database": database} if database else {})
    beside = named_files.of(settings)  # secrets are kept apart from the data that they open
    began = time.monotonic()
    with _opened(settings) as opened, _Progress("writing", shown=not as_json) as progress:
        said = {"program": __version__, "at": times.instant(now_ms()), "keepBesides": beside}
        manifest = backups.write(opened, out, said, begin=progress.begin, step=progress.step)
    entries = manifest["tables"].values()
    found: Plain = {
        "backup": str(out), "at": manifest["at"], "rows": sum(e["rows"] for e in entries),
        "resources": sum(manifest["resources"].values()), "bytes": sum(e["bytes"] for e in entries),
        "sha256": backups.sha256(out / backups.MANIFEST), "keepBesides": beside,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip

    def show(plain: Plain) -> None:
        click.echo(f"{plain['rows']} rows with {plain['resources']} resources, {plain['bytes'] / 1e6:.1f} MB, "
                   f"in {plain['seconds']} s: {plain['backup']}")  # fmt: skip
        click.echo(f"SHA-256 of its manifest, to be kept elsewhere: {plain['sha256']}")
        click.echo(
            "Not in it, and needed: the configuration" + "".join(f", {file}" for file in dict.fromkeys(beside.values()))
        )

    print_(found, as_json, show)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@config_option
@_database
@click.option("--drill", is_flag=True, help="Into a database that is thrown away: only to see that it would go.")
@click.option("--sha256", default="", help="Of the manifest, as the backup printed it.")
@json_option
def restore(folder: Path, config_file: str, database: str | None, drill: bool, sha256: str, as_json: bool) -> None:
    """Puts a backup into a new, empty database, and proves it: every file, every row, the audit's chains.

    A drill restores into an SQLite file that is thrown away, or with a PostgreSQL URL into a new database of that
    server. A backup of either kind goes into either.

    Example: fhir-secondop restore backups/2026-11-29 --drill
    """
    from fhir_secondop import config
    from fhir_secondop.errors import Invalid
    from fhir_secondop.store import backup as backups
    from fhir_secondop.store import restore as restoring

    private_files()
    if sha256 and sha256.lower() != backups.sha256(folder / backups.MANIFEST):
        raise Invalid(f"{folder / backups.MANIFEST} is another one: its SHA-256 differs.")
    began = time.monotonic()
    manifest = restoring.read(folder)
    with _place(config_file, database, folder, drill=drill) as url:
        settings = config.load(config_file, said={"database": url} if url else {})
        with _opened(settings, new=True) as opened, _Progress("restoring", shown=not as_json) as progress:
            progress.begin(restoring.size(manifest))
            proved = restoring.into(opened, folder, manifest, progress.step)
            paused = [] if drill else _paused(opened, settings, manifest["at"])
    found = _said(folder, manifest, proved, drill=drill, seconds=time.monotonic() - began)
    found["paused"] = paused
    print_(found, as_json, _show)


def _paused(database: Database, settings: Settings, at: str) -> list[str]:
    """The connections that are paused now: nobody can look there for a message that was sent after the backup, and a
    repeat is taken for new.
    """
    from fhir_secondop.service.context import SERVICE
    from fhir_secondop.store import circuits
    from fhir_secondop.store.database import now_ms

    names = [name for name, one in sorted(settings.connections.items()) if one.hl7 and not one.hl7_dedupes]
    why = f"Restored as of {at}: ask there which HL7 v2 messages came since; what is open is sent again."
    with database.transaction(SERVICE) as tx:
        for name in names:
            known = circuits.read(tx.connection, name)
            circuits.write(tx, replace(known, paused=now_ms(), paused_by="restore", paused_why=why))
    return names


def _said(folder: Path, manifest: Plain, proved: Proved, *, drill: bool, seconds: float) -> Plain:
    return {
        "backup": str(folder), "at": manifest["at"], "drill": drill, "tables": proved.tables, "rows": proved.rows,
        "resources": proved.resources, "files": "proved", "digests": "equal",
        "audit": {"chains": proved.audit.chains, "rows": proved.audit.rows, "anchors": proved.audit.anchors},
        "keepBesides": manifest["keepBesides"], "seconds": round(seconds, 1),
    }  # fmt: skip


def _show(plain: Plain) -> None:
    audit = plain["audit"]
    click.echo(
        f"{plain['tables']} tables with {plain['rows']} rows, {plain['resources']} resources, as of {plain['at']}"
    )
    click.echo("Every file and every row is the one that was backed up.")
    click.echo(f"The audit holds: {audit['chains']} chain(s), {audit['rows']} row(s), {audit['anchors']} anchor(s).")
    if plain["drill"]:
        click.echo(f"A drill: restored and proved in {plain['seconds']} s, and thrown away.")
        return
    for name in plain["paused"]:
        click.echo(f"{name} is paused: HL7 v2 messages that went there after the backup would be sent again. Ask "
                   "there, then: connect resume.")  # fmt: skip
    click.echo(f"Restored in {plain['seconds']} s. The first worker that starts makes the jobs anew from the Tasks.")
    click.echo(
        "Needed besides: the configuration"
        + "".join(f", {file}" for file in dict.fromkeys(plain["keepBesides"].values()))
    )


@contextmanager
def _opened(settings: Settings, *, new: bool = False) -> Iterator[Any]:
    from fhir_secondop.errors import NotFound
    from fhir_secondop.store.database import Database

    opened = Database(settings.database)
    if not new and opened.is_sqlite and not Path(opened.engine.url.database or "").exists():
        raise NotFound(f"There is no database {opened.engine.url.database}; name it with --database or --config.")
    try:
        yield opened
    finally:
        opened.dispose()


@contextmanager
def _place(config_file: str, database: str | None, folder: Path, *, drill: bool) -> Iterator[str | None]:
    """Where a backup goes: as was said, or for a drill where it is thrown away."""
    if not drill:
        yield database
        return
    if database and "://" in database and not database.startswith("sqlite"):
        with _new_postgres(database) as url:
            yield url
        return
    # Beside the backup: it is patients' data, and as large.
    made = tempfile.mkdtemp(prefix=".drill-", dir=folder.parent)
    try:
        yield str(Path(made) / "drill.sqlite")
    finally:
        shutil.rmtree(made)


@contextmanager
def _new_postgres(server: str) -> Iterator[str]:
    """A database of that server for as long as it is needed."""
    import sqlalchemy as sa

    from fhir_secondop.store.database import normalised

    url = sa.engine.make_url(normalised(server))
    name = f"secondop_drill_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


class _Progress:
    """A bar on stderr for people at a terminal."""

    def __init__(self, label: str, *, shown: bool) -> None:
        self._label = label
        self._shown = shown and sys.stderr.isatty()
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def begin(self, rows: int) -> None:
        """So many are to be done."""
        if self._shown:
            self._bar = click.progressbar(length=rows, label=self._label, file=sys.stderr)
            self._bar.__enter__()

    def step(self, rows: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(rows)

    def __exit__(self, *given: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(*given)
