"""Gathering the record from simulated EHRs: who the patient is there, what a crash costs, what the manifest names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from werkzeug.wrappers import Response

from fhir_secondop.fhir import refs, times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import records
from fhir_secondop.sandbox.traffic import Asked
from fhir_secondop.service import breaker, collect, gather
from fhir_secondop.service.context import quarantine
from fhir_secondop.store import progress, resources, tables
from tests.service.test_review import example
from tests.service.world import DAY_MS, JSON, Ehr, World, opened, readable, record_of, refusal

Plain = dict[str, Any]
LAB = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On SQLite: what is tried here does not depend on the database."""
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def both(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On both databases: for what stands or falls with a transaction."""
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def person(number: int = 1, **changes: Any) -> Resource:
    """The patient as Lakeside knows her, or (with changes) somebody like her."""
    ours = next(r for r in record_of("lakeside") if r["resourceType"] == "Patient")
    return {**ours, "id": str(number), **changes}


def result(number: int, patient: int = 1, **more: Any) -> Resource:
    """A laboratory result."""
    return {"resourceType": "Observation", "id": f"o{number}", "status": "final", "code": {"text": f"result {number}"},
            "category": [LAB], "subject": {"reference": f"Patient/{patient}"}, **more}  # fmt: skip


def gathering(world: World, case_id: str) -> Plain:
    """The newest gathering Task of a case with one source, as its status shows it."""
    found: Plain = world.get(case_id)["gathering"][-1]
    return found


def copies(world: World, case_id: str) -> dict[str, tuple[int, Resource]]:
    """Source URL without version → version and content of each copy from an EHR that is no Binary."""
    with world.context.database.reading() as connection:
        stored = resources.in_case(connection, case_id)
    return {
        s.meta["source"].partition("/_history/")[0].partition("/fhir/")[2]: (s.version, s.resource)
        for s in stored
        if s.owner.startswith(resources.SOURCE) and s.type != "Binary"
    }


def searched(ehr: Ehr) -> Counter[str]:
    """How often each type was searched."""
    return Counter(a.type for a in ehr.asked("search") if a.type != "Patient")


# ---- who the patient is


def without_identifier_there(**changes: Any) -> dict[str, Any]:
    """A request whose patient has no identifier of Lakeside's, and Lakeside as the only source."""
    patient = example("request.json")["patient"]
    known = [i for i in patient["identifier"] if "lakeside" not in i["system"]]
    return {"patient": {**patient, "identifier": known, **changes}, "sources": ["lakeside"]}


OTHER_CONTACT = {"telecom": [{"system": "phone", "value": "+1-202-555-0199"}]}


def test_candidates_by_name_alone_wait_for_the_coordinator_who_alone_sees_them(both: World) -> None:
    world = both
    ehr = world.ehr("lakeside", record=[person(**OTHER_CONTACT), result(1)])
    case_id = world.gathered(**without_identifier_there())
    world.accept(case_id)
    waiting = gathering(world, case_id)
    assert waiting["status"] == "on-hold"
    assert "candidates" in waiting["why"]
    assert [a for a in ehr.seen if a.type == "Observation"] == []  # nothing is read of somebody who may be another
    task = {"task": waiting["task"]}

    said = world.post(case_id, "candidates", task)
    (candidate,) = said["candidates"]
    assert (candidate["id"], candidate["name"]) == ("1", said["ours"]["name"])
    assert {"family name", "given name", "birth date", "gender"} <= set(candidate["agrees"])
    assert candidate["differs"] == ["phone"]
    for who in ("reviewer", "pcp", "clinic"):
        world.post(case_id, "candidates", task, who, status=403)
        world.post(case_id, "confirm-patient", {**task, "patient": "1"}, who, status=403)
    world.post(case_id, "candidates", task, "stranger", status=403)
    for who in ("reviewer", "pcp"):
        assert "555-0199" not in readable(world, case_id, who)

    world.post(case_id, "confirm-patient", {**task, "patient": "7"}, status=422)
    assert world.post(case_id, "confirm-patient", {**task, "patient": "1"})["status"] == "accepted"
    world.post(case_id, "confirm-patient", {**task, "patient": "1"}, status=409)
    assert world.work() == ["gathered"]
    assert gathering(world, case_id)["status"] == "completed"
    assert set(copies(world, case_id)) == {"Patient/1", "Observation/o1", "Organization/1", "Practitioner/5"} & set(
        copies(world, case_id)
    ) | {"Patient/1", "Observation/o1"}
    # Who said so stands in the case; the candidates' pages are gone.
    assert any("who the patient is there" in json.dumps(p) for p in world.package(case_id, "Provenance"))
    world.post(case_id, "candidates", task, status=409)


def apart(world: World, case_id: str) -> list[str]:
    """What is kept apart from a case, as references."""
    with world.context.database.reading() as connection:
        return [f"{s.type}/{s.id}" for s in resources.in_case(connection, quarantine(case_id))]


def test_none_of_the_candidates_ends_it_and_the_manifest_says_so(world: World) -> None:
    ehr = world.ehr("lakeside", record=[person(**OTHER_CONTACT), result(1)])
    case_id = world.gathered(**without_identifier_there())
    task = gathering(world, case_id)["task"]
    assert apart(world, case_id) != []
    world.post(case_id, "confirm-patient", {"task": task, "patient": "none"})
    assert world.work() == ["ended"]
    assert gathering(world, case_id)["status"] == "failed"
    assert apart(world, case_id) == []  # they are nobody's business any more
    line = world.manifest(case_id, "Lakeside")["*"]
    assert (line["outcome"], line["received"]) == ("not-asked", 0)
    assert "none of the candidates" in line["detail"]
    assert "lakeside-specimen-hospital/*" in world.get(case_id, "completeness")["gaps"]
    # Neither is the report sent to somebody else's chart, nor is it asked once more who they are.
    world.sign(case_id)
    world.work()
    held = world.delivery(case_id, "Mockridge")
    assert (held["status"], ehr.written) == ("on-hold", [])
    assert "none of the candidates" in held["why"]


def test_of_two_alike_neither_is_taken_without_a_person(world: World) -> None:
    twin = person(2, name=[{"family": "Sampleton", "given": ["Marena"]}], birthDate="1971-04-17")
    world.ehr("lakeside", record=[person(**OTHER_CONTACT), twin, result(1), result(2, patient=2)])
    case_id = world.gathered(**without_identifier_there())
    task = gathering(world, case_id)["task"]
    said = world.post(case_id, "candidates", {"task": task})["candidates"]
    assert [(c["id"], "given name" in c["differs"]) for c in said] == [("1", False), ("2", True)]
    world.post(case_id, "confirm-patient", {"task": task, "patient": "1"})
    world.work()
    assert "Observation/o1" in copies(world, case_id)
    assert "Observation/o2" not in copies(world, case_id)
    for who in ("reviewer", "pcp", "clinic"):
        assert "Marena" not in readable(world, case_id, who)


def test_with_phone_name_birth_date_and_gender_nobody_is_asked(world: World) -> None:
    world.ehr("lakeside", record=[person(), result(1)])
    case_id = world.gathered(**without_identifier_there())
    assert gathering(world, case_id)["status"] == "completed"


def test_a_record_merged_into_another_waits_for_a_person(world: World) -> None:
    merged = person(1, link=[{"other": {"reference": "Patient/9"}, "type": "replaced-by"}])
    world.ehr("lakeside", record=[person(9, identifier=[]), merged, result(1)])
    case_id = world.gathered(sources=["lakeside"])
    waiting = gathering(world, case_id)
    assert waiting["status"] == "on-hold"
    assert "merged" in waiting["why"]
    assert copies(world, case_id) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"active": False}, "inactive"),
        ({"link": [{"other": {"reference": "Patient/9"}, "type": "replaced-by"}]}, "merged"),
    ],
)
def test_a_merged_or_inactive_patient_stops_the_push_until_that_is_mended(
    world: World, change: Plain, said: str
) -> None:
    ehr = world.ehr("lakeside", record=[person(), person(9, identifier=[]), result(1)])
    case_id = world.signed(sources=["lakeside"])
    ehr.put(person(**change))
    world.work()
    held = world.delivery(case_id, "Mockridge")
    assert (held["status"], ehr.written) == ("on-hold", [])
    assert said in held["why"]

    ehr.put(person(link=[]) if "link" in change else person())
    world.post(case_id, "replay", {"task": held["task"], "changed": "The record there was mended."})
    assert world.work() == ["verified"]
    assert len(ehr.documents) == 1


def test_who_was_confirmed_for_a_delivery_gets_it(world: World) -> None:
    twin = person(2, identifier=[], name=[{"family": "Sampleton", "given": ["Marena"]}])
    ehr = world.ehr("lakeside", record=[twin, person(3, identifier=[], **OTHER_CONTACT)])
    case_id = world.open(**{**without_identifier_there(), "sources": ["riverside"]})
    world.work()
    world.sign(case_id)
    world.work()
    held = world.delivery(case_id, "Mockridge")
    assert held["status"] == "on-hold"
    said = world.post(case_id, "candidates", {"task": held["task"]})
    assert {c["id"] for c in said["candidates"]} == {"2", "3"}
    world.post(case_id, "confirm-patient", {"task": held["task"], "patient": "3"})
    assert world.work() == ["verified"]
    assert [d["subject"]["reference"] for d in ehr.documents] == ["Patient/3"]


# ---- what a crash costs


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of the program catches it."""


def kill_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Dies when the part after so many is finished, in the transaction that would write it down."""
    real, done = progress.finish, 0

    def finish(tx: Any, task_id: str, said: dict[str, Any]) -> None:
        nonlocal done
        done += len(said)
        if done > parts:
            raise Killed
        real(tx, task_id, said)

    monkeypatch.setattr(progress, "finish", finish)


@pytest.mark.parametrize("parts", [0, 9, 19, 20])
def test_a_gathering_that_was_killed_goes_on_with_what_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    one_by_one(world.monkeypatch)
    ehr = world.ehr("lakeside", concurrency=1)
    case_id = world.open(sources=["lakeside"])
    with monkeypatch.context() as killing:
        kill_after(killing, parts)
        with pytest.raises(Killed):
            world.work()
    before = searched(ehr)
    files = len(ehr.asked("read", "Binary"))
    ehr.seen.clear()

    world.start()
    task = case_of(world, case_id)
    assert gather.begin(world.context, task)[0] == "1"
    gather.fetch(world.context, task, "1", 1)
    again = searched(ehr)
    # Only the type under way when it died is asked twice.
    assert len(set(before) & set(again)) <= 1
    assert len(set(before) | set(again)) == 19
    assert sum((before + again).values()) <= 20
    assert files + len(ehr.asked("read", "Binary")) <= 2
    assert gather.merge(world.context, task, "1", collect.patient_page(task), 1) == task
    assert sum((before + again).values()) <= 20  # merging asks nothing more
    assert len(copies(world, case_id)) == len({(r["resourceType"], r["id"]) for r in reachable("lakeside")})
    assert world.manifest(case_id, "Lakeside")["Observation"]["received"] == 23
    # Its notes about parts are gone with its end.
    with world.context.database.reading() as connection:
        left = connection.execute(sa.select(sa.func.count()).select_from(tables.gathered_part)).scalar_one()
    assert left == 0


def test_files_that_were_fetched_before_it_was_killed_are_not_fetched_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)
    ehr = world.ehr("lakeside", record=letters(5), concurrency=1)
    case_id = world.open(sources=["lakeside"])
    with monkeypatch.context() as killing:
        kill_after(killing, 19 + 1 + 3)  # the types, what the patient cites, three of the files
        with pytest.raises(Killed):
            world.work()
    assert len(ehr.asked("read", "Binary")) == 4
    world.start()
    task = case_of(world, case_id)
    patient, page = gather.begin(world.context, task)
    gather.fetch(world.context, task, patient, 1)
    gather.merge(world.context, task, patient, page, 1)
    assert [a.id for a in ehr.asked("read", "Binary")] == ["b0", "b1", "b2", "b3", "b3", "b4"]
    assert world.manifest(case_id, "Lakeside")["Attachment"]["received"] == 5


def test_a_gathering_that_was_killed_while_it_merged_merges_once(both: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = both
    ehr = world.ehr("lakeside")
    case_id = world.open(sources=["lakeside"])
    with monkeypatch.context() as killing:
        killing.setattr(progress, "forget", _dies)
        with pytest.raises(Killed):
            world.work()
    assert copies(world, case_id) == {}
    asked = len(ehr.seen)
    world.start()
    task = case_of(world, case_id)
    patient, page = gather.begin(world.context, task)
    gather.fetch(world.context, task, patient, 1)
    for _ in range(2):  # a step may run twice
        gather.merge(world.context, task, patient, page, 1)
    assert {a.type for a in ehr.seen[asked:]} <= {"metadata", "Patient"}
    assert {version for version, _ in copies(world, case_id).values()} == {1}
    assert len(world.package(case_id, "List")) == 1


def _dies(*_: Any) -> None:
    raise Killed


class _OneByOne:
    """One thread, which a death of the process ends with it."""

    def __init__(self, workers: int) -> None: ...

    def __enter__(self) -> _OneByOne:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        return map(function, items)

    def submit(self, function: Callable[..., Any], *given: Any) -> _Later:
        return _Later(function, given)


@dataclass(frozen=True)
class _Later:
    """Runs when its result is asked for."""

    function: Callable[..., Any]
    given: tuple[Any, ...]

    def result(self) -> Any:
        return self.function(*self.given)

    def cancel(self) -> None: ...


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the caller's own thread; with a concurrency of 1 each type is stored before the next is asked for."""
    monkeypatch.setattr(collect, "ThreadPoolExecutor", _OneByOne)
    monkeypatch.setattr(collect, "wait", lambda under_way, **_: SimpleNamespace(done=list(under_way)[:1]))


def case_of(world: World, case_id: str) -> str:
    """The id of the case's newest gathering Task."""
    return str(gathering(world, case_id)["task"]).partition("/")[2]


def reachable(name: str) -> list[Resource]:
    """What can be gathered of an example's EHR: what is about the patient, and what that cites."""
    record = {f"{r['resourceType']}/{r['id']}": r for r in record_of(name)}
    found = {k: r for k, r in record.items() if records.is_about(r, "1", "") and r["resourceType"] not in _CITED}
    todo = list(found.values())
    while todo:
        for ref in refs.find(todo.pop()):
            if ref in record and ref not in found and record[ref]["resourceType"] in _CITED:
                found[ref] = record[ref]
                todo.append(record[ref])
    return [r for r in found.values() if r["resourceType"] != "Binary"]


_CITED = ("Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Binary")


# ---- gathering again


def test_gathering_again_asks_for_what_changed_where_that_can_be_asked(both: World) -> None:
    world = both
    full = world.ehr("lakeside")
    epic = world.ehr("riverside", "epic", vendor="epic")
    case_id = world.gathered()
    before = copies(world, case_id)
    listed = list_entries(world, case_id, "Lakeside")
    changed = {**next(r for r in record_of("lakeside") if (r["resourceType"], r["id"]) == ("Observation", "5"))}
    changed["note"] = [{"text": "Corrected."}]
    full.put(changed)
    full.put(result(99))
    full.seen.clear()
    epic.seen.clear()

    world.post(case_id, "gather")
    assert world.work() == ["gathered", "gathered"]
    sinces = {a.type: dict(a.query).get("_lastUpdated", "") for a in full.asked("search") if a.type != "Patient"}
    assert len(sinces) == 19
    assert all(value.startswith("ge20") for value in sinces.values()), sinces
    assert {dict(a.query).get("_lastUpdated") for a in epic.asked("search")} == {None}  # it does not declare it
    after = copies(world, case_id)
    assert set(after) - set(before) == {"Observation/o99"}
    assert {key for key in before if after[key] != before[key]} == {"Observation/5"}
    assert after["Observation/5"][0] == 2
    assert after["Observation/5"][1]["note"] == [{"text": "Corrected."}]
    assert after["Observation/5"][1]["id"] == before["Observation/5"][1]["id"]
    assert after["Observation/5"][1]["subject"] == before["Observation/5"][1]["subject"]
    line = world.manifest(case_id, "Lakeside")["Observation"]
    assert (line["outcome"], line["received"]) == ("answered", 2)
    assert times.interval(line["since"]).low == times.interval(sinces["Observation"].removeprefix("ge")).low
    # Nothing of what was had before has left the package.
    assert listed < list_entries(world, case_id, "Lakeside")
    assert len(list_entries(world, case_id, "Lakeside")) == len(listed) + 1


def list_entries(world: World, case_id: str, source: str) -> set[str]:
    """What the package of a source lists."""
    (found,) = [p for p in world.package(case_id, "List") if p.get("title", "").startswith(source)]
    return {e["item"]["reference"] for e in found["entry"]}


def test_a_type_answered_in_part_is_asked_for_in_full_again(world: World) -> None:
    ehr = world.ehr("lakeside", record=[person(), *(result(n) for n in range(70))])
    ehr.instead = lambda a: refusal(500) if a.following else None
    case_id = world.gathered(sources=["lakeside"])
    assert world.manifest(case_id, "Lakeside")["Observation"]["outcome"] == "truncated"
    ehr.instead = lambda a: None
    ehr.seen.clear()
    world.post(case_id, "gather")
    world.work()
    first = next(a for a in ehr.asked("search", "Observation"))
    assert "_lastUpdated" not in dict(first.query)
    line = world.manifest(case_id, "Lakeside")["Observation"]
    assert (line["outcome"], line["received"], line["since"]) == ("answered", 70, "")
    assert sum(key.startswith("Observation/") for key in copies(world, case_id)) == 70


def test_what_could_not_be_read_the_first_time_is_read_when_gathering_again(world: World) -> None:
    ehr = world.ehr("lakeside")
    gone = ("Practitioner/3", "Binary/1")
    ehr.instead = lambda a: refusal(404) if f"{a.type}/{a.id}" in gone else None
    case_id = world.gathered(sources=["lakeside"])
    first = world.manifest(case_id, "Lakeside")
    assert first["Practitioner"]["unresolved"] == 1
    assert (first["Attachment"]["outcome"], first["Attachment"]["unresolved"]) == ("failed", 1)

    # Still not there: what is missing does not vanish from the manifest because nothing has changed.
    world.post(case_id, "gather")
    world.work()
    again = world.manifest(case_id, "Lakeside")
    assert again["Practitioner"]["unresolved"] == 1
    assert again["Attachment"]["unresolved"] == 1
    gaps = world.get(case_id, "completeness")["gaps"]
    assert {"lakeside-specimen-hospital/Practitioner", "lakeside-specimen-hospital/Attachment"} <= set(gaps)

    ehr.instead = lambda a: None
    world.post(case_id, "gather")
    world.work()
    last = world.manifest(case_id, "Lakeside")
    assert last["Practitioner"]["unresolved"] == 0
    assert last["Attachment"]["outcome"] == "answered"
    found = copies(world, case_id)
    assert "Practitioner/3" in found
    # What cites them points at our copies now, and at nothing over there.
    assert not [key for key, (_, r) in found.items() for ref in refs.find(r) if ref.startswith(ehr.base)]
    urls = [c["attachment"]["url"] for _, r in found.values() if r["resourceType"] == "DocumentReference"
            for c in r["content"] if "url" in c["attachment"]]  # fmt: skip
    assert urls
    assert all(world.call("GET", f"/fhir/{url}").status_code == 200 for url in urls)


def test_asking_again_while_it_is_under_way_starts_nothing(world: World) -> None:
    world.ehr("lakeside")
    case_id = world.open(sources=["lakeside"])
    waiting = len(world.jobs)
    first = gathering(world, case_id)["task"]
    assert world.post(case_id, "gather")["tasks"] == [first]
    assert len(world.jobs) == waiting


# ---- what the manifest names


def test_a_file_that_is_not_what_its_document_says_is_named_and_kept(world: World) -> None:
    world.ehr("lakeside", "full", "wrong-hash")
    case_id = world.gathered(sources=["lakeside"])
    line = world.manifest(case_id, "Lakeside")["Attachment"]
    assert (line["outcome"], line["received"]) == ("answered", 1)
    assert "1 differ from what their document says" in line["detail"]
    assert "hash" in line["detail"]


def letters(count: int) -> list[Resource]:
    """A patient with that many letters, each a file."""
    made: list[Resource] = [person()]
    for n in range(count):
        made.append({"resourceType": "Binary", "id": f"b{n}", "contentType": "application/pdf", "data": "JVBERi0="})
        form = {"contentType": "application/pdf", "url": f"Binary/b{n}"}
        made.append({"resourceType": "DocumentReference", "id": f"d{n}", "status": "current",
                     "subject": {"reference": "Patient/1"}, "content": [{"attachment": form}]})  # fmt: skip
    return made


@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_a_daily_quota_of_documents_leaves_a_named_gap_and_the_rest_comes_another_day(world: World, whose: str) -> None:
    quirks = ["daily-quota=3"] if whose == "theirs" else []
    settings = {"vendor": "epic"} if whose == "theirs" else {"documents_per_day": 3}
    ehr = world.ehr("lakeside", "full", *quirks, record=letters(5), **settings)
    case_id = world.gathered(sources=["lakeside"])
    line = world.manifest(case_id, "Lakeside")["Attachment"]
    assert (line["outcome"], line["received"], line["unresolved"]) == ("truncated", 3, 2)
    assert "quota" in line["detail"]
    assert "lakeside-specimen-hospital/Attachment" in world.get(case_id, "completeness")["gaps"]
    assert len(ehr.asked("read", "Binary")) <= 5  # never again what was refused for today

    if whose == "ours":
        world.clock.ahead_ms += DAY_MS
        world.post(case_id, "gather")
        world.work()
        line = world.manifest(case_id, "Lakeside")["Attachment"]
        # The budget counts each day anew, and is spent on what is not there yet.
        assert (line["outcome"], line["received"]) == ("answered", 5), line
        assert len({a.id for a in ehr.asked("read", "Binary")}) == 5


def test_an_ehr_that_asks_for_patience_is_asked_later_and_ends_complete(world: World) -> None:
    ehr = world.ehr("lakeside")
    refused = iter(range(1, 6))

    def busy(asked: Asked) -> Any:
        if asked.type == "Observation" and next(refused, None):
            return refusal(429, "throttled", Retry_After="120")
        return None

    ehr.instead = busy
    case_id = world.open(sources=["lakeside"])
    (said,) = world.work()
    assert said == "lakeside asked us to wait."
    task = gathering(world, case_id)
    assert (task["status"], task["why"]) == ("in-progress", said)
    (job,) = [j for j in world.jobs if j.workflow == "gather"]
    assert job.at - world.clock() > 110_000  # what it asked for, and not what we would have waited
    assert world.work(patience_s=3600)[-1] == "gathered"
    assert searched(ehr)["Condition"] == 1  # what was finished is not asked again
    assert world.manifest(case_id, "Lakeside")["Observation"]["received"] == 23
    assert not [g for g in world.get(case_id, "completeness")["gaps"] if "/" in g]


def test_a_gathering_that_never_succeeds_is_given_up_and_named(world: World) -> None:
    ehr = world.ehr("lakeside", "full", "closes")
    object.__setattr__(world.context, "circuit", breaker.Policy(failures=1000))  # as if it answered others meanwhile
    case_id = world.gathered(sources=["lakeside"])
    said = world.work(patience_s=7200)
    assert said[-1] == "given up"
    assert len([j for j in said if j.startswith("No answer")]) + 1 == gather.MAX_ATTEMPTS - 1
    line = world.manifest(case_id, "Lakeside")["*"]
    assert line["outcome"] == "failed"
    assert "10 attempts" in line["detail"]
    assert gathering(world, case_id)["status"] == "failed"
    assert ehr.written == []


def test_pages_that_overlap_give_each_resource_once(world: World) -> None:
    world.ehr("lakeside", "full", "overlapping-pages", record=[person(), *(result(n) for n in range(120))])
    case_id = world.gathered(sources=["lakeside"])
    line = world.manifest(case_id, "Lakeside")["Observation"]
    assert (line["outcome"], line["received"]) == ("answered", 120)
    found = copies(world, case_id)
    assert sum(key.startswith("Observation/") for key in found) == 120
    assert {version for version, _ in found.values()} == {1}


def test_an_older_version_on_a_later_page_does_not_win(world: World) -> None:
    ehr = world.ehr("lakeside", record=[person(), *(result(n) for n in range(60))])
    ehr.put(result(3, note=[{"text": "newer"}]))
    older = result(3, meta={"versionId": "1", "lastUpdated": "2020-01-01T00:00:00Z"})
    page = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": older, "search": {"mode": "match"}}]}
    ehr.instead = lambda a: Response(json.dumps(page), 200, mimetype=JSON) if a.following else None
    case_id = world.gathered(sources=["lakeside"])
    version, copy = copies(world, case_id)["Observation/o3"]
    assert (version, copy["note"]) == (1, [{"text": "newer"}])


def test_pages_that_lead_in_a_circle_are_left_and_named(world: World) -> None:
    ehr = world.ehr("lakeside", "full", "looping-pages", record=[person(), *(result(n) for n in range(120))])
    case_id = world.gathered(sources=["lakeside"])
    line = world.manifest(case_id, "Lakeside")["Observation"]
    assert line["outcome"] == "truncated"
    assert "don't end" in line["detail"]
    assert len(ehr.asked("search", "Observation")) <= 3
    assert "lakeside-specimen-hospital/Observation" in world.get(case_id, "completeness")["gaps"]


def test_people_who_are_cited_and_could_not_be_read_are_counted(world: World) -> None:
    ehr = world.ehr("lakeside")
    missing = ("Practitioner/2", "Practitioner/3")
    assert len([r for r in record_of("lakeside") if r["resourceType"] == "Practitioner"]) == 6
    ehr.instead = lambda a: refusal(403, "forbidden") if f"{a.type}/{a.id}" in missing else None
    case_id = world.gathered(sources=["lakeside"])
    line = world.manifest(case_id, "Lakeside")["Practitioner"]
    assert (line["outcome"], line["received"], line["unresolved"]) == ("answered", 4, 2)
    assert "lakeside-specimen-hospital/Practitioner" in world.get(case_id, "completeness")["gaps"]
    # What cites them says where they stand, and names nobody else.
    with world.context.database.reading() as connection:
        texts = [s.text for s in resources.in_case(connection, case_id) if s.owner.startswith(resources.SOURCE)]
    assert any(f'"{ehr.base}/Practitioner/2"' in text for text in texts)
    assert not any('"Practitioner/2"' in text for text in texts if '"Binary"' not in text[:30])


def test_a_type_that_is_refused_by_policy_is_never_asked_again(world: World) -> None:
    ehr = world.ehr("lakeside", "full", "policy-denial=ImagingStudy", vendor="epic")
    case_id = world.gathered(sources=["lakeside"])
    assert world.manifest(case_id, "Lakeside")["ImagingStudy"]["outcome"] == "refused"
    assert len(ehr.asked("search", "ImagingStudy")) == 1
    # What is missing for that is withheld, and is not asked for behind its holder's back.
    states = {i["code"]: i["state"] for i in world.get(case_id, "completeness")["items"]}
    assert states["images"] == "withheld"
    assert "images" not in [r["item"] for r in world.get(case_id, "requests")["requests"]]


def test_patience_asked_for_in_the_middle_of_the_pages_is_kept_too(world: World) -> None:
    ehr = world.ehr("lakeside", record=[person(), *(result(n) for n in range(70))])
    refused = iter([1])

    def busy(asked: Asked) -> Any:
        return refusal(429, "throttled", Retry_After="120") if asked.following and next(refused, None) else None

    ehr.instead = busy
    case_id = world.gathered(sources=["lakeside"])
    world.work(patience_s=3600)
    line = world.manifest(case_id, "Lakeside")["Observation"]
    assert (line["outcome"], line["received"]) == ("answered", 70)


def test_a_type_that_could_only_be_asked_for_by_category_is_named_in_the_report(world: World) -> None:
    world.ehr("lakeside", "full", "demands-category")
    case_id = world.signed(sources=["lakeside"])
    text = world.pdf(case_id)
    assert "Observation: asked for by category only" in text
    assert "Procedure: asked" not in text


def test_a_fault_of_the_checklist_leaves_no_source_silent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else stumbles: the Task has ended, and the manifest says that this source was not read."""
    world.ehr("lakeside")
    case_id = world.open(sources=["lakeside"])
    (task,) = [g["task"].partition("/")[2] for g in world.get(case_id)["gathering"]]

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(gather, "items", broken)
    with pytest.raises(ZeroDivisionError):
        gather.fail(world.service.context, task, "The record could not be read.")
    monkeypatch.undo()
    (shown,) = world.get(case_id)["gathering"]
    assert (shown["status"], shown["why"]) == ("failed", "The record could not be read.")
    assert world.manifest(case_id, "Lakeside")["*"]["outcome"] == "failed"
