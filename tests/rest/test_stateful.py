"""Whatever is asked of an endpoint, in whatever order: it answers as a plain model of versions and searches does.

Hypothesis draws the requests. Many more: python -m pytest -m slow tests/rest/test_stateful.py
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from werkzeug.test import TestResponse

from fhir_secondop.model import Resource
from tests.rest.served import Send, bundle
from tests.rest.test_transaction import asking, patch

Predicate = Callable[[Resource], bool]
RUNS = itertools.count()


def is_valued(number: int) -> Predicate:
    return lambda one: any(each["value"] == str(number) for each in one["identifier"])


CRITERIA: dict[str, Predicate] = {
    "identifier=urn:m|1": is_valued(1), "identifier=urn:m|2": is_valued(2), "identifier=urn:m|3": is_valued(3),
    "family=a": lambda one: one["name"][0]["family"] == "Äb", "gender=male": lambda one: one.get("gender") == "male",
    "gender:not=male": lambda one: one.get("gender") != "male", "gender:missing=true": lambda one: "gender" not in one,
    "birthdate=ge1980": lambda one: one["birthDate"] >= "1980", "family:exact=Cd&identifier=urn:m|1":
    lambda one: one["name"][0]["family"] == "Cd" and is_valued(1)(one),
}  # fmt: skip
BROAD = ("birthdate=ge1980", "gender:not=male", "identifier=urn:m|1")
ORDERS = ("", "&_sort=family", "&_sort=-_lastUpdated", "&_sort=-birthdate,_id")
CONTENT = st.builds(
    lambda values, family, gender, born: {
        "resourceType": "Patient", "identifier": [{"system": "urn:m", "value": str(each)} for each in sorted(values)],
        "name": [{"family": family}], **({"gender": gender} if gender else {}), "birthDate": born,
    },
    st.sets(st.integers(1, 3), min_size=1, max_size=2), st.sampled_from(["Äb", "Cd"]),
    st.sampled_from(["male", "female", ""]), st.sampled_from(["1975", "1980-02", "1990-01-31"]),
)  # fmt: skip
CRITERION = st.sampled_from(sorted(CRITERIA))
WHICH = st.integers(0, 30)
MATCH = st.sampled_from(["", "right", "wrong"])


@dataclass(slots=True)
class Walk:
    """Pages that are being followed: what matched at all their moments, what at any, and what they have shown."""

    criterion: str
    next_url: str
    throughout: set[str]
    ever: set[str]
    shown: list[str] = field(default_factory=list)


class Requests(RuleBasedStateMachine):
    """One endpoint. The patients of each example are its own by their tag."""

    send: Send

    def __init__(self) -> None:
        super().__init__()
        self.run = str(next(RUNS))
        self.versions: dict[str, list[Resource | None]] = {}  # by id, in the order of creation; None: a deletion
        self.walks: list[Walk] = []

    @initialize(contents=st.lists(CONTENT, min_size=4, max_size=6))
    def begin(self, contents: list[Resource]) -> None:
        for content in contents:
            self.create(content)

    def teardown(self) -> None:
        while self.walks:
            self._turn(self.walks[0])

    # ---- the model

    def tagged(self, content: Resource) -> Resource:
        return {"meta": {"tag": [{"system": "urn:run", "code": self.run}]}, **content}

    def current(self, name: str) -> Resource | None:
        return self.versions[name][-1]

    def name(self, which: int) -> str:
        return sorted(self.versions)[which % len(self.versions)]

    def matching(self, criterion: str) -> list[str]:
        there = {name: versions[-1] for name, versions in self.versions.items()}
        return [name for name, one in there.items() if one is not None and CRITERIA[criterion](one)]

    def match(self, name: str, match: str) -> dict[str, str]:
        version = len(self.versions[name]) + (1 if match == "wrong" else 0)
        return {"If-Match": f'W/"{version}"'} if match else {}

    def add(self, name: str, content: Resource | None) -> None:
        """The next version of a resource, as the model keeps it."""
        self.versions.setdefault(name, []).append(content)
        for walk in self.walks:
            found = set(self.matching(walk.criterion))
            walk.throughout &= found
            walk.ever |= found

    def where(self, criterion: str) -> str:
        return f"{criterion}&_tag=urn:run|{self.run}"

    # ---- what answers say

    def is_version(self, answer: TestResponse, name: str, version: int) -> None:
        content = self.versions[name][version - 1]
        assert answer.json, answer.text
        sent = {key: value for key, value in answer.json.items() if key not in ("id", "meta")}
        assert (answer.json["id"], sent) == (name, content)
        assert (answer.json["meta"]["versionId"], answer.headers["ETag"]) == (str(version), f'W/"{version}"')

    def has_written(self, answer: TestResponse, content: Resource, *, name: str = "") -> None:
        """That a version was stored, of that resource or else of a new one."""
        assert answer.status_code == (200 if name else 201), answer.text
        assert answer.json
        assert name or answer.json["id"] not in self.versions
        name = answer.json["id"]
        self.add(name, content)
        self.is_version(answer, name, len(self.versions[name]))

    # ---- requests

    @rule(content=CONTENT)
    def create(self, content: Resource) -> None:
        self.has_written(self.send("POST", "/Patient", self.tagged(content)), content)

    @rule(content=CONTENT, criterion=CRITERION)
    def create_unless_there(self, content: Resource, criterion: str) -> None:
        found = self.matching(criterion)
        answer = self.send("POST", "/Patient", self.tagged(content), If_None_Exist=self.where(criterion))
        if not found:
            self.has_written(answer, content)
        elif len(found) == 1:
            assert answer.status_code == 200
            self.is_version(answer, found[0], len(self.versions[found[0]]))
        else:
            assert answer.status_code == 412

    @precondition(lambda self: self.versions)
    @rule(which=WHICH, content=CONTENT, match=MATCH, none_match=st.booleans())
    def update(self, which: int, content: Resource, match: str, none_match: bool) -> None:
        name = self.name(which)
        headers = self.match(name, match) | ({"If-None-Match": "*"} if none_match else {})
        answer = self.send("PUT", f"/Patient/{name}", {**self.tagged(content), "id": name}, **headers)
        if match == "wrong" or (none_match and self.current(name)):
            assert answer.status_code == 412
        else:
            self.has_written(answer, content, name=name)

    @rule(content=CONTENT, criterion=CRITERION, version=st.sampled_from([None, 1, 2]))
    def update_what_matches(self, content: Resource, criterion: str, version: int | None) -> None:
        found = self.matching(criterion)
        headers = {} if version is None else {"If-Match": f'W/"{version}"'}
        answer = self.send("PUT", f"/Patient?{self.where(criterion)}", self.tagged(content), **headers)
        if len(found) > 1 or (version and [len(self.versions[name]) for name in found] != [version]):
            assert answer.status_code == 412
        else:
            self.has_written(answer, content, name=found[0] if found else "")

    @precondition(lambda self: self.versions)
    @rule(which=WHICH, gender=st.sampled_from(["male", "female"]), match=MATCH)
    def patch(self, which: int, gender: str, match: str) -> None:
        name = self.name(which)
        before = self.current(name)
        headers = {"Content-Type": "application/json-patch+json"} | self.match(name, match)
        answer = self.send("PATCH", f"/Patient/{name}", [{"op": "add", "path": "/gender", "value": gender}], **headers)
        if before is None:
            assert answer.status_code == 410
        elif match == "wrong":
            assert answer.status_code == 412
        else:
            self.has_written(answer, {**before, "gender": gender}, name=name)

    @precondition(lambda self: self.versions)
    @rule(which=WHICH, match=MATCH)
    def delete(self, which: int, match: str) -> None:
        name = self.name(which)
        before = self.current(name)
        answer = self.send("DELETE", f"/Patient/{name}", **self.match(name, match))
        if match == "wrong" and before is not None:
            assert answer.status_code == 412
            return
        assert answer.status_code == 204
        if before is not None:
            self.add(name, None)
        assert answer.headers["ETag"] == f'W/"{len(self.versions[name])}"'

    @rule(criterion=CRITERION)
    def delete_what_matches(self, criterion: str) -> None:
        found = self.matching(criterion)
        answer = self.send("DELETE", f"/Patient?{self.where(criterion)}")
        assert answer.status_code == {0: 404, 1: 204}.get(len(found), 412)
        if len(found) == 1:
            self.add(found[0], None)

    @precondition(lambda self: self.versions)
    @rule(which=WHICH, known=st.booleans())
    def read(self, which: int, known: bool) -> None:
        name = self.name(which)
        version = len(self.versions[name])
        answer = self.send("GET", f"/Patient/{name}", **({"If-None-Match": f'W/"{version}"'} if known else {}))
        if self.current(name) is None:
            assert answer.status_code == 410
        elif known:
            assert answer.status_code == 304
        else:
            self.is_version(answer, name, version)

    @precondition(lambda self: self.versions)
    @rule(which=WHICH, version=st.integers(1, 6))
    def vread(self, which: int, version: int) -> None:
        name = self.name(which)
        answer = self.send("GET", f"/Patient/{name}/_history/{version}")
        if version > len(self.versions[name]):
            assert answer.status_code == 404
        elif self.versions[name][version - 1] is None:
            assert answer.status_code == 410
        else:
            self.is_version(answer, name, version)

    @precondition(lambda self: self.versions)
    @rule(which=WHICH)
    def history(self, which: int) -> None:
        name = self.name(which)
        answer = self.send("GET", f"/Patient/{name}/_history?_count=100")
        assert answer.json
        entries = list(reversed(answer.json["entry"]))
        assert [entry["response"]["etag"] for entry in entries] == [
            f'W/"{version}"' for version in range(1, len(self.versions[name]) + 1)
        ]
        contents = [entry.get("resource") and {k: v for k, v in entry["resource"].items() if k not in ("id", "meta")}
                    for entry in entries]  # fmt: skip
        assert contents == self.versions[name]
        moments = [entry["response"]["lastModified"] for entry in entries]
        assert moments == sorted(set(moments))

    def entries(self, wanted: list[tuple[str, int, Resource, str]]) -> list[tuple[Resource, str, Resource | None]]:
        """(entry, the resource it is about, what it makes of it) of a Bundle; no resource is in it twice."""
        made: list[tuple[Resource, str, Resource | None]] = []
        for method, which, content, match in wanted:
            if method == "POST" or not self.versions:
                made.append((asking("POST", "Patient", self.tagged(content)), "", content))
                continue
            name = self.name(which)
            before = self.current(name)
            if name in [about for _, about, _ in made] or (before is None and method != "PUT"):
                continue
            demanded = {"ifMatch": self.match(name, match)["If-Match"]} if match else {}
            at = f"Patient/{name}"
            if method == "PUT":
                made.append((asking("PUT", at, {**self.tagged(content), "id": name}, **demanded), name, content))
            elif method == "DELETE":
                made.append((asking("DELETE", at, **demanded), name, None))
            else:
                operations = [{"op": "add", "path": "/birthDate", "value": content["birthDate"]}]
                after = {**(before or {}), "birthDate": content["birthDate"]}
                made.append((patch(at, operations, **demanded), name, after))
        return made

    @rule(
        kind=st.sampled_from(["transaction", "batch"]),
        wanted=st.lists(st.tuples(st.sampled_from(["POST", "PUT", "DELETE", "PATCH"]), WHICH, CONTENT,
                                  st.sampled_from(["", "", "right", "wrong"])), min_size=1, max_size=4),
    )  # fmt: skip
    def many_at_once(self, kind: str, wanted: list[tuple[str, int, Resource, str]]) -> None:
        made = self.entries(wanted)
        if not made:
            return
        wrong = [
            "ifMatch" in entry["request"] and entry["request"]["ifMatch"] != f'W/"{len(self.versions[name])}"'
            for entry, name, _ in made
        ]
        answer = self.send("POST", "", bundle(*(entry for entry, _, _ in made), kind=kind))
        if kind == "transaction" and any(wrong):
            assert answer.status_code == 412, answer.text
            return
        assert answer.status_code == 200, answer.text
        said = [entry["response"] for entry in json.loads(answer.text)["entry"]]
        done = [(each, name, content) for each, (_, name, content), no in zip(said, made, wrong, strict=True) if not no]
        assert [each["status"][:3] for each, no in zip(said, wrong, strict=True) if no] == ["412"] * sum(wrong)
        for each, name, content in done:
            assert each["status"][:3] == ("204" if content is None else "200" if name else "201")
        # In a transaction what is deleted goes first, what is created next; in a batch all go as they were sent.
        if kind == "transaction":
            done.sort(key=lambda one: 0 if one[2] is None else 2 if one[1] else 1)
        for each, name, content in done:
            self.add(name or each["location"].split("/")[-3], content)
            assert each["etag"] == f'W/"{len(self.versions[name or each["location"].split("/")[-3]])}"'

    @rule(criterion=st.sampled_from(BROAD), order=st.sampled_from(ORDERS), count=st.integers(1, 2))
    def begin_pages(self, criterion: str, order: str, count: int) -> None:
        if len(self.walks) > 3:
            return
        found = set(self.matching(criterion))
        walk = Walk(criterion, f"/Patient?{self.where(criterion)}{order}&_count={count}", set(found), set(found))
        self.walks.append(walk)
        self._turn(walk)

    @precondition(lambda self: self.walks)
    @rule(which=WHICH)
    def turn_a_page(self, which: int) -> None:
        self._turn(self.walks[which % len(self.walks)])

    def _turn(self, walk: Walk) -> None:
        answer = self.send("GET", walk.next_url)
        assert answer.status_code == 200, answer.text
        assert answer.json
        for entry in answer.json.get("entry", []):
            name = entry["resource"]["id"]
            assert entry["resource"]["meta"]["versionId"] == str(len(self.versions[name]))
            assert name in self.matching(walk.criterion)
            walk.shown.append(name)
        following = [link["url"] for link in answer.json["link"] if link["relation"] == "next"]
        assert len(walk.shown) == len(set(walk.shown)), "one that was shown is not shown again"
        if following:
            walk.next_url = following[0].partition("/fhir")[2]
            return
        assert walk.throughout <= set(walk.shown) <= walk.ever
        self.walks.remove(walk)

    @rule(criterion=CRITERION)
    def search(self, criterion: str) -> None:
        answer = self.send("GET", f"/Patient?{self.where(criterion)}&_total=accurate&_count=100")
        assert answer.json
        assert answer.json["total"] == len(self.matching(criterion))
        assert [entry["resource"]["id"] for entry in answer.json.get("entry", [])] == self.matching(criterion)

    @invariant()
    def keeps_what_there_is(self) -> None:
        answer = self.send("GET", f"/Patient?_tag=urn:run|{self.run}&_summary=count")
        assert answer.json
        assert answer.json["total"] == sum(versions[-1] is not None for versions in self.versions.values())


def run(send: Send, examples: int, steps: int) -> None:
    machine = type("OfThis", (Requests,), {"send": staticmethod(send)})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
                          derandomize=examples < 100, suppress_health_check=checks,
                          phases=[Phase.generate, Phase.shrink][: 1 if examples < 100 else 2]),
    )  # fmt: skip


def test_an_endpoint_answers_as_a_model_of_it_does(send: Send) -> None:
    run(send, examples=8, steps=25)


@pytest.mark.slow
def test_it_does_so_through_thousands_of_requests(send: Send) -> None:
    run(send, examples=300, steps=60)
