"""Our profiles as a FHIR package that others' software loads."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from fhir_secondop import __version__
from fhir_secondop.cli.output import Plain, json_option, print_
from fhir_secondop.fhir import definitions, snapshots
from fhir_secondop.fhir import package as packages
from fhir_secondop.opinion import codes

NAME = "secondop.profiles.r4"
# The day of this version: a CapabilityStatement needs one, and today's would change the bytes.
RELEASED = "2026-11-28"
Resource = dict[str, Any]


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", default=NAME, show_default=True, help="The package's name.")
@json_option
def package(out: Path, name: str, as_json: bool) -> None:
    """Writes our profiles, codes, operations and examples as a FHIR package; the same bytes each time.

    Example: fhir-secondop package secondop.tgz
    """
    manifest = packages.Manifest(
        name=name,
        version=__version__,
        canonical=codes.CANONICAL,
        title="Second opinions in FHIR R4",
        description="Profiles, extensions, codes and operations of a second opinion and its exchange with EHRs.",
        author="fhir_secondop",
        license="Apache-2.0",
    )
    resources = list(contents())
    content = packages.build(manifest, resources, examples())
    out.write_bytes(content)
    counts: dict[str, int] = {}
    for resource in resources:
        counts[resource["resourceType"]] = counts.get(resource["resourceType"], 0) + 1
    said: Plain = {
        "file": str(out),
        "package": f"{name}#{__version__}",
        "sha256": hashlib.sha256(content).hexdigest(),
        "resources": counts,
        "examples": len(list(examples())),
    }
    print_(said, as_json, _show)


def _show(plain: Plain) -> None:
    click.echo(f"{plain['package']} in {plain['file']}")
    click.echo(", ".join(f"{count} {kind}" for kind, count in plain["resources"].items()))
    click.echo(f"{plain['examples']} examples")
    click.echo(f"sha256 {plain['sha256']}")


def contents() -> Iterator[Resource]:
    """What the package defines: profiles with their snapshots, codes, operations, what a service offers."""
    for resource in definitions.conformance():
        if resource["resourceType"] == "StructureDefinition":
            resource = with_snapshot(resource)
        yield dict(resource)
    yield from _of_the_service()


def with_snapshot(definition: Any) -> Resource:
    """A profile of ours with both: its snapshot stands before its differential."""
    head = {key: value for key, value in definition.items() if key != "differential"}
    elements = list(snapshots.snapshot(definition["url"]))
    return {**head, "snapshot": {"element": elements}, "differential": definition["differential"]}


def examples() -> Iterator[Resource]:
    """Those of profiles/examples/, by name."""
    folder = files(definitions.PACKAGE).joinpath("examples")
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name):
        yield json.loads(file.read_bytes())


def _of_the_service() -> Iterator[Resource]:
    """The operations and the CapabilityStatement, from what a service that is put together has registered."""
    from fhir_secondop import bootstrap
    from fhir_secondop.config import Settings
    from fhir_secondop.rest import capability, operation_definitions

    # It wants a database and a key of its own; both go with the folder.
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            database=f"sqlite:///{folder}/package.sqlite", auth="none", link_secret_file=f"{folder}/link-secret"
        )
        endpoint = bootstrap.assembled(settings).endpoint
        said = capability.statement(endpoint, RELEASED)
        endpoint.database.dispose()
    yield from (operation_definitions.definition(row, codes.CANONICAL) for row in endpoint.operations)
    # What the software can do, wherever it runs: no address, and no way to sign in, which the operator chooses.
    del said["implementation"], said["rest"][0]["security"]
    yield {
        "resourceType": "CapabilityStatement",
        "id": "second-opinion-service",
        "url": f"{codes.CANONICAL}/CapabilityStatement/second-opinion-service",
        "version": __version__,
        "name": "SecondOpinionService",
        "title": "What a second opinion service offers",
        "experimental": False,
        "publisher": "fhir_secondop",
        "description": "Made from what is registered, like the one at /metadata.",
        **{key: value for key, value in said.items() if key != "resourceType"},
        "kind": "capability",
    }
