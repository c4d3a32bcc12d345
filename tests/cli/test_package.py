"""`fhir-secondop package`: what is in it, and that it is the same each time."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fhir.resources.R4B import get_fhir_model_class

from fhir_secondop.cli import main
from fhir_secondop.cli import package as command
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import definitions
from fhir_secondop.fhir import package as packages
from fhir_secondop.fhir.validate import validate
from fhir_secondop.opinion import codes
from fhir_secondop.rest import published

Json = dict[str, Any]


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["package", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def unpacked(content: bytes) -> dict[str, Json]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: json.load(archive.extractfile(member)) for member in archive}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    out = tmp_path_factory.mktemp("package") / "out.tgz"
    run(str(out))
    return unpacked(out.read_bytes())


def test_same_bytes_each_time(tmp_path: Path) -> None:
    said = [json.loads(run(str(tmp_path / name), "--json")) for name in ("a.tgz", "b.tgz")]
    assert (tmp_path / "a.tgz").read_bytes() == (tmp_path / "b.tgz").read_bytes()
    assert said[0]["sha256"] == said[1]["sha256"]
    # Two within a second would be the same in any case: no time in gzip's head either.
    assert (tmp_path / "a.tgz").read_bytes()[4:8] == bytes(4)
    with tarfile.open(tmp_path / "a.tgz") as archive:
        members = archive.getmembers()
    assert members[0].name == "package/package.json"
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}


def test_manifest_names_what_it_depends_on(files: dict[str, Json]) -> None:
    manifest = files["package/package.json"]
    assert manifest["fhirVersions"] == ["4.0.1"]
    assert manifest["dependencies"] == {"hl7.fhir.r4.core": "4.0.1"}
    assert (manifest["canonical"], manifest["license"]) == (codes.CANONICAL, "Apache-2.0")


def test_all_that_we_define_is_in_it_and_valid(files: dict[str, Json]) -> None:
    resources = [each for name, each in files.items() if name.count("/") == 1 and "resourceType" in each]
    urls = {each["url"] for each in resources}
    assert {each["url"] for each in definitions.conformance()} <= urls
    assert [(each["id"], issue.expression) for each in resources for issue in validate(each)] == []
    profiles = [each for each in resources if each["resourceType"] == "StructureDefinition"]
    assert len(profiles) == len(definitions.profiles())
    assert all(each["snapshot"]["element"] and each["differential"]["element"] for each in profiles)


def test_index_names_every_file(files: dict[str, Json]) -> None:
    for folder in ("package", "package/example"):
        index = files[f"{folder}/.index.json"]
        there = {name.rpartition("/")[2] for name in files if name.rpartition("/")[0] == folder}
        assert {row["filename"] for row in index["files"]} == there - {"package.json", ".index.json"}
    row = next(r for r in files["package/.index.json"]["files"] if r["id"] == "coordination-task")
    assert (row["kind"], row["type"], row["derivation"]) == ("resource", "Task", "constraint")


def test_operations_of_the_statement_are_those_that_are_defined(files: dict[str, Json]) -> None:
    statement = files["package/CapabilityStatement-second-opinion-service.json"]
    rest = statement["rest"][0]
    named = {op["definition"] for part in (rest, *rest["resource"]) for op in part.get("operation", ())}
    defined = {each["url"] for each in files.values() if each.get("resourceType") == "OperationDefinition"}
    of_others = {
        "http://hl7.org/fhir/OperationDefinition/Resource-validate",
        *(row.definition for row in published.ROWS),
    }
    assert named == defined | of_others, "the rest is ours"
    assert statement["kind"] == "capability"
    assert "implementation" not in statement


def test_operation_has_the_parameters_of_its_row(files: dict[str, Json]) -> None:
    accept = files["package/OperationDefinition-accept.json"]
    assert (accept["instance"], accept["type"], accept["system"], accept["resource"]) == (
        True, False, False, ["ServiceRequest"],
    )  # fmt: skip
    declaration, attestation, *_ = accept["parameter"]
    assert [(p["name"], p["min"], p["max"]) for p in declaration["part"]] == [
        ("interests", 1, "1"),
        ("participated", 0, "*"),
    ]
    assert (attestation["type"], attestation["min"]) == ("string", 0)
    decline = files["package/OperationDefinition-decline.json"]["parameter"][0]
    assert decline["documentation"].startswith("One of: conflict-of-interest, ")
    asked = files["package/OperationDefinition-request-second-opinion.json"]
    assert (asked["system"], asked["affectsState"], asked["parameter"][0]["type"]) == (True, True, "Resource")
    changes = next(p for p in files["package/OperationDefinition-amend-report.json"]["parameter"] if "part" in p)
    item = next(p for p in changes["part"] if p["name"] == "items")
    coding = next(p for p in next(p for p in item["part"] if p["name"] == "proposed")["part"] if p["name"] == "code")
    assert [p["name"] for p in coding["part"]] == ["system", "code", "display"]


def test_examples_are_those_of_profiles(files: dict[str, Json]) -> None:
    found = {each["id"]: each for name, each in files.items() if name.startswith("package/example/") and "id" in each}
    assert found == {each["id"]: each for each in command.examples()}
    assert [issue for each in found.values() for issue in validate(each)] == []


def test_a_bad_name_and_a_folder_that_is_not_there_are_said_plainly(tmp_path: Path) -> None:
    said = run(str(tmp_path / "a.tgz"), "--name", "Second Opinion", code=1)
    assert "A package's name has two parts or more" in said
    assert not (tmp_path / "a.tgz").exists()
    assert "No such file or directory" in run(str(tmp_path / "no" / "a.tgz"), code=1)


def test_two_resources_of_one_name_are_refused() -> None:
    manifest = packages.Manifest("a.b", "1", "", "", "", "", "")
    twice = [{"resourceType": "ValueSet", "id": "x"}] * 2
    with pytest.raises(Invalid, match="Two resources of the package are ValueSet/x"):
        packages.build(manifest, twice, [])


def test_another_library_parses_each_resource(files: dict[str, Json]) -> None:
    resources = [each for each in files.values() if "resourceType" in each]
    assert len(resources) > 150
    for resource in resources:
        parsed = get_fhir_model_class(resource["resourceType"]).model_validate(resource)
        # It gives back what it read.
        assert set(json.loads(parsed.model_dump_json())) == set(resource)
