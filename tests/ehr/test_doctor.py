"""What doctor says of each simulated EHR: by signing in and reading, never by writing."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pytest_httpserver import HTTPServer

from fhir_secondop import cli
from fhir_secondop.ehr import doctor, vendors
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.client import Client
from fhir_secondop.model import Connection
from tests.ehr.conftest import RECORDS, Ehrs, client_of
from tests.ehr.resolving import Plugs, Resolver

TODAY = date(2026, 11, 25)
NO_HL7 = "no HL7 v2 interface is configured"
# shape → (vendor, the rung, what is not possible above it)
PLANS = {
    "full": ("hapi", 1, []),
    "epic": ("epic", 5, ["no transactions", "takes plain text only", "takes plain text only",
                         "no create of DiagnosticReport"]),
    "oracle": ("oracle-health", 3, ["no transactions", "no conditional create of DocumentReference"]),
    "athena": ("athenahealth", 10, ["no transactions", "no create of DocumentReference",
                                    "no create of DocumentReference", "no create of DiagnosticReport",
                                    "no create of DocumentReference", "no create of Communication",
                                    NO_HL7]),
    "meditech": ("meditech", 10, ["no transactions", "no create of DocumentReference",
                                  "no create of DocumentReference", "no create of DiagnosticReport",
                                  "no create of DocumentReference",
                                  "create of Communication is declared, and not for such as us", NO_HL7]),
    "read-only": ("generic", 10, ["no transactions", "no create of DocumentReference",
                                  "no create of DocumentReference", "no create of DiagnosticReport",
                                  "no create of DocumentReference", "no create of Communication", NO_HL7]),
}  # fmt: skip


@pytest.mark.parametrize("shape", PLANS)
def test_each_shape_has_its_rung_and_the_reasons(ehrs: Ehrs, shape: str) -> None:
    vendor, rung, reasons = PLANS[shape]
    client = client_of(ehrs(shape, load=(RECORDS / "lakeside.json",)), vendor=vendor, timeout_s=5.0)
    found = doctor.examine(client, TODAY)
    assert found.ok
    plain = found.as_plain()
    assert plain["fhirVersion"] == "4.0.1"
    assert plain["writePlan"]["rung"] == rung
    assert [row["why"] for row in plain["writePlan"]["notPossible"]] == reasons
    assert plain["clock"]["skewS"] is not None
    assert any(row["asked"] for row in plain["read"])


def test_a_dead_ehr_says_so_and_leaves_the_link(ehrs: Ehrs) -> None:
    found = doctor.examine(client_of(ehrs("dead"), timeout_s=1.0), TODAY)
    assert not found.ok
    assert found.plain["writePlan"]["rung"] == 10
    assert "Nothing can be read of it" in found.problems[-1]


def test_nothing_is_written_and_nobody_is_named(httpserver: HTTPServer) -> None:
    searching = [{"code": "search-type"}, {"code": "create"}]
    statement = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": [{
        "mode": "server", "interaction": [{"code": "transaction"}], "resource": [
            {"type": kind, "interaction": searching, "conditionalCreate": True, "searchParam": [{"name": "patient"}]}
            for kind in ("DocumentReference", "DiagnosticReport", "Observation")]}]}  # fmt: skip
    httpserver.expect_request("/fhir/metadata").respond_with_json(statement)
    httpserver.expect_request("/fhir/DocumentReference").respond_with_json({"resourceType": "Bundle"})
    found = doctor.examine(client_of(httpserver.url_for("/fhir")), TODAY)
    assert found.plain["writePlan"]["rung"] == 1
    assert {request.method for request, _ in httpserver.log} == {"GET"}
    assert all("patient" not in request.args for request, _ in httpserver.log)


def test_another_version_of_fhir_a_wrong_clock_and_old_facts_are_problems(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/metadata").respond_with_json(
        {"resourceType": "CapabilityStatement", "fhirVersion": "3.0.2"}
    )
    ours = Client(Connection("there", httpserver.url_for("/fhir"), rate_per_s=0.0), now=lambda: 1_577_836_800_000)
    found = doctor.examine(ours, date(2029, 1, 1))
    assert [p.partition(";")[0].partition(" differ")[0] for p in found.problems] == [
        "Facts of Any other FHIR server were last verified over a year ago",
        "It says that it is FHIR 3.0.2",
        "Its clock and ours",
    ]


def test_scopes_that_were_not_granted_are_named() -> None:
    capability = Capability({"rest": [{"mode": "server", "resource": [
        {"type": "Condition", "interaction": [{"code": "search-type"}]},
        {"type": "Goal", "interaction": [{"code": "search-type"}]},
        {"type": "DocumentReference", "interaction": [{"code": "create"}, {"code": "search-type"}]},
    ]}]})  # fmt: skip
    granted = frozenset({"system/Condition.rs", "system/DocumentReference.read"})
    assert doctor.missing_scopes(capability, granted) == ["system/Goal.rs", "system/DocumentReference.cu"]
    assert doctor.missing_scopes(capability, None) == []


def test_every_fact_of_a_vendor_has_its_age() -> None:
    for name in vendors.names():
        said = doctor.of_vendor(vendors.load(name), TODAY)
        assert said["facts"], name
        assert all(fact["ageDays"] >= 0 and fact["source"] and fact["says"] for fact in said["facts"]), name


# ---- the commands ---------------------------------------------------------------------------------------------


def run(folder: Path, *command: str) -> Any:
    return CliRunner().invoke(cli.main, [*command, "--config", str(folder / "secondop.toml")], catch_exceptions=False)


def test_a_connection_is_added_examined_and_removed(ehrs: Ehrs, tmp_path: Path) -> None:
    (tmp_path / "secondop.toml").write_text("# ours\nport = 8100  # kept\n")
    base = ehrs("oracle", load=(RECORDS / "lakeside.json",))
    added = run(
        tmp_path, "connect", "add", "there", "--base", base, "--vendor", "oracle-health", "--set", "timeout_s=5.0"
    )
    assert added.exit_code == 0, added.output
    assert "doctor there" in added.output
    text = (tmp_path / "secondop.toml").read_text()
    assert "# ours\nport = 8100  # kept" in text
    assert json.loads(run(tmp_path, "connect", "list", "--json").output)["connections"][0]["vendor"] == "oracle-health"
    said = run(tmp_path, "doctor", "there")
    assert "deliver on  rung 3: DocumentReference with PDF" in said.output
    plan = json.loads(run(tmp_path, "doctor", "there", "--write-plan", "--json").output)
    assert plan["writePlan"]["rung"] == 3
    assert run(tmp_path, "connect", "remove", "there").exit_code == 0
    assert json.loads(run(tmp_path, "connect", "list", "--json").output)["connections"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base", "ftp://a"), "base must be an http(s) URL"),
        (("--base", "http://a", "--vendor", "nobody"), "There is no vendor 'nobody'"),
        (("--base", "http://a", "--auth", "bearer"), "secret_file must name the file"),
        (("--base", "http://a", "--auth", "smart"), "client_id is needed"),
        (("--base", "http://a", "--set", "surprise=1"), "surprise is unknown"),
    ],
)
def test_a_wrong_turn_is_told_and_writes_nothing(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    refused = run(tmp_path, "connect", "add", "there", *options)
    assert (refused.exit_code, said in refused.output) == (1, True), refused.output
    assert not (tmp_path / "secondop.toml").exists()


def test_a_dead_ehr_makes_doctor_fail(ehrs: Ehrs, tmp_path: Path) -> None:
    run(tmp_path, "connect", "add", "gone", "--base", ehrs("dead"), "--set", "timeout_s=1.0")
    said = run(tmp_path, "doctor", "gone")
    assert (said.exit_code, "Nothing can be read of it" in said.output) == (1, True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_base_inside_our_walls_is_not_asked_and_the_setting_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    Resolver(monkeypatch).answers["ehr.example"] = [["10.20.30.40"]]
    plugs = Plugs(monkeypatch)
    run(tmp_path, "connect", "add", "there", "--base", f"{scheme}://ehr.example/fhir")
    said = run(tmp_path, "doctor", "there")
    assert said.exit_code == 1
    assert "! Not allowed: there: the host is at a private address" in said.output
    assert "setting networks" in said.output
    assert "could not be checked" not in said.output
    assert plugs.to == []
    found = json.loads(run(tmp_path, "doctor", "there", "--json").output)
    assert (found["ok"], found["writePlan"]["rung"], len(found["problems"])) == (False, 10, 1)


def test_a_network_is_added_with_the_connection(ehrs: Ehrs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ehrs("oracle", load=(RECORDS / "lakeside.json",)).replace("127.0.0.1", "ehr.example")
    Resolver(monkeypatch).answers["ehr.example"] = [["127.0.0.1"]]
    run(tmp_path, "connect", "add", "there", "--base", base, "--set", 'networks=["127.0.0.0/8"]')
    said = run(tmp_path, "doctor", "there")
    assert (said.exit_code, "deliver on" in said.output) == (0, True), said.output
    assert json.loads(run(tmp_path, "connect", "show", "there", "--json").output)["networks"] == ["127.0.0.0/8"]
