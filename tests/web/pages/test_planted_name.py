"""A planted patient's name stands in no log, address or header of the pages, over a whole case; at DEBUG."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.test_review import example
from tests.service.world import opened, record_of
from tests.web.pages.conftest import ANSWERS, Clinic, gaps_of, written

FAMILY, GIVEN, BORN = "Zanzibarowitz", "Quillemina", "1969-02-28"
PLANTED = (FAMILY, GIVEN, BORN)
_ADDRESS = re.compile(r"""(?:href|src|action|formaction)=["']([^"']*)""")


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as world:
        record = copy.deepcopy(record_of("lakeside"))
        for person in (r for r in record if r["resourceType"] == "Patient"):
            person |= {"name": [{"family": FAMILY, "given": [GIVEN]}], "birthDate": BORN}
        world.ehr("lakeside", record=record)
        yield Clinic(world)


def planted() -> dict[str, Any]:
    request = copy.deepcopy(example("request.json"))
    request["patient"] |= {"family": FAMILY, "given": [GIVEN], "birthDate": BORN}
    request["questions"][0] = f"Is {GIVEN} {FAMILY} right to worry?"
    return {**request, "sources": ["lakeside"]}


class Walk:
    """Somebody's way through the pages; every address and header met is kept."""

    def __init__(self, clinic: Clinic) -> None:
        self.clinic = clinic
        self.addresses: set[str] = set()
        self.headers: set[str] = set()
        self.texts: list[str] = []

    def see(self, answer: Any) -> None:
        self.headers |= {f"{name}: {value}" for name, value in answer.headers}
        if answer.mimetype == "text/html":
            text = answer.get_data(as_text=True)
            self.texts.append(text)
            self.addresses |= set(_ADDRESS.findall(text))
            self.addresses |= set(re.findall(r"<title>(.*?)</title>", text, re.S))

    def all_from(self, start: str, who: str, most: int = 40) -> None:
        """Every page that can be reached by links."""
        todo, seen = [start], set()
        while todo and len(seen) < most:
            path = todo.pop(0)
            if path in seen:
                continue
            seen.add(path)
            answer = self.clinic.get(path, who)
            self.see(answer)
            if answer.mimetype == "text/html":
                found = _ADDRESS.findall(answer.get_data(as_text=True))
                todo += [p.partition("#")[0] for p in found if p.startswith("/") and "/assets/" not in p]


def test_a_planted_name_stands_in_no_log_address_title_or_header(clinic: Clinic, caplog: Any) -> None:
    world, walk = clinic.world, Walk(clinic)
    caplog.set_level(logging.DEBUG, "fhir_secondop")
    case_id = world.call("POST", "/api/second-opinions", planted()).get_json()["id"]
    world.work()
    world.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
    walk.all_from("/", "desk")
    case = f"/cases/{case_id}"
    walk.see(clinic.send(case, f"{case}/do/accept", "reviewer", **{
        "declaration.interests": "none", "attestation": "None."}))  # fmt: skip
    walk.see(written(clinic, case_id, gap=gaps_of(clinic, case_id), **ANSWERS))
    walk.all_from(case, "reviewer")
    # Wrong turns: what fails must not quote what was sent.
    walk.see(clinic.post(f"{case}/do/decide", {"version": FAMILY, "decision": FAMILY}, "pcp"))
    walk.see(clinic.get(f"/cases/{FAMILY}", "desk"))
    walk.see(clinic.post(f"{case}/do/ask-reviewer", {"reviewer.family": FAMILY}, "desk"))
    world.post(case_id, "sign", who="reviewer")
    world.work(60)
    for who in ("desk", "reviewer", "pcp", "surgeon"):
        walk.all_from("/", who)
        walk.all_from(case, who)
    for sheet in [d for d in world.deliveries(case_id) if d["evidence"].get("rung") == "10"]:
        url = world.post(case_id, "cover-sheet", {"task": sheet["task"]})["url"]
        path = url.removeprefix(world.context.public_url)
        walk.addresses.add(url)
        for answer in (world.client.get(path), world.client.post(path, data={"name": "Dr. A.", "role": "Physician"})):
            walk.see(answer)
    link = world.post(case_id, "invite-patient", {"relationship": "self", "name": GIVEN})
    walk.addresses.add(link["link"])

    told = [text for text in walk.texts if FAMILY in text]
    assert len(told) > 10, "the name must be on the pages, or the test shows nothing"
    assert len(walk.addresses) > 40
    # The address that a wrong turn was asked by is its asker's.
    asked = {a for a in walk.addresses if a.startswith(f"/cases/{FAMILY}")}
    for name in PLANTED:
        assert [a for a in walk.addresses - asked if name in a] == []
        assert [h for h in walk.headers if name in h] == []
        assert [r.getMessage() for r in caplog.records if r.name.startswith("fhir_secondop") and name in r.getMessage()
                ] == []  # fmt: skip
