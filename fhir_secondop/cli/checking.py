"""`check`: FHIR R4 resources in files, folders, NDJSON and packages, every fault with its place."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fhir_secondop import fhir
from fhir_secondop.cli.output import Plain, config_option, json_option, print_
from fhir_secondop.errors import Issue, NotFound

if TYPE_CHECKING:
    from fhir_secondop.ehr.second_stage import SecondStage

_ENDINGS = (".json", ".xml", ".ndjson", ".tgz")
_OF_PACKAGE = ("package.json", ".index.json")  # what a package has beside resources
_WIDEST = 256 * 1024 * 1024  # of one file in a package, unpacked


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--profile", "profiles", multiple=True,
              help="A profile (canonical URL) that each must satisfy: of ours, or with --with another.")  # fmt: skip
@click.option("--with", "names", multiple=True, metavar="NAME",
              help="Send them to this validator of the configuration: for profiles of others.")  # fmt: skip
@click.option("--notes", is_flag=True, help="Say what was not checked, too: code lists, profiles, extensions.")
@config_option
@json_option
def check(
    paths: tuple[Path, ...], profiles: tuple[str, ...], names: tuple[str, ...], notes: bool, config_file: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Validates FHIR R4 resources: JSON, XML, NDJSON and FHIR packages (.tgz), or folders of them.

    Example: fhir-secondop check examples/breast-treatment-plan/records
    """
    further = _Further(_stage(config_file, names), profiles, notes=notes) if names else None
    count = 0
    found: list[Plain] = []
    for name, data in (pair for path in paths for pair in _resources(path)):
        count += 1
        issues = fhir.check(data, profiles=profiles, notes=notes)
        issues = further.of(data, issues) if further else issues
        found += [{"file": name, **_plain(issue)} for issue in issues]
    errors = [each for each in found if each["severity"] in ("error", "fatal")]

    def show(plain: Plain) -> None:
        for issue in plain["issues"]:
            where = ":".join([issue["file"], *(str(issue[part]) for part in ("line", "column") if part in issue)])
            at = f"{issue['path']}: " if issue["path"] else ""
            click.echo(f"{where}: {issue['severity']}: {at}{issue['message']}")
        asked = f", {plain['asked']} asked of {', '.join(names)}" if names else ""
        click.echo(f"{count} resource(s), {len(errors)} error(s){asked}")

    asked = {"asked": further.asked} if further else {}
    print_({"resources": count, "errors": len(errors), **asked, "issues": found}, as_json, show)
    sys.exit(1 if errors else 0)


def _stage(config_file: str, names: tuple[str, ...]) -> SecondStage:
    """The validators of those names."""
    from fhir_secondop import bootstrap, config

    settings = config.load(config_file)
    for name in names:
        if name not in settings.validators:
            known = ", ".join(settings.validators) or "none"
            raise NotFound(
                f"The configuration has no validator {name!r}; it has {known}. docs/second-stage.md says how."
            )
    return bootstrap.second_stage(replace(settings, validators={name: settings.validators[name] for name in names}))


class _Further:
    """What other validators say. `asked` counts the resources that one of them was asked about."""

    def __init__(self, stage: SecondStage, profiles: tuple[str, ...], *, notes: bool) -> None:
        self.stage = stage
        self.profiles = profiles
        self.notes = notes
        self.asked = 0

    def of(self, data: bytes, ours: list[Issue]) -> list[Issue]:
        """Ours, and theirs of a resource in which we found no error. What was not checked is said always."""
        if any(issue.severity in ("error", "fatal") for issue in ours):
            return ours
        from fhir_secondop.fhir import claims, locations

        text = fhir.serialise(data).decode()
        resource = fhir.parse(text)
        urls = [url for _, url in claims.unknown(resource, self.profiles)]
        self.asked += any(map(self.stage.covers, urls))
        said = [issue for issue in self.stage.examine(resource, text, self.profiles) if self.notes or _counts(issue)]
        placed = locations.located_xml(data, said) if fhir.is_xml(data) else locations.located(text, said)
        known_there = set(map(claims.not_checked, urls))  # the stage says it of those that nobody looks at
        return [*(issue for issue in ours if issue.diagnostics not in known_there), *placed]


def _counts(issue: Issue) -> bool:
    """Whether it is more than information of another validator: HL7's has a lot, of each narrative that lacks."""
    return issue.severity != "information" or not issue.source


def _plain(issue: Issue) -> Plain:
    position = {name: value for name, value in (("line", issue.line), ("column", issue.column)) if value}
    said = {"severity": issue.severity, "code": issue.code, "path": issue.expression, "message": issue.diagnostics}
    return {**position, **said, **({"source": issue.source} if issue.source else {})}


def _resources(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each resource; a line of NDJSON is named "file#line"."""
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.name not in _OF_PACKAGE)
        files = sorted(file for file in found if file.suffix in _ENDINGS and file.is_file())
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
                if not member.isfile() or not name.endswith(".json") or name in _OF_PACKAGE:
                    continue
                if member.size > _WIDEST:
                    raise click.ClickException(f"{path}: {member.name} is larger than {_WIDEST} bytes.")
                file = archive.extractfile(member)
                yield f"{path}!{member.name}", file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise click.ClickException(f"{path} is no FHIR package (tar, gzip): {type(error).__name__}.") from None
