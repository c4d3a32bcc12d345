"""Our package in HL7's software (Java): its loader reads it, its generator makes the same snapshots, its validator
finds of each example what we find.

The validator is the one in HAPI 8.8.0 (org.hl7.fhir.validation 6.7.9), without a terminology server: see packages/.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fhir_secondop.cli import main
from fhir_secondop.fhir import codec, definitions
from fhir_secondop.model import EVERYTHING
from fhir_secondop.opinion import codes
from fhir_secondop.store import resources
from tests.fhir.breaking import broken, rules
from tests.fhir.test_own_profiles import EXAMPLES, INVARIANTS, REFUSED
from tests.interop.hapi_server import JVM, classpath
from tests.service.world import opened

pytestmark = pytest.mark.shared
Json = dict[str, Any]
PROJECT = Path(__file__).parent / "packages"

# What a snapshot may say otherwise than HL7's generator, and why.
WORDS = {"short", "definition"}  # theirs calls each Extension "An Extension", ours has R4's sentence
READERS = {"comment", "requirements", "alias", "mapping", "example"}  # left out of ours
OF_THE_GENERATOR = {"extension", "condition"}  # notes of its own; R4's Extension says "ele-1" twice
# R4's dom-3 is worded with as() in the copy that HAPI has, with ofType() in the one that we have.
REWORDED = {"dom-3"}


class Answers:
    """What the program said, by kind."""

    def __init__(self, lines: list[Json]) -> None:
        self.package = next(line for line in lines if line["kind"] == "package")
        self.snapshots = {line["url"]: line["made"]["element"] for line in lines if line["kind"] == "snapshot"}
        self.verdicts = {line["name"]: line["issues"] for line in lines if line["kind"] == "verdict"}

    def errors(self, name: str) -> list[str]:
        return [f"{i['place']}: {i['text']}" for i in self.verdicts[name] if i["severity"] in ("error", "fatal")]


def cases(files: Mapping[str, Json]) -> list[Json]:
    """All that is asked: what the package defines, its examples, and what holds or fails in test_own_profiles.py."""
    asked = [{"name": name, "resource": each} for name, each in files.items() if is_example(name) or is_ours(each)]
    for profile, examples in EXAMPLES.items():
        asked += [case(f"holds {profile} {n}", profile, each) for n, each in enumerate(examples)]
    for key, (profile, holds, fails, _) in INVARIANTS.items():
        asked += [case(f"holds {key}", profile, holds), case(f"fails {key}", profile, fails)]
    for name, (profile, resource, place) in REFUSED.items():
        asked.append(case(f"fails {name}", profile, resource, resolved=place.endswith(".reference")))
    for rule in rules():
        asked.append(case(f"fails {rule}", "", broken(rule), resolved=rule.kind == "target"))
    return asked


def case(name: str, profile: str, resource: Json, *, resolved: bool = False) -> Json:
    """One question. What a reference is of, HL7's validator says only when it finds it: `resolved` puts it there."""
    demanded = [codes.extension(profile)] if profile else resource.get("meta", {}).get("profile", [])
    claiming = {**resource, "id": "x", **({"meta": {"profile": demanded}} if demanded else {})}
    if not resolved:
        return {"name": name, "resource": claiming}
    there = {reference: stub(reference) for reference in references(resource)}
    entries = [
        {"fullUrl": f"https://clinic.example/fhir/{each['resourceType']}/{each['id']}", "resource": each}
        for each in (claiming, *there.values())
    ]
    return {"name": name, "resource": {"resourceType": "Bundle", "type": "collection", "entry": entries}}


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["reference"]} if isinstance(value.get("reference"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def stub(reference: str) -> Json:
    """The least resource that a reference may lead to."""
    kind, name, *_ = reference.split("/")
    return {"resourceType": kind, "id": name, **({"type": "person", "actual": True} if kind == "Group" else {})}


def is_ours(resource: Json) -> bool:
    """What the package defines. Of an extension's definition the validator asks for the package hl7.fhir.r4.core, from
    the network: those are compared as snapshots, and by the examples that have them."""
    return "url" in resource and resource.get("type") != "Extension"


def is_example(name: str) -> bool:
    return name.startswith("package/example/") and not name.endswith("/.index.json")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package") / "secondop.tgz"
    done = CliRunner().invoke(main, ["package", str(out)])
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def files(package: Path) -> dict[str, Json]:
    with tarfile.open(fileobj=io.BytesIO(package.read_bytes())) as archive:
        return {member.name: json.load(archive.extractfile(member)) for member in archive}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """All that the service itself writes in a case whose record is gathered, whose report is signed and amended."""
    folder = tmp_path_factory.mktemp("case")
    with (
        pytest.MonkeyPatch.context() as patched,
        opened(folder, f"sqlite:///{folder / 'test.sqlite'}", patched) as world,
    ):
        for name, shape in (("riverside", "full"), ("lakeside", "full"), ("hillcrest", "read-only")):
            world.ehr(name, shape)
        case_id = world.signed()
        world.work()
        world.amend(case_id)
        world.work()
        with world.context.database.reading() as connection:
            found = [resources.stored(row, EVERYTHING) for row in connection.execute(resources.rows(EVERYTHING))]
        return {
            f"{each.type}/{each.id}": each.resource for each in found if not each.owner.startswith(resources.SOURCE)
        }


@pytest.fixture(scope="module")
def hl7(package: Path, files: dict[str, Json], written: dict[str, Json]) -> Answers:
    """One run over everything: Java starts once, and reads R4 once. Skips where Java or Maven is missing."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HL7's validator needs Java 17 and Maven")
    path = os.pathsep.join((classpath(PROJECT), str(package.parent)))
    command = ["java", *JVM, "-cp", path, "secondop.interop.PackageCheck", str(package)]
    asked = [*cases(files), *({"name": name, "resource": each} for name, each in written.items())]
    sent = "".join(f"{codec.dumps(each)}\n" for each in asked)
    done = subprocess.run(command, input=sent, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return Answers([json.loads(line) for line in done.stdout.splitlines()])


def test_their_loader_reads_our_package(hl7: Answers, files: dict[str, Json]) -> None:
    manifest = files["package/package.json"]
    assert {key: hl7.package[key] for key in ("name", "version", "canonical", "fhirVersion", "dependencies")} == {
        "name": manifest["name"], "version": manifest["version"], "canonical": manifest["canonical"],
        "fhirVersion": "4.0.1", "dependencies": ["hl7.fhir.r4.core#4.0.1"],
    }  # fmt: skip
    names = {name.rpartition("/")[2] for name in files if name.count("/") == 1}
    assert set(hl7.package["listed"]) == names - {"package.json", ".index.json"}
    assert set(hl7.package["examples"]) == {name.rpartition("/")[2] for name in files if is_example(name)}


def test_their_snapshots_are_ours(hl7: Answers, files: dict[str, Json]) -> None:
    ours = {each["url"]: each for each in files.values() if each.get("resourceType") == "StructureDefinition"}
    assert hl7.snapshots.keys() == ours.keys() == definitions.profiles().keys()
    for url, theirs in hl7.snapshots.items():
        mine = ours[url]["snapshot"]["element"]
        assert [each["id"] for each in mine] == [each["id"] for each in theirs], url
        for one, other in zip(mine, theirs, strict=True):
            assert comparable(one) == comparable(other), (url, one["id"])


def comparable(element: Json) -> Json:
    """An element without what may differ; what is false counts as not said."""
    left_out = WORDS | READERS | OF_THE_GENERATOR
    kept = {key: plain(value) for key, value in element.items() if key not in left_out and value is not False}
    if "constraint" in kept:
        kept["constraint"] = [
            (each["key"], each["severity"], "" if each["key"] in REWORDED else each["expression"])
            for each in kept["constraint"]
        ]
    return kept


def plain(value: Any) -> Any:
    """Without extensions: of the generator, and of names of bindings."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key != "extension"}
    return [plain(part) for part in value] if isinstance(value, list) else value


def test_their_validator_finds_what_we_find(hl7: Answers, files: dict[str, Json]) -> None:
    names = [each["name"] for each in cases(files)]
    assert len(names) == len(set(names))
    assert set(names) <= set(hl7.verdicts)
    assert len(names) > 500
    wrong = {name: hl7.errors(name) for name in names if bool(hl7.errors(name)) != name.startswith("fails ")}
    assert wrong == {}


def test_their_validator_finds_the_rule_that_is_broken(hl7: Answers) -> None:
    astray = {}
    for rule in rules():
        name = rule.element.rpartition(".")[2].partition(":")[0].removesuffix("[x]")
        said = hl7.errors(f"fails {rule}")
        if not any(name in error or rule.profile in error for error in said):
            astray[str(rule)] = said
    assert astray == {}


def test_their_validator_takes_what_a_case_writes(hl7: Answers, written: dict[str, Json]) -> None:
    claimed = {url for each in written.values() for url in each.get("meta", {}).get("profile", ())}
    assert len([url for url in claimed if url in definitions.profiles()]) > 8
    assert {name: hl7.errors(name) for name in written if hl7.errors(name)} == {}
    # The amended document among them.
    documents = [each for each in written.values() if each["resourceType"] == "Bundle"]
    assert sorted(each["entry"][0]["resource"]["status"] for each in documents) == ["amended", "final"]
