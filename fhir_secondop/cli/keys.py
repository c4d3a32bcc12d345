"""Our signing keys for SMART sign-in at EHRs. A private key is never printed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from fhir_secondop.cli.output import Plain, config_option, json_option, print_


@click.group()
def keys() -> None:
    """The keys with which we sign in at EHRs (SMART Backend Services)."""


def _file(config_file: str, file: Path | None) -> Path:
    from fhir_secondop import config

    return file or Path(config.load(config_file).keys_file)


_file_option = click.option(
    "--file", type=click.Path(path_type=Path), help="The key file; keys_file of the configuration by default."
)


@keys.command()
@click.option("--alg", type=click.Choice(["ES384", "RS384"]), default="ES384", show_default=True)
@click.option("--signs-after", "hours", type=float, default=24.0, show_default=True,
              help="Hours until it signs: EHRs keep our JWKS for a while. The first key signs at once.")  # fmt: skip
@_file_option
@config_option
@json_option
def new(alg: str, hours: float, file: Path | None, config_file: str, as_json: bool) -> None:
    """Makes a key, published from now on. A running service takes it up by itself.

    Example: fhir-secondop keys new --alg ES384
    """
    from fhir_secondop.ehr import keys as keyring

    where = _file(config_file, file)
    kid = keyring.add(where, alg, now_s=int(time.time()), signs_after_h=hours)
    _show({"file": str(where), "made": kid, "keys": keyring.listed(where)}, as_json)


@keys.command(name="list")
@_file_option
@config_option
@json_option
def list_(file: Path | None, config_file: str, as_json: bool) -> None:
    """The keys, and from when on each signs.

    Example: fhir-secondop keys list
    """
    from fhir_secondop.ehr import keys as keyring

    where = _file(config_file, file)
    _show({"file": str(where), "keys": keyring.listed(where)}, as_json)


@keys.command()
@_file_option
@config_option
def public(file: Path | None, config_file: str) -> None:
    """The public JWK set, as /.well-known/jwks.json publishes it: to register us where a URL is not taken.

    Example: fhir-secondop keys public > jwks.json
    """
    from fhir_secondop.ehr import keys as keyring

    click.echo(json.dumps(keyring.public([_file(config_file, file)]), indent=1))


@keys.command()
@click.argument("kid")
@_file_option
@config_option
@json_option
def retire(kid: str, file: Path | None, config_file: str, as_json: bool) -> None:
    """Takes an old key out of the file and of what is published.

    Example: fhir-secondop keys retire 0riK-e2w
    """
    from fhir_secondop.ehr import keys as keyring

    where = _file(config_file, file)
    keyring.retire(where, kid, now_s=int(time.time()))
    _show({"file": str(where), "retired": kid, "keys": keyring.listed(where)}, as_json)


def _show(plain: Plain, as_json: bool) -> None:
    def show(said: Plain) -> None:
        for key in said["keys"]:
            signs = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(key["signs_from"]))
            click.echo(f"{key['kid']}  {key['alg']}  signs from {signs}")
        click.echo(f"in {said['file']}; published by the service at /.well-known/jwks.json")

    print_(plain, as_json, show)
