"""`check`: what it reads, what it says, and how it ends."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from pytest_httpserver import HTTPServer

from fhir_secondop.cli import main
from tests.ehr.test_second_stage import MISSING, PATIENT, PROFILE, US_CORE, Other, said

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
    code, packed = run(str(tmp_path / "ours.tgz"))
    assert (code, packed.splitlines()[-1].endswith(" resource(s), 0 error(s)")) == (0, True)
    with tarfile.open(tmp_path / "ours.tgz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    code, unpacked = run(str(tmp_path / "unpacked"))
    assert (code, unpacked.splitlines()[-1]) == (0, packed.splitlines()[-1])


@pytest.mark.parametrize("data", [b"", b"no package"])
def test_what_is_no_package_is_said_so(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tgz").write_bytes(data)
    code, said = run(str(tmp_path / "x.tgz"))
    assert code == 1
    assert "is no FHIR package" in said


def configured(folder: Path, base: str, *more: str) -> Path:
    file = folder / "secondop.toml"
    file.write_text("\n".join(["[validators.uscore]", f'base = "{base}"', f'profiles = ["{US_CORE}"]', *more]))
    return file


def test_another_validator_is_asked_where_its_name_is_given(tmp_path: Path, httpserver: HTTPServer) -> None:
    other = Other(httpserver)
    config = str(configured(tmp_path, other.base))
    folder = tmp_path / "checked"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps(PATIENT, indent=1))
    (folder / "b.xml").write_text(
        f'<Patient xmlns="http://hl7.org/fhir"><meta><profile value="{PROFILE}"/></meta>\n'
        '<gender value="male"/></Patient>'
    )
    (folder / "c.json").write_bytes(GOOD)
    (folder / "d.json").write_text(json.dumps({**PATIENT, "gender": "x"}))
    assert run(str(folder), "--config", config)[1].endswith("4 resource(s), 1 error(s)\n")
    assert other.seen == []
    other.issues = [MISSING, said("warning", "is odd", "Patient.gender"), said("information", "more")]
    code, told = run(str(folder), "--config", config, "--with", "uscore", "--json")
    found = json.loads(told)
    assert (code, found["resources"], found["errors"], found["asked"]) == (1, 4, 3, 2)
    shown = [(Path(i["file"]).name, i.get("line"), i["severity"], i["path"], i.get("source")) for i in found["issues"]]
    assert shown == [
        ("a.json", 1, "error", "Patient", "uscore"), ("a.json", 1, "warning", "Patient.gender", "uscore"),
        ("b.xml", 1, "error", "Patient", "uscore"), ("b.xml", 2, "warning", "Patient.gender", "uscore"),
        ("d.json", 1, "error", "Patient.gender", None),
    ]  # fmt: skip
    assert other.seen == [PATIENT, {"resourceType": "Patient", "meta": {"profile": [PROFILE]}, "gender": "male"}]


def test_what_another_validator_did_not_look_at_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps({**PATIENT, "meta": {"profile": [PROFILE, "https://nobody.example/x"]}})
    )
    stopped = "http://127.0.0.1:1/fhir"
    for more, ends in (((), 0), (("required = true",), 1)):
        config = str(configured(tmp_path, stopped, *more))
        for notes in ((), ("--notes",)):
            code, told = run(str(tmp_path / "a.json"), "--config", config, "--with", "uscore", *notes)
            assert code == ends
            assert f"{'error' if ends else 'warning'}: Patient: The profile {PROFILE} was not checked by uscore" in told
            assert told.count("The profile https://nobody.example/x is not known here") == 1
            assert f"{PROFILE} is not known" not in told
            assert told.endswith(f"1 resource(s), {ends} error(s), 1 asked of uscore\n")


def test_any_profile_of_its_may_be_demanded(tmp_path: Path, httpserver: HTTPServer) -> None:
    other = Other(httpserver)
    (tmp_path / "a.json").write_bytes(GOOD)
    config = str(configured(tmp_path, other.base))
    asked = ["--config", config, "--with", "uscore", "--profile", PROFILE]
    assert run(str(tmp_path / "a.json"), *asked) == (0, "1 resource(s), 0 error(s), 1 asked of uscore\n")
    assert other.seen == [{"resourceType": "Patient", "meta": {"profile": [PROFILE]}}]


def test_an_unknown_validator_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(GOOD)
    config = str(configured(tmp_path, "http://127.0.0.1:1/fhir"))
    code, told = run(str(tmp_path / "a.json"), "--config", config, "--with", "ips")
    assert (code, "no validator 'ips'; it has uscore" in told) == (1, True)
