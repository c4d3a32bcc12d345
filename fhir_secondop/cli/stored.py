"""`db`: the tables of the service's database."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import click

from fhir_secondop.cli.output import Plain, json_option, print_


@click.group()
def db() -> None:
    """The database: brought up to date, and its search index made anew."""


_database = click.option("--database", help="Its URL or file, if not that of the configuration.")
_config = click.option("--config", "config_file", default="", help="The configuration file.")


@db.command()
@_database
@_config
@json_option
def upgrade(database: str, config_file: str, as_json: bool) -> None:
    """Brings tables and search index to what this version wants; `serve` does the same when it starts.

    Example: fhir-secondop db upgrade
    """
    _run(database, config_file, as_json, anew=False)


@db.command(name="reindex")
@_database
@_config
@json_option
def again(database: str, config_file: str, as_json: bool) -> None:
    """Makes the search index anew, while the service runs or not. Stopped, it goes on from there the next time.

    Example: fhir-secondop db reindex
    """
    _run(database, config_file, as_json, anew=True)


def _run(database: str, config_file: str, as_json: bool, *, anew: bool) -> None:
    from fhir_secondop import config
    from fhir_secondop.store import reindex
    from fhir_secondop.store.database import Database, now_ms

    settings = config.load(config_file, said={"database": database} if database else {})
    opened = Database(settings.database, now=now_ms)
    try:
        opened.migrate()
        shown = nullcontext() if as_json else click.progressbar(length=100, label="indexing", file=sys.stderr)
        with shown as bar:

            def tell(done: int, whole: int) -> None:
                if bar is not None and whole:
                    bar.update(min(100, 100 * done // whole) - bar.pos)

            work = reindex.again if anew else reindex.upgrade
            number = work(opened, f"{settings.public_url}/fhir", tell)
    finally:
        opened.dispose()
    said: Plain = {"indexed": number}
    print_(said, as_json, lambda plain: click.echo(f"{plain['indexed']} resources indexed"))
