"""A word planted in the first opinion, asked for by everything that is registered: route, search, operation, page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir import codec, definitions
from fhir_secondop.opinion import workflow
from fhir_secondop.rest import published
from fhir_secondop.store import resources, tables
from tests.access.combinations.model import BODIES, ROUTES
from tests.service.test_blinding import LUMP, PLANTED, READ, planted_record, planted_request
from tests.service.test_review import example
from tests.service.world import opened
from tests.web.pages.conftest import Clinic

Asked = tuple[str, str, Any]
# As it stands in the file of a letter, when that is read as a Binary.
IN_BASE64 = base64.b64encode(f"Plan: {PLANTED}".encode()).decode()[:-4]
_NOT_ASKED = {"/sign-out", "/sign-in", "/sign-in/callback", "/sign-in/again"}
# These end the blind read, or the review; asked last they would be of no use to what follows.
_ENDING = {"first-read", "break-blind", "withdraw", "decline"}


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as world:
        world.ehr("lakeside", record=planted_record())
        yield Clinic(world)


def everything(clinic: Clinic, case_id: str) -> Iterator[Asked]:
    """(method, path, body) of all that can be asked about a case, whoever may be answered."""
    rows = resources.rows().where(tables.resource.c.case_id.startswith(case_id))
    with clinic.world.context.database.reading() as connection:
        held = [resources.stored(row) for row in connection.execute(rows)]
    for one in held:
        for path in ("", "/_history", f"/_history/{one.version}", "/_history/1"):
            yield "GET", f"/fhir/{one.type}/{one.id}{path}", None
        if one.type == "Task":
            for path in ("deliveries", "confirm"):
                yield "GET", f"/cases/{case_id}/{path}/{one.id}", None
        for place in range(3):
            yield "GET", f"/cases/{case_id}/files/{one.type}/{one.id}/{place}", None
    for kind in sorted({one.type for one in held}):
        yield "GET", f"/fhir/{kind}", None
        for code, parameter in definitions.search_parameters(kind).items():
            for value in (f"={PLANTED}", f"={LUMP['code']}", ":missing=false", ":missing=true", f":text={PLANTED}"):
                yield "GET", f"/fhir/{kind}?{code}{value}", None
            if parameter.type == "reference":
                for one in held:
                    if one.type in ("Condition", "CarePlan", "ServiceRequest"):
                        yield "GET", f"/fhir/{kind}?{code}={one.type}/{one.id}", None
    yield from _through(held)
    for each in published.ROWS:
        of_type = [one.id for one in held if one.type == each.type]
        if each.on_instance:
            yield from (("GET", f"/fhir/{each.type}/{id_}/${each.code}", None) for id_ in of_type)
        if each.on_type:
            patients = "&".join(f"patient={one.id}" for one in held if one.type == "Patient")
            for asked in ("", f"?{patients}", "?_type=Condition,CarePlan,ServiceRequest"):
                yield "GET", f"/fhir/{each.type}/${each.code}{asked}", None
    for row in clinic.world.service.operations:
        if row.type == "ServiceRequest" and row.code not in _ENDING:
            yield "GET", f"/fhir/ServiceRequest/{case_id}/${row.code}", None
            for method in ("GET", "POST"):
                yield method, f"/api/second-opinions/{case_id}/{row.code}", BODIES.get(row.code, {})
    for rule in ROUTES:
        if "<t" not in rule and rule not in _NOT_ASKED:
            yield "GET", rule.replace("<case_id>", case_id), None
    for stage in ("", "?stage=review", "?stage=asked"):
        yield "GET", f"/{stage}", None


def _through(held: list[resources.Stored]) -> Iterator[Asked]:
    """Histories, what comes along, orders, parts, compartments, several types at once, batches."""
    kinds = sorted({one.type for one in held})
    for kind in kinds:
        yield "GET", f"/fhir/{kind}/_history", None
        for asked in ("_include=*", "_summary=text", "_summary=data", "_total=accurate"):
            yield "GET", f"/fhir/{kind}?{asked}", None
        for code, parameter in definitions.search_parameters(kind).items():
            if parameter.type not in ("composite", "special"):
                yield "GET", f"/fhir/{kind}?_sort=-{code}", None
            for other in kinds if parameter.type == "reference" else ():
                yield "GET", f"/fhir/{other}?_revinclude={kind}:{code}", None
                if other in parameter.targets and "code" in definitions.search_parameters(other):
                    yield "GET", f"/fhir/{kind}?{code}:{other}.code:text={PLANTED}", None
    for one in held:
        if one.type == "Patient":
            for path in ("*", *kinds):
                yield "GET", f"/fhir/Patient/{one.id}/{path}", None
    for path in (f"?_type={','.join(kinds)}&_lastUpdated=ge2000", "/_history"):
        yield "GET", f"/fhir{path}", None
    for start in range(0, len(held), 20):
        urls = [f"{one.type}/{one.id}" for one in held[start : start + 20]] + [f"{kind}?_count=50" for kind in kinds]
        entries = [{"request": {"method": "GET", "url": url}} for url in urls]
        yield "POST", "/fhir", {"resourceType": "Bundle", "type": "batch", "entry": entries}


def found(clinic: Clinic, case_id: str, method: str, path: str, body: Any) -> bool:
    """Whether an answer has the word, in its text or in its headers."""
    if path.startswith(("/fhir", "/api")):
        answer = clinic.world.call(method, path, body if method == "POST" else None, "reviewer")
    else:
        answer = clinic.get(path, "reviewer")
    assert answer.status_code < 500, path
    # What was asked stands in the answer's links: that is the asker's word.
    said = (answer.get_data().decode("utf-8", "replace") + str(answer.headers)).replace(
        path.partition("?")[2] or "\0", ""
    )
    said = said.replace(f"={PLANTED}", "").replace(f"={PLANTED.upper()}", "")
    return PLANTED in said or IN_BASE64 in said


def test_the_first_opinion_is_in_no_answer_until_the_first_read_is_locked(clinic: Clinic) -> None:
    world = clinic.world
    answer = world.call("POST", "/api/second-opinions",
                        {**planted_request(), "sources": ["lakeside"], "blindFirst": True})  # fmt: skip
    case_id = answer.get_json()["id"]
    world.work()
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None."}, "reviewer")

    asked = list(everything(clinic, case_id))
    told = [(method, path) for method, path, body in asked if found(clinic, case_id, method, path, body)]
    assert told == []
    assert len(asked) > 2000

    world.post(case_id, "first-read", READ, "reviewer")
    missing = {"/fhir", "/api", "/cases", "/", "review", "$everything", "$summary"}
    # From the end, where the pages and the operations stand: what is asked for is soon found.
    for method, path, body in reversed(list(everything(clinic, case_id))):
        if found(clinic, case_id, method, path, body):
            missing -= _places(path)
        if not missing:
            break
    assert missing == set()


def _places(path: str) -> set[str]:
    """Where an answer was found: the first part of its path, the page of the review, a FHIR operation."""
    path = path.partition("?")[0]
    first = f"/{path.split('/')[1]}"
    places = {first}
    if "/cases/" in path and path.endswith("/review"):
        places.add("review")
    if first == "/fhir" and "$" in path:
        places.add(f"${path.rpartition('$')[2]}")
    return places


def test_no_write_tells_a_blind_reader_whether_the_word_is_there(clinic: Clinic) -> None:
    """A patch's test, and the criteria of an update, a patch and a deletion: answered as if another word was asked."""
    world = clinic.world
    answer = world.call("POST", "/api/second-opinions",
                        {**planted_request(), "sources": ["lakeside"], "blindFirst": True})  # fmt: skip
    case_id = answer.get_json()["id"]
    world.work()
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    world.post(case_id, "accept", {"declaration": {"interests": "none"}, "attestation": "None."}, "reviewer")
    rows = resources.rows().where(tables.resource.c.case_id.startswith(case_id))
    with world.context.database.reading() as connection:
        held = [resources.stored(row) for row in connection.execute(rows)]

    def told(method: str, path: str, body: Any, word: str) -> tuple[int, str]:
        kind = "application/json-patch+json" if method == "PATCH" else "application/fhir+json"
        said = world.client.open(
            path.replace(PLANTED, word), method=method, content_type=kind,
            data=codec.dumps(body).replace(PLANTED, word) if body is not None else None,
            headers={"Authorization": "Bearer reviewer"},
        )  # fmt: skip
        return said.status_code, said.get_data(as_text=True).replace(word, "WORD")

    asked: list[tuple[str, str, Any]] = []
    for one in held:
        text = one.text
        for pointer, value in _strings(one.resource):
            if PLANTED in value:
                test = [{"op": "test", "path": pointer, "value": value}]
                asked.append(("PATCH", f"/fhir/{one.type}/{one.id}", test))
        if PLANTED in text:
            for criteria in (f"_id={one.id}&code:text={PLANTED}", f"code:text={PLANTED}"):
                path = f"/fhir/{one.type}?{criteria}"
                asked += [("PUT", path, one.resource), ("DELETE", path, None), ("PATCH", path, [])]
    assert len([one for one in asked if "?" not in one[1]]) > 3
    differ = [(method, path) for method, path, body in asked
              if told(method, path, body, PLANTED) != told(method, path, body, "Quux")]  # fmt: skip
    assert differ == []


def _strings(value: Any, pointer: str = "") -> Iterator[tuple[str, str]]:
    """(JSON pointer, string) of each string in a resource."""
    if isinstance(value, str):
        yield pointer, value
    for key, child in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        yield from _strings(child, f"{pointer}/{key}")


def test_a_reviewer_reads_blind_and_locks_by_forms_alone(clinic: Clinic) -> None:
    world = clinic.world
    answer = world.call("POST", "/api/second-opinions",
                        {**planted_request(), "sources": ["lakeside"], "blindFirst": True})  # fmt: skip
    case_id = answer.get_json()["id"]
    world.work()
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    case = f"/cases/{case_id}"
    assert "read blind first" in clinic.text(case, "reviewer")
    clinic.send(case, f"{case}/do/accept", "reviewer", **{"declaration.interests": "none", "attestation": "None."})
    assert clinic.get(f"{case}/review", "reviewer").headers["Location"] == f"{case}/first-read"
    shown = clinic.text(f"{case}/first-read", "reviewer")
    assert "18 mm" in shown
    assert "Core biopsy" in shown
    sent = clinic.send(f"{case}/first-read", f"{case}/do/first-read", "reviewer", assessment="Small tumour.",
                       diagnoses="Ductal carcinoma\nLobular carcinoma", plan="Excise.")  # fmt: skip
    assert sent.status_code == 303
    assert PLANTED in clinic.text(f"{case}/review", "reviewer")
    (read,) = [r for r in world.call("GET", "/fhir/ClinicalImpression", who="reviewer").get_json()["entry"]
               if "summary" in r["resource"] and r["resource"]["summary"] == "Small tumour."]  # fmt: skip
    assert [f["itemCodeableConcept"]["text"] for f in read["resource"]["finding"]] == [
        "Ductal carcinoma", "Lobular carcinoma"]  # fmt: skip
    assert clinic.get(f"{case}/first-read", "reviewer").status_code == 303
    assert workflow.business_status(next(t for t in world.package(case_id, "Task") if workflow.is_coordination(t)))


def test_the_coordinator_switches_it_on_and_off_by_forms_until_somebody_is_asked(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.gathered(sources=["lakeside"])
    case, do = f"/cases/{case_id}", f"/cases/{case_id}/do/blind-first"
    assert clinic.send(case, do, "desk").status_code == 303
    assert "It is read blind first" in clinic.text(case)
    assert do not in clinic.forms(case, "surgeon")
    assert clinic.send(case, do, "desk").status_code == 303
    assert "Have it read blind first" in clinic.text(case)
    clinic.send(case, do, "desk")
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    assert do not in clinic.forms(case)
    assert "withheld until the first read is locked" in clinic.text(case, "reviewer")
    assert "withheld until the first read is locked" not in clinic.text(case)
