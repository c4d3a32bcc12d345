"""`verify`: whether a file is what was signed, for whoever has it, its signature and the keys. No service is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fhir_secondop.cli.output import Plain, json_option, print_
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, times

_path = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("file", type=_path)
@click.option("--signature", "signed_in", type=_path, required=True,
              help="The detached JWS, or the Provenance that carries it.")  # fmt: skip
@click.option("--keys", type=_path, required=True,
              help="The published keys, from /.well-known/document-keys.json of the service.")  # fmt: skip
@json_option
@click.pass_context
def verify(context: click.Context, file: Path, signed_in: Path, keys: Path, as_json: bool) -> None:
    """Whether FILE is, byte for byte, the document that was signed. Asks nobody; exits 0 only if everything holds.

    Example: fhir-secondop verify report.json --signature report.jws --keys document-keys.json
    """
    from fhir_secondop.ehr.documents import sha256
    from fhir_secondop.opinion import signature

    data = file.read_bytes()
    finding = signature.examine(data, _detached(signed_in), _keys(keys))
    said: Plain = {
        "holds": finding.holds,
        "signature": finding.signature,
        "faults": list(finding.faults),
        "issuer": finding.issuer,
        "signer": finding.signer,
        "signedAt": _instant(finding.at),
        "authenticatedAt": _instant(finding.auth_time),
        "key": {"kid": finding.kid, "alg": finding.alg, "revokedAt": _instant(finding.revoked),
                "endedAt": _instant(finding.ended)},
        "size": len(data),
        "sha256": sha256(data),
    }  # fmt: skip
    print_(said, as_json, _show)
    if not finding.holds:
        context.exit(1)


def _detached(file: Path) -> str:
    from fhir_secondop.opinion import signature

    try:
        text = file.read_text("utf-8").strip()
    except UnicodeDecodeError:
        raise Invalid(f"{file} is neither a JWS nor a Provenance.") from None
    if not text.startswith("{"):
        return text
    found = signature.detached_of(codec.parse(text))
    if not found:
        raise Invalid(f"{file} carries no JWS; a Provenance has it in signature.data.")
    return found


def _keys(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Invalid(f"{file} is no JWK set.")
    return found


def _instant(seconds: int) -> str:
    return times.instant(seconds * 1000) if seconds else ""


def _show(said: Plain) -> None:
    click.echo("The signature holds." if said["holds"] else "The signature does NOT hold:")
    for fault in said["faults"]:
        click.echo(f"  {fault}")
    if said["signature"]:
        proved = f", who proved who it is at {said['authenticatedAt']}" if said["authenticatedAt"] else ""
        click.echo(f"signed at {said['signedAt']} for {said['signer']}{proved}")
        revoked = f"; revoked as of {said['key']['revokedAt']}" if said["key"]["revokedAt"] else ""
        click.echo(f"key {said['key']['kid']} ({said['key']['alg']}) of {said['issuer']}{revoked}")
    click.echo(f"{said['size']} bytes, SHA-256 {said['sha256']}")
