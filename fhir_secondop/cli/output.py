"""How every command answers: one JSON object for machines, or lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable
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
