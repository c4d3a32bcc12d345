"""Groups of a gathered record, stored: undone by a person they stay undone, and no copy is ever touched."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from fhir_secondop.errors import Conflict, Forbidden, Invalid, NotFound
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING, Answer, Caller, Resource
from fhir_secondop.opinion import records
from fhir_secondop.service import copies, merging
from fhir_secondop.service.context import SERVICE, load, put
from fhir_secondop.store import resources
from tests.service.conftest import Bench
from tests.service.test_review import example

Plain = dict[str, Any]
DESK = Caller("desk", "Desk", frozenset({"coordinator", "requester"}), ("system/*.crus",))
REVIEWER = Caller(
    "reviewer", "Dr. Clara Standin", frozenset({"reviewer"}), ("user/*.rus",),
    frozenset({"http://hl7.org/fhir/sid/us-npi|9000000190"}),
)  # fmt: skip
PCP = Caller("pcp", "Dr. Ines Placeholder", frozenset({"provider"}), ("user/*.rs",),
             frozenset({"http://hl7.org/fhir/sid/us-npi|9000000111"}))  # fmt: skip


def record_of(name: str) -> list[Resource]:
    text = (files("fhir_secondop.examples") / "breast-treatment-plan" / "records" / f"{name}.json").read_text("utf-8")
    # A file is fetched by name and is on no page.
    return [e["resource"] for e in codec.parse(text)["entry"] if e["resource"]["resourceType"] != "Binary"]


def gather(bench: Bench, case_id: str, name: str, record: list[Resource]) -> None:
    """What the gathering of one source does in its last transaction, from pages that are not asked for here."""
    context, base = bench.service.context, f"https://{name}.example/fhir"
    texts = [codec.dumps(resource) for resource in record]
    pages = [(text, codec.parse(text), f"Binary/{place}") for place, text in enumerate(texts)]
    answers = [Answer(kind, "answered") for kind in sorted({r["resourceType"] for r in record})]
    with context.database.transaction(SERVICE) as tx:
        case = load(tx.connection, EVERYTHING, case_id)
        held = copies.held(tx.connection, case_id, name, base)
        found = records.merge(case_id, name, base, "1", pages, answers, held=held)
        copies.store(tx, context, case_id, name, found.copies, held)
        before = records.package_of(case, name)
        put(tx, context, case_id, records.package(case, name, name, found, context.instant(), before))
        merging.regroup(tx, context, load(tx.connection, EVERYTHING, case_id, gathered=True))


@pytest.fixture
def case_id(bench: Bench) -> str:
    """A case with the records of both sources of the breast example."""
    made: str = bench.call("POST", "/api/second-opinions", example("request.json")).get_json()["id"]
    for name in ("riverside", "lakeside"):
        gather(bench, made, name, record_of(name))
    return made


def merged(bench: Bench, case_id: str, caller: Caller = DESK) -> Plain:
    return merging.merged(bench.service.context, caller, case_id)


def group_of(bench: Bench, case_id: str, text: str, kind: str = "") -> Plain:
    """The group with a member of that text."""
    [found] = [
        g for g in merged(bench, case_id)["groups"]
        if any(m["text"] == text and m["reference"].startswith(kind) for m in g["members"])
    ]  # fmt: skip
    return found


def rows(bench: Bench, case_id: str) -> dict[str, tuple[int, str]]:
    """Reference → version and text of every copy."""
    with bench.service.context.database.reading() as connection:
        stored = resources.in_case(connection, case_id)
    return {f"{s.type}/{s.id}": (s.version, s.body.text) for s in stored if s.owner.startswith(resources.SOURCE)}


def unlinked(bench: Bench, case_id: str, **plain: str) -> Resource:
    return merging.unlink(bench.service.context, DESK, case_id, {"reason": "Two different things.", **plain})


def linked(bench: Bench, case_id: str, **plain: Any) -> Resource:
    return merging.link(bench.service.context, DESK, case_id, {"reason": "The same after all.", **plain})


def test_two_records_are_one_with_their_sources_and_conflicts(bench: Bench, case_id: str) -> None:
    plain = merged(bench, case_id)

    assert len(plain["groups"]) == 9
    assert plain["undone"] == []
    haemoglobin = group_of(bench, case_id, "Hemoglobin")
    assert haemoglobin["why"] == "same identifier (https://lakeside.example/accession LK26-118204-718-7)"
    assert sorted((m["source"], m["sourceUrl"]) for m in haemoglobin["members"]) == [
        ("lakeside", "https://lakeside.example/fhir/Observation/5"),
        ("riverside", "https://riverside.example/fhir/Observation/5"),
    ]
    assert [c["kind"] for c in plain["conflicts"]] == ["dose", "allergy-unlisted"]
    assert {side["source"] for c in plain["conflicts"] for side in c["sides"]} == {"riverside", "lakeside"}
    assert group_of(bench, case_id, "Lisinopril 20 mg tablet")["differs"] == ["dosage"]
    codec.dumps(plain)


def test_grouping_undoing_and_linking_touch_no_copy(bench: Bench, case_id: str) -> None:
    before = rows(bench, case_id)
    group = group_of(bench, case_id, "Hypertension")
    unlinked(bench, case_id, group=group["group"])
    linked(bench, case_id, group=group["group"])

    assert len(before) > 80
    assert rows(bench, case_id) == before


def test_gathering_again_writes_no_linkage_anew(bench: Bench, case_id: str) -> None:
    before = versions(bench, case_id)
    gather(bench, case_id, "riverside", record_of("riverside"))

    assert versions(bench, case_id) == before
    assert set(before.values()) == {1}


def versions(bench: Bench, case_id: str) -> dict[str, int]:
    with bench.service.context.database.reading() as connection:
        return {s.id: s.version for s in resources.in_case(connection, case_id, ["Linkage"])}


def test_an_undone_group_stays_undone_and_says_who_and_why(bench: Bench, case_id: str) -> None:
    group = group_of(bench, case_id, "Hypertension")
    link = unlinked(bench, case_id, group=group["group"])
    assert (link["id"], link["active"]) == (group["group"], False)

    for name in ("riverside", "lakeside"):
        gather(bench, case_id, name, record_of(name))

    plain = merged(bench, case_id)
    assert group["group"] not in [g["group"] for g in plain["groups"]]
    [undone] = plain["undone"]
    assert (undone["group"], undone["by"], undone["reason"]) == (group["group"], "Desk", "Two different things.")
    assert [m["reference"] for m in undone["members"]] == [m["reference"] for m in group["members"]]


def test_a_third_source_does_not_bring_an_undone_pair_back(bench: Bench, case_id: str) -> None:
    cancer = next(g for g in merged(bench, case_id)["groups"] if "C50.412" in g["why"])
    unlinked(bench, case_id, group=cancer["group"])
    gather(bench, case_id, "hillcrest", record_of("hillcrest"))

    pair = {m["reference"] for m in cancer["members"]}
    assert not any(pair <= {m["reference"] for m in g["members"]} for g in merged(bench, case_id)["groups"])


def test_one_copy_is_taken_out_of_a_group_and_the_others_stay(bench: Bench, case_id: str) -> None:
    gather(bench, case_id, "hillcrest", record_of("hillcrest"))
    cancer = next(g for g in merged(bench, case_id)["groups"] if "C50.412" in g["why"])
    out = next(m for m in cancer["members"] if m["source"] == "hillcrest")
    assert len(cancer["members"]) == 3

    link = unlinked(bench, case_id, group=cancer["group"], copy=out["reference"])

    assert not link["active"]
    [left] = [g for g in merged(bench, case_id)["groups"] if "C50.412" in g["why"]]
    assert {m["source"] for m in left["members"]} == {"riverside", "lakeside"}
    assert len(merged(bench, case_id)["undone"]) == 2


def test_what_was_undone_is_linked_again_and_the_last_word_holds(bench: Bench, case_id: str) -> None:
    group = group_of(bench, case_id, "Hypertension")["group"]
    unlinked(bench, case_id, group=group)
    bench.service.context.database.dispose()  # another process goes on

    assert linked(bench, case_id, group=group)["active"]
    assert merged(bench, case_id)["undone"] == []
    assert group_of(bench, case_id, "Hypertension")["byHand"]
    assert not unlinked(bench, case_id, group=group)["active"]


def test_undoing_twice_is_undoing_once(bench: Bench, case_id: str) -> None:
    group = group_of(bench, case_id, "Hypertension")["group"]
    first = unlinked(bench, case_id, group=group)

    assert unlinked(bench, case_id, group=group, reason="Again.") == first


def test_copies_that_no_rule_finds_are_linked_by_hand(bench: Bench, case_id: str) -> None:
    biopsies = [ref for ref, (_, text) in rows(bench, case_id).items() if '"11529-5"' in text and "Diagnostic" in ref]
    assert len(biopsies) == 2  # the report and its addendum: one source, two numbers
    made = linked(bench, case_id, copies=biopsies)
    gather(bench, case_id, "lakeside", record_of("lakeside"))

    [group] = [g for g in merged(bench, case_id)["groups"] if g["group"] == made["id"]]
    assert (group["byHand"], group["why"]) == (True, "linked by a person")
    assert {m["reference"] for m in group["members"]} == set(biopsies)


def test_the_word_of_a_person_is_in_a_provenance(bench: Bench, case_id: str) -> None:
    group = group_of(bench, case_id, "Hypertension")["group"]
    unlinked(bench, case_id, group=group)
    answer = bench.call("GET", f"/fhir/Provenance?target=Linkage/{group}").get_json()

    [act] = [e["resource"] for e in answer["entry"]]
    assert act["agent"][0]["who"]["display"] == "Desk"
    assert act["reason"] == [{"text": "Two different things."}]


def test_linkages_are_found_by_the_copy_they_are_about(bench: Bench, case_id: str) -> None:
    group = group_of(bench, case_id, "Hypertension")
    ref = group["members"][0]["reference"]
    answer = bench.call("GET", f"/fhir/Linkage?item={ref}").get_json()

    assert [e["resource"]["id"] for e in answer["entry"]] == [group["group"]]
    changed = {**answer["entry"][0]["resource"], "active": False}
    assert bench.call("PUT", f"/fhir/Linkage/{group['group']}", changed).status_code == 403


@pytest.mark.parametrize(
    ("plain", "refusal"),
    [
        ({"group": "0b0c7d1e-0000-4a55-9a53-6f2f3f6f9a10"}, NotFound),
        ({"group": "{hypertension}", "copy": "Condition/none"}, Invalid),
    ],
)
def test_an_impossible_undoing_is_refused(
    bench: Bench, case_id: str, plain: dict[str, str], refusal: type[Exception]
) -> None:
    known = group_of(bench, case_id, "Hypertension")["group"]
    with pytest.raises(refusal):
        unlinked(bench, case_id, **{k: v.replace("{hypertension}", known) for k, v in plain.items()})


def test_a_group_that_another_has_taken_the_place_of_is_not_undone(bench: Bench, case_id: str) -> None:
    cancer = next(g for g in merged(bench, case_id)["groups"] if "C50.412" in g["why"])
    gather(bench, case_id, "hillcrest", record_of("hillcrest"))
    with pytest.raises(Conflict):
        unlinked(bench, case_id, group=cancer["group"])


def test_an_impossible_link_is_refused(bench: Bench, case_id: str) -> None:
    held = list(rows(bench, case_id))
    condition = next(ref for ref in held if ref.startswith("Condition/"))
    allergy = next(ref for ref in held if ref.startswith("AllergyIntolerance/"))
    group = group_of(bench, case_id, "Hypertension")["group"]
    encounters = [ref for ref in held if ref.startswith("Encounter/")][:2]
    for plain in (
        {"copies": [condition, allergy]}, {"copies": [condition, condition]}, {"copies": encounters}, {},
        {"copies": [condition, "Condition/of-another-case"]}, {"copies": [condition, allergy], "group": group},
    ):  # fmt: skip
        with pytest.raises(Invalid):
            linked(bench, case_id, **plain)


def test_only_the_reviewer_and_the_requesters_side_say_what_is_one(bench: Bench, case_id: str) -> None:
    context = bench.service.context
    group = group_of(bench, case_id, "Hypertension")["group"]
    with pytest.raises(NotFound):
        merged(bench, case_id, REVIEWER)  # not asked yet
    with pytest.raises(Forbidden):
        merging.unlink(context, PCP, case_id, {"group": group, "reason": "x"})
    asked = bench.call("POST", f"/api/second-opinions/{case_id}/ask-reviewer",
                       {"reviewer": example("review.json")["reviewer"]})  # fmt: skip
    assert asked.status_code == 200
    with pytest.raises(Forbidden):
        merging.unlink(context, REVIEWER, case_id, {"group": group, "reason": "x"})  # asked, and has not accepted
    accepted = bench.call("POST", f"/api/second-opinions/{case_id}/accept", {"declaration": {"interests": "none"}},
                          "reviewer")  # fmt: skip
    assert accepted.status_code == 200
    assert not merging.unlink(context, REVIEWER, case_id, {"group": group, "reason": "x"})["active"]
    assert merged(bench, case_id, REVIEWER)["undone"][0]["by"] == "Dr. Clara Standin"


def test_a_copy_that_left_the_record_leaves_its_group(bench: Bench, case_id: str) -> None:
    group = group_of(bench, case_id, "Hypertension")["group"]
    without = [r for r in record_of("lakeside") if r.get("code", {}).get("text") != "Hypertension"]
    gather(bench, case_id, "lakeside", without)

    assert group not in [g["group"] for g in merged(bench, case_id)["groups"]]
    gather(bench, case_id, "lakeside", record_of("lakeside"))
    assert group in [g["group"] for g in merged(bench, case_id)["groups"]]
