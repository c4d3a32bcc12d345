"""The shapes, the table of quirks and its page, and the real process with its options."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc.jwk import ECKey, KeySet

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, definitions, query, validate
from fhir_secondop.sandbox import ehr, quirks
from fhir_secondop.sandbox.quirks import QUIRKS
from tests.conftest import free_port, wait_for
from tests.sandbox.conftest import Farm, codes, document, get, ids, post, send
from tests.sandbox.test_signin import ask, token_url

ROOT = Path(__file__).parent.parent.parent
SHAPES = ROOT / "profiles" / "shapes"
CAPTURED = {"epic": "epic", "oracle": "oracle-health", "athena": "athenahealth", "meditech": "meditech"}
SERVED = {"read", "vread", "history-instance", "create", "update", "delete", "search-type"}


# ---- the table and its page


def rows(head: str) -> list[list[str]]:
    """The cells of the README's table that begins with this head."""
    lines = iter((SHAPES / "README.md").read_text("utf-8").splitlines())
    next(line for line in lines if line.startswith(f"| {head} |"))
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])])
    return found


def test_the_page_describes_every_quirk_as_the_table_does() -> None:
    written = [[f"`{name}`", quirk.value.replace("!", "**must:** "), quirk.says] for name, quirk in QUIRKS.items()]
    assert rows("Quirk") == written


def test_the_page_describes_every_member_of_a_shape() -> None:
    described = {name for row in rows("Member") for name in re.findall(r"`\[?(\w+)\]?`", row[0])}
    used = {name for path in SHAPES.glob("*.toml") for name in tomllib.loads(path.read_text("utf-8"))}
    assert described == used


def test_the_page_describes_every_shape() -> None:
    assert [row[0].strip("`") for row in rows("Shape")] == list(ehr.SHAPES)
    assert {path.stem for path in SHAPES.glob("*.toml")} == set(ehr.SHAPES)


def test_the_command_line_offers_every_shape() -> None:
    from fhir_secondop.cli import main

    command = main.commands["sandbox"].commands["ehr"]  # type: ignore[attr-defined]
    [shape] = [p for p in command.params if p.name == "shape"]
    assert tuple(shape.type.choices) == ehr.SHAPES


def test_every_quirk_is_tested() -> None:
    text = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for name in QUIRKS:
        assert re.search(rf'"{name}["=]', text), name


@pytest.mark.parametrize(("text", "said"), [
    ("no-such", "Unknown quirk no-such"), ("match=3", "takes no value"), ("redirects", "needs a value"),
])  # fmt: skip
def test_a_quirk_that_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        quirks.chosen([text])


def test_a_value_that_is_no_number_is_refused(farm: Farm) -> None:
    with pytest.raises(Invalid, match="must be a number"):
        farm("full", "storm-429=many")


# ---- the shapes


@pytest.mark.shared
@pytest.mark.parametrize("shape", CAPTURED)
def test_a_shape_offers_what_was_captured_as_far_as_we_serve_it(shape: str, shared_data: Path) -> None:
    path = shared_data / "vendor-capability-statements" / f"{CAPTURED[shape]}.json"
    [rest] = json.loads(path.read_text("utf-8"))["rest"]
    facts = tomllib.loads((SHAPES / f"{shape}.toml").read_text("utf-8"))
    captured = {r["type"]: sorted({i["code"] for i in r.get("interaction", [])} & SERVED) for r in rest["resource"]}
    assert facts["types"] == {kind: offered for kind, offered in captured.items() if offered}
    assert ("transaction" in facts["system"]) == ({"code": "transaction"} in rest.get("interaction", []))
    assert facts["conditional_create"] == any(r.get("conditionalCreate") for r in rest["resource"])
    for resource in rest["resource"]:
        known = definitions.search_parameters(resource["type"])
        served = {code for code, parameter in known.items() if parameter.type in query.SUPPORTED_TYPES}
        declared = {p["name"] for p in resource.get("searchParam", [])} & served
        assert set(facts["search"].get(resource["type"], ())) == declared, resource["type"]


@pytest.mark.parametrize("shape", [s for s in ehr.SHAPES if s != "dead"])
def test_a_shape_declares_what_its_file_says(farm: Farm, shape: str) -> None:
    base = farm(shape)
    statement = codec.parse(get(base, "metadata").content)
    assert validate.validate(statement) == []
    facts = tomllib.loads((SHAPES / f"{shape}.toml").read_text("utf-8"))
    declared = {r["type"]: r for r in statement["rest"][0]["resource"]}
    if "types" in facts:
        assert {t: [i["code"] for i in r["interaction"]] for t, r in declared.items()} == facts["types"]
        for kind, resource in declared.items():
            if "search-type" in facts["types"][kind]:
                named = {p["name"] for p in resource["searchParam"]}
                assert named == set(facts["search"].get(kind, ())), kind
    assert ids(get(base, "Observation?patient=1")) == ["o1", "o2", "o3", "o4", "o5"]


def test_a_parameter_that_a_shape_does_not_declare_is_refused(farm: Farm) -> None:
    base = farm("oracle")
    assert get(base, "DocumentReference?patient=1&type=11488-4").status_code == 200
    assert get(base, "DocumentReference?identifier=x").status_code == 422
    lenient = get(base, "DocumentReference?patient=1&identifier=x", headers={"Prefer": "handling=lenient"})
    assert ids(lenient) == ["d"]


def test_an_epic_shaped_ehr_takes_a_text_note_on_an_encounter(farm: Farm) -> None:
    base = farm("epic")
    assert post(base, document()).status_code == 201
    assert post(base, {k: v for k, v in document().items() if k != "context"}).status_code == 422
    encounter = {"resourceType": "Encounter", "status": "planned", "class": {"code": "AMB"}}
    assert post(base, encounter).status_code == 400


def test_an_oracle_shaped_ehr_takes_a_document_and_forgets_what_it_does_not_know(farm: Farm) -> None:
    base = farm("oracle")
    made = post(base, document(), If_None_Exist="identifier=urn:ours|v1")
    assert made.status_code == 201
    assert "identifier" not in made.json()
    assert post(base, {**document(), "docStatus": "preliminary"}).status_code == 422
    path = f"DocumentReference/{made.json()['id']}"
    assert send("PUT", base, path, made.json()).status_code == 412
    assert send("PUT", base, path, made.json(), If_Match=made.headers["ETag"]).status_code == 200
    assert get(base, path, "application/xml").content == b""


@pytest.mark.parametrize("shape", ["athena", "meditech", "read-only"])
def test_the_others_take_no_document(farm: Farm, shape: str) -> None:
    base = farm(shape)
    assert post(base, document()).status_code == 400
    answers = {"resourceType": "QuestionnaireResponse", "status": "completed"}
    assert post(base, answers).status_code == (400 if shape == "read-only" else 201)


# ---- the process


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """run("--shape", "full", …) → (base, process) of the real command."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[str, subprocess.Popen[str]]:
        port = str(free_port())
        command = [sys.executable, "-m", "fhir_secondop.cli", "sandbox", "ehr", "--port", port, *words]
        process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        started.append(process)
        return f"http://127.0.0.1:{port}/fhir", process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_command_starts_an_ehr_with_quirks_records_and_sign_in(run: Any, tmp_path: Path) -> None:
    key = ECKey.generate_key("P-384", parameters={"kid": "e1"})
    (tmp_path / "jwks.json").write_text(json.dumps(KeySet([key]).as_dict(private=False)))
    records = ROOT / "examples/breast-treatment-plan/records/riverside.json"
    base, process = run("--shape", "epic", "--quirk", "policy-denial=Goal", "--quirk", "more-data",
                        "--load", str(records), "--auth", "smart", "--client", "us=jwks.json")  # fmt: skip
    wait_for(base.replace("/fhir", "/healthz"), process)
    assert get(base, "Patient/1").status_code == 401
    from tests.sandbox.test_signin import assertion

    answer = ask(base, assertion(base, key, iss="us", sub="us"), "system/*.rs")
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    assert "4127" in codes(get(base, "Condition?patient=1", headers=headers))
    assert codes(get(base, "Goal?patient=1", headers=headers)) == {"forbidden", "4130"}
    assert requests.get(token_url(base), timeout=10).status_code == 405


def test_the_command_starts_a_dead_ehr(run: Any) -> None:
    base, process = run("--shape", "dead")
    wait_for(base.replace("/fhir", "/healthz"), process)
    with pytest.raises(requests.ConnectionError):
        get(base, "metadata")


@pytest.mark.parametrize(("words", "said"), [
    (("--quirk", "no-such"), "Unknown quirk no-such"), (("--auth", "basic"), "needs a secret file"),
    (("--auth", "smart"), "needs a client"), (("--auth", "bearer", "--secret-file", "none"), "No such file"),
])  # fmt: skip
def test_an_option_that_makes_no_sense_is_one_line(run: Any, words: tuple[str, ...], said: str) -> None:
    _, process = run("--shape", "full", *words)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said in errors
    assert len(errors.splitlines()) == 1
