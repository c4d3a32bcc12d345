"""Who is let in to a case, and who loses it: each change has its row in the audit, in the same commit."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.bootstrap import LOCAL
from fhir_secondop.fhir import validate
from fhir_secondop.service import audience
from fhir_secondop.store import tables
from fhir_secondop.store.audit import verify
from fhir_secondop.store.audit.rows import case_of
from tests.service.conftest import Bench
from tests.service.test_review import drafted, example, opened, operate, signed

REVIEWER = "http://hl7.org/fhir/sid/us-npi|9000000190"


def told(bench: Bench) -> list[Any]:
    """The rows of admissions, in the order of their commits."""
    audit = tables.audit.c
    with bench.service.context.database.reading() as connection:
        return list(connection.execute(sa.select(tables.audit).where(audit.kind == "audience").order_by(audit.n)))


def standing(bench: Bench) -> set[tuple[Any, ...]]:
    with bench.service.context.database.reading() as connection:
        found = connection.execute(sa.select(tables.audience)).all()
    return {(case_of(r.case_id), r.party, r.case_id.partition("#")[2] or r.part, r.until) for r in found}


def replayed(rows: list[Any]) -> set[tuple[Any, ...]]:
    """The audience, as the audit alone tells it."""
    held: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for row in rows:
        key = (row.case_id, row.party, row.part if row.part in ("draft", "urgent") else "")
        assert (key in held) is (row.action != "C")
        if row.action == "D":
            del held[key]
        else:
            held[key] = (row.case_id, row.party, row.part, row.until)
    return set(held.values())


def test_the_audit_alone_tells_who_sees_a_case_after_each_step(bench: Bench) -> None:
    case_id = opened(bench)
    assert replayed(told(bench)) == standing(bench) != set()
    plain = {"reviewer": example("review.json")["reviewer"]}
    for step, body, who in (
        ("ask-reviewer", plain, "desk"), ("accept", {"declaration": {"interests": "none"}}, "reviewer"),
        ("withdraw", {"reason": "conflict-of-interest"}, "reviewer"),
        ("invite-patient", {"relationship": "self", "name": "Maya Sample"}, "desk"),
    ):  # fmt: skip
        before = len(told(bench))
        answer = operate(bench, case_id, step, body, who)
        assert answer.status_code in (200, 201), answer.text
        new = told(bench)[before:]
        assert new or step == "accept", step
        assert {(r.operation, r.caller, r.case_id, r.id) for r in new} <= {(f"${step}", who, case_id, case_id)}
        assert replayed(told(bench)) == standing(bench), step
    with bench.service.context.database.reading() as connection:
        assert verify.verify(connection).bad == ""


def test_the_end_of_a_review_says_until_when_its_reviewer_sees_the_case(bench: Bench) -> None:
    signed(bench)
    last = [r for r in told(bench) if r.operation == "$sign"]
    assert {(r.party, r.part, r.action) for r in last} == {
        (REVIEWER, part, "U") for part in ("record", "draft", "urgent")
    }
    assert all(r.until > r.at for r in last)
    assert replayed(told(bench)) == standing(bench)


def test_the_trail_names_who_was_let_in_and_who_lost_it(bench: Bench) -> None:
    case_id = drafted(bench)
    operate(bench, case_id, "withdraw", {"reason": "conflict-of-interest"}, "reviewer")
    entries = bench.call("GET", f"/fhir/ServiceRequest/{case_id}/$audit-trail?_count=1000").get_json()["entry"]
    events = [e["resource"] for e in entries if e["resource"]["type"]["code"] == "110113"]
    assert events
    assert not any(i.severity == "error" for event in events for i in validate.validate(event))
    system, _, value = REVIEWER.partition("|")
    of_reviewer = [
        (event["action"], event["subtype"][0]["code"], event["entity"][1]["detail"][0]["valueString"])
        for event in events
        if event["entity"][1]["what"] == {"identifier": {"system": system, "value": value}}
    ]
    assert {("C", "110135", "record"), ("D", "110135", "record"), ("D", "110135", "draft")} <= set(of_reviewer)
    assert events[0]["entity"][0]["what"] == {"reference": f"ServiceRequest/{case_id}"}
    plain = bench.call("GET", f"/api/second-opinions/{case_id}/audit-trail?_count=1000").get_json()["rows"]
    assert {row["party"] for row in plain if row["kind"] == "audience"} >= {REVIEWER}
    assert all("party" not in row for row in plain if row["kind"] != "audience")


def test_who_is_let_in_in_a_transaction_that_fails_is_not_told(bench: Bench) -> None:
    case_id = opened(bench)
    before = told(bench)

    def fail() -> None:
        with bench.service.context.database.transaction(LOCAL) as tx:
            audience.admit(tx, case_id, {"x|1"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert told(bench) == before
