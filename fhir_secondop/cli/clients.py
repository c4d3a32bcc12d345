"""The systems that may sign in here: registered, listed, taken out. A running service follows by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fhir_secondop.cli import edited
from fhir_secondop.cli.output import Plain, config_option, json_option, print_
from fhir_secondop.errors import Invalid, NotFound


@click.group()
def client() -> None:
    """The systems that may sign in here, with auth = "smart" (SMART Backend Services)."""


def _file(config_file: str) -> tuple[Path, bool]:
    """The clients file, and whether a client needs keys in it: not where an external issuer knows them."""
    from fhir_secondop import config

    settings = config.load(config_file)
    return Path(settings.clients_file), not settings.issuer


@client.command()
@click.argument("client_id", metavar="ID")
@click.option("--name", default="", help="For people; the id by default.")
@click.option("--role", "roles", multiple=True, help="requester, provider, reviewer, auditor …; may be given again.")
@click.option("--scope", "scopes", multiple=True, required=True,
              help="The most that it may be granted: system/Observation.rs; may be given again.")  # fmt: skip
@click.option("--party", "parties", multiple=True, help="system|value, under which cases know it; may be given again.")
@click.option("--on-behalf-of", default="", help="For whom it acts: Organization/1.")
@click.option("--jwks-url", default="", help="Where it publishes its public keys, by https.")
@click.option("--jwks-file", default="", help="Else the file with them; seen from the clients file.")
@config_option
@json_option
def add(client_id: str, config_file: str, as_json: bool, **given: Any) -> None:
    """Registers a system.

    Example: fhir-secondop client add lakeside --role requester --scope system/*.rs --jwks-url https://a.example/jwks
    """
    import tomlkit

    from fhir_secondop.access import clients

    file, need_keys = _file(config_file)
    entry: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in given.items() if value
    }
    clients.check_entry(client_id, entry, need_keys=need_keys)
    if "jwks_file" in entry and not (file.parent / entry["jwks_file"]).is_file():
        raise Invalid(f"--jwks-file: there is no file {file.parent / entry['jwks_file']}.")
    document = edited.document(file)
    registered = document.setdefault("clients", tomlkit.table(is_super_table=True))
    if client_id in registered:
        raise Invalid(f"{file} has a client {client_id} already; remove it first, or choose another id.")
    registered[client_id] = tomlkit.item(entry)
    edited.write(file, document)
    print_({"added": client_id, "file": str(file), **entry}, as_json,
           lambda plain: click.echo(f"added {client_id} to {file}"))  # fmt: skip


@client.command(name="list")
@config_option
@json_option
def list_(config_file: str, as_json: bool) -> None:
    """The registered systems.

    Example: fhir-secondop client list
    """
    file, _ = _file(config_file)
    registered = edited.document(file).unwrap().get("clients", {})
    rows = [{"id": key, **entry} for key, entry in registered.items()]

    def show(plain: Plain) -> None:
        for row in rows:
            keys = row.get("jwks_url") or row.get("jwks_file") or "the issuer"
            said = [" ".join(row.get(member, [])) or "-" for member in ("roles", "scopes")]
            click.echo("  ".join([row["id"], row.get("name", row["id"]), *said, f"keys: {keys}"]))
        if not rows:
            click.echo("none yet; add one: fhir-secondop client add ID --scope SCOPE --jwks-url URL")

    print_({"file": str(file), "clients": rows}, as_json, show)


@client.command()
@click.argument("client_id", metavar="ID")
@config_option
@json_option
def remove(client_id: str, config_file: str, as_json: bool) -> None:
    """Takes a system out: its access tokens are good no more.

    Example: fhir-secondop client remove lakeside
    """
    file, _ = _file(config_file)
    document = edited.document(file)
    if client_id not in document.get("clients", {}):
        raise NotFound(f"There is no client {client_id}; see: fhir-secondop client list")
    del document["clients"][client_id]
    edited.write(file, document)
    print_({"removed": client_id, "file": str(file)}, as_json, lambda _: click.echo(f"removed {client_id} from {file}"))
