"""How every command answers: one JSON object for machines, or lines for people."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Plain = dict[str, Any]

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for machines.")
config_option = click.option("--config", "config_file", default="", help="The TOML file; ./secondop.toml by default.")


def print_(plain: Plain, as_json: bool, show: Callable[[Plain], None]) -> None:
    """Prints for machines or for people."""
    if as_json:
        click.echo(json.dumps(plain, ensure_ascii=False))
    else:
        show(plain)


def private_files() -> None:
    """What is written from here on is for this user alone: databases, logs and tokens hold patients' data."""
    os.umask(0o077)


def show_people(url: str, people: list[dict[str, str]]) -> None:
    """Where the demo's people sign in, and each one's password."""
    click.echo()
    click.echo(f"Open the work list at {url}/ and sign in as one of these; the passwords hold until the demo stops:")
    for person in people:
        click.echo(f"  {person['account']:<14} {person['password']}   {person['name']}")


def show_demo(url: str, folder: Path, case_id: str) -> None:
    """Where to look around in a demo that goes on."""
    click.echo()
    click.echo(f"Still served: the service at {url} (FHIR base {url}/fhir), its API described at {url}/docs.")
    click.echo(f"The EHRs' addresses are in {folder}/secondop.toml, everybody's token in {folder}/tokens.toml.")
    click.echo("Look around from another terminal:")
    click.echo(f"  fhir-secondop status {case_id} --url {url} --token-file {folder}/tokens.toml")
    click.echo("Stop with Ctrl-C; started again on the same folder, it is all still there.")
