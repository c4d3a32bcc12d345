"""The directory of reviewers, by hand."""

from __future__ import annotations

from pathlib import Path

import click

from fhir_secondop.cli.output import print_
from fhir_secondop.cli.remote import Remote, connected, read_json


@click.group()
def directory() -> None:
    """The reviewers who may be asked: load."""


@directory.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@connected
def load(file: Path, url: str, caller: str, token_file: str, as_json: bool) -> None:
    """Makes the directory what this Bundle says: what is new comes in, what is not in it goes.

    Example: fhir-secondop directory load examples/directory.json --token-file token
    """
    answer = Remote(url, token_file, caller).fhir("POST", "/$load-directory", read_json(file))
    counts = {part["name"]: part["valueInteger"] for part in answer["parameter"]}
    said = ", ".join(f"{number} {name}" for name, number in counts.items())
    print_(counts, as_json, lambda plain: click.echo(said))
