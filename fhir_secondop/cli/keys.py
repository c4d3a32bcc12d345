"""Our signing keys, for sign-in at EHRs (SMART) and for documents. A private key is never printed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from fhir_secondop.cli.output import Plain, config_option, json_option, print_


@click.group()
def keys() -> None:
    """The keys with which we sign in at EHRs (SMART Backend Services), and those that sign documents."""


_PUBLISHED = {"ehrs": "/.well-known/jwks.json", "documents": "/.well-known/document-keys.json"}


def _file(config_file: str, file: Path | None, use: str) -> Path:
    from fhir_secondop import config

    if file:
        return file
    settings = config.load(config_file)
    return Path(settings.document_keys_file if use == "documents" else settings.keys_file)


_file_option = click.option(
    "--file", type=click.Path(path_type=Path),
    help="The key file; keys_file or document_keys_file of the configuration by default.",
)  # fmt: skip
_use_option = click.option("--for", "use", type=click.Choice(list(_PUBLISHED)), default="ehrs", show_default=True,
                           help="Which keys: for sign-in at EHRs, or for signing documents.")  # fmt: skip


@keys.command()
@click.option("--alg", type=click.Choice(["ES384", "RS384"]), default="ES384", show_default=True)
@click.option("--signs-after", "hours", type=float, default=24.0, show_default=True,
              help="Hours until it signs: EHRs keep our JWKS for a while. The first key signs at once.")  # fmt: skip
@_use_option
@_file_option
@config_option
@json_option
def new(alg: str, hours: float, use: str, file: Path | None, config_file: str, as_json: bool) -> None:
    """Makes a key, published from now on. A running service takes it up by itself.

    Example: fhir-secondop keys new --for documents --signs-after 0
    """
    from fhir_secondop.ehr import keys as keyring

    where = _file(config_file, file, use)
    kid = keyring.add(where, alg, now_s=int(time.time()), signs_after_h=hours)
    _show(use, where, as_json, made=kid)


@keys.command(name="list")
@_use_option
@_file_option
@config_option
@json_option
def list_(use: str, file: Path | None, config_file: str, as_json: bool) -> None:
    """The keys, from when on each signs, and what ended it.

    Example: fhir-secondop keys list
    """
    _show(use, _file(config_file, file, use), as_json)


@keys.command()
@_use_option
@_file_option
@config_option
def public(use: str, file: Path | None, config_file: str) -> None:
    """The public JWK set, as the service publishes it: to register us where a URL is not taken, or to verify with.

    Example: fhir-secondop keys public > jwks.json
    """
    from fhir_secondop.ehr import document_keys
    from fhir_secondop.ehr import keys as keyring

    where = _file(config_file, file, use)
    keyring.read(where)  # said, where there is none
    click.echo(json.dumps(document_keys.published(where) if use == "documents" else keyring.public([where]), indent=1))


@keys.command()
@click.argument("kid")
@_use_option
@_file_option
@config_option
@json_option
def retire(kid: str, use: str, file: Path | None, config_file: str, as_json: bool) -> None:
    """Ends an old key. One for EHRs is published no more; one for documents stays, to verify what it signed.

    Example: fhir-secondop keys retire 0riK-e2w
    """
    from fhir_secondop.ehr import document_keys
    from fhir_secondop.ehr import keys as keyring

    where = _file(config_file, file, use)
    end = document_keys.retire if use == "documents" else keyring.retire
    end(where, kid, now_s=int(time.time()))
    _show(use, where, as_json, retired=kid)


@keys.command()
@click.argument("kid")
@click.option("--since", default="", help="From when on nothing that it signed holds, 2026-11-28T09:00:00Z say; now.")
@click.option("--reason", type=click.Choice(["compromised", "superseded", "unspecified"]), required=True)
@_file_option
@config_option
@json_option
def revoke(kid: str, since: str, reason: str, file: Path | None, config_file: str, as_json: bool) -> None:
    """Revokes a key that signed documents: what it signed since then does not hold, what it signed before does.

    Example: fhir-secondop keys revoke 0riK-e2w --reason compromised --since 2026-11-28T09:00:00Z
    """
    from fhir_secondop.ehr import document_keys
    from fhir_secondop.fhir import times

    where = _file(config_file, file, "documents")
    now_s = int(time.time())
    since_s = times.interval(since).low // 1000 if since else now_s
    document_keys.revoke(where, kid, since_s=since_s, reason=reason, now_s=now_s)
    _show("documents", where, as_json, revoked=kid)


def _show(use: str, where: Path, as_json: bool, **said: str) -> None:
    from fhir_secondop.ehr import document_keys
    from fhir_secondop.ehr import keys as keyring

    def show(said: Plain) -> None:
        for key in said["keys"]:
            ended = f", retired {_minute(key['exp'])}" if "exp" in key else ""
            if "revoked" in key:
                ended += f", revoked as of {_minute(key['revoked']['revoked_at'])} ({key['revoked']['reason']})"
            click.echo(f"{key['kid']}  {key['alg']}  signs from {_minute(key['signs_from'])}{ended}")
        click.echo(f"in {said['file']}; published by the service at {_PUBLISHED[use]}")

    listed = document_keys.listed(where) if use == "documents" else keyring.listed(where)
    print_({"file": str(where), **said, "keys": listed}, as_json, show)


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
