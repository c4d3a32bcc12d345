"""`check`: FHIR R4 resources in files, folders, NDJSON and packages, every fault with its place."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import click

from fhir_secondop import fhir
from fhir_secondop.cli.output import Plain, json_option, print_
from fhir_secondop.errors import Issue

_ENDINGS = (".json", ".xml", ".ndjson", ".tgz")
_WIDEST = 256 * 1024 * 1024  # of one file in a package, unpacked


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--profile", "profiles", multiple=True, help="A profile of ours (canonical URL) that each must satisfy.")
@click.option("--notes", is_flag=True, help="Say what was not checked, too: code lists, profiles, extensions.")
@json_option
def check(paths: tuple[Path, ...], profiles: tuple[str, ...], notes: bool, as_json: bool) -> None:
    """Validates FHIR R4 resources: JSON, XML, NDJSON and FHIR packages (.tgz), or folders of them.

    Example: fhir-secondop check examples/breast-treatment-plan/records
    """
    count = 0
    found: list[Plain] = []
    for name, data in (pair for path in paths for pair in _resources(path)):
        count += 1
        found += [{"file": name, **_plain(issue)} for issue in fhir.check(data, profiles=profiles, notes=notes)]
    errors = [each for each in found if each["severity"] in ("error", "fatal")]

    def show(plain: Plain) -> None:
        for issue in plain["issues"]:
            where = ":".join([issue["file"], *(str(issue[part]) for part in ("line", "column") if part in issue)])
            at = f"{issue['path']}: " if issue["path"] else ""
            click.echo(f"{where}: {issue['severity']}: {at}{issue['message']}")
        click.echo(f"{count} resource(s), {len(errors)} error(s)")

    print_({"resources": count, "errors": len(errors), "issues": found}, as_json, show)
    sys.exit(1 if errors else 0)


def _plain(issue: Issue) -> Plain:
    position = {name: value for name, value in (("line", issue.line), ("column", issue.column)) if value}
    said = {"severity": issue.severity, "code": issue.code, "path": issue.expression, "message": issue.diagnostics}
    return {**position, **said}


def _resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each resource; a line of NDJSON is named "file#line"."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _ENDINGS and file.is_file())
        for file in files:
            yield from _resources(file)
    elif path.suffix == ".tgz":
        yield from _of_package(path)
    elif path.suffix == ".ndjson":
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if line.strip():
                yield f"{path}#{number}", line
    else:
        yield str(path), path.read_bytes()


def _of_package(path: Path) -> Iterator[tuple[str, bytes]]:
    """The resources of a FHIR package; its package.json and its indexes are none."""
    try:
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as archive:
            for member in archive:
                name = Path(member.name).name
                if not member.isfile() or not name.endswith(".json") or name in ("package.json", ".index.json"):
                    continue
                if member.size > _WIDEST:
                    raise click.ClickException(f"{path}: {member.name} is larger than {_WIDEST} bytes.")
                file = archive.extractfile(member)
                yield f"{path}!{member.name}", file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise click.ClickException(f"{path} is no FHIR package (tar, gzip): {type(error).__name__}.") from None
