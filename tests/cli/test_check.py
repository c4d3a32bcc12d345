"""`check`: what it reads, what it says, and how it ends."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from fhir_secondop.cli import main

GOOD = b'{"resourceType": "Patient"}'
BAD = b'{\n  "resourceType": "Patient",\n  "gender": "x"\n}'


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["check", *arguments])
    return result.exit_code, result.output


def test_a_fault_is_said_with_file_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(GOOD)
    (tmp_path / "b.json").write_bytes(BAD)
    code, said = run(str(tmp_path))
    assert code == 1
    assert f"{tmp_path / 'b.json'}:3:13: error: Patient.gender: must be a code of the value set" in said
    assert said.endswith("2 resource(s), 1 error(s)\n")


def test_xml_ndjson_and_packages_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text('<Patient xmlns="http://hl7.org/fhir">\n<gender value="x"/></Patient>')
    (tmp_path / "b.ndjson").write_bytes(GOOD + b"\n\n" + GOOD.replace(b"}", b', "active": 1}') + b"\n")
    with tarfile.open(tmp_path / "c.tgz", "w:gz") as archive:
        for name, data in (("package.json", b"{}"), (".index.json", b"{}"), ("Patient-1.json", BAD)):
            (tmp_path / "held").write_bytes(data)
            archive.add(tmp_path / "held", f"package/{name}")
    code, said = run(str(tmp_path), "--json")
    found = json.loads(said)
    assert code == 1
    assert (found["resources"], found["errors"]) == (4, 3)
    assert [(i["file"].removeprefix(str(tmp_path)), i["line"], i["path"]) for i in found["issues"]] == [
        ("/a.xml", 2, "Patient.gender"), ("/b.ndjson#3", 1, "Patient.active"),
        ("/c.tgz!package/Patient-1.json", 3, "Patient.gender"),
    ]  # fmt: skip


def test_our_own_package_is_sound(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["package", str(tmp_path / "ours.tgz")]).exit_code == 0
    code, said = run(str(tmp_path / "ours.tgz"))
    assert (code, said.splitlines()[-1].endswith(" resource(s), 0 error(s)")) == (0, True)


@pytest.mark.parametrize("data", [b"", b"no package"])
def test_what_is_no_package_is_said_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tgz").write_bytes(data)
    code, said = run(str(tmp_path / "x.tgz"))
    assert code == 1
    assert "is no FHIR package" in said
