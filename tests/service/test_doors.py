"""Three doors, one result: what is stored of a case does not depend on the way it came in."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import uuid
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhir_secondop.bootstrap import LOCAL
from fhir_secondop.opinion import intake_json
from fhir_secondop.store import tables
from tests.service.conftest import Bench

Plain = dict[str, Any]
DOORS = ("json", "operation-bundle", "operation-parameters", "transaction")


def example(case: str = "breast-treatment-plan") -> Plain:
    plain: Plain = json.loads((files("fhir_secondop.examples") / case / "request.json").read_text("utf-8"))
    return plain


def knock(bench: Bench, door: str, plain: Plain, *, seed: int = 0, **headers: str) -> Any:
    """Sends the same case by a door; a FHIR sender names and orders its resources in its own way."""
    if door == "json":
        return bench.call("POST", "/api/second-opinions", plain, **headers)
    bundle = shuffled(intake_json.to_bundle(plain), seed)
    if door == "transaction":
        return bench.call("POST", "/fhir", bundle, **headers)
    if door == "operation-bundle":
        return bench.call("POST", "/fhir/$request-second-opinion", bundle, **headers)
    parts = []
    names = {e["fullUrl"]: f"{e['resource']['resourceType']}/p{n}" for n, e in enumerate(bundle["entry"])}
    for entry in json.loads(renamed(json.dumps(bundle), names))["entry"]:
        kind, _, part_id = entry["fullUrl"].partition("/")
        parts.append({"name": kind.lower(), "resource": {**entry["resource"], "id": part_id}})
    parameters = {"resourceType": "Parameters", "parameter": parts}
    return bench.call("POST", "/fhir/$request-second-opinion", parameters, **headers)


def shuffled(bundle: Plain, seed: int) -> Plain:
    """The same Bundle under other names, in another order, with ids and metas that a sender may have."""
    dice = random.Random(seed)
    names = {
        e["fullUrl"]: f"urn:uuid:{dice.getrandbits(32):08x}-0000-4000-8000-{n:012x}"
        for n, e in enumerate(bundle["entry"])
    }
    again: Plain = json.loads(renamed(json.dumps(bundle), names))
    dice.shuffle(again["entry"])
    for entry in again["entry"]:
        if dice.random() < 0.3:
            entry["resource"]["id"] = f"theirs-{dice.getrandbits(24)}"
            entry["resource"]["meta"] = {"versionId": "7", "lastUpdated": "2026-01-01T00:00:00Z"}
    return again


def renamed(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return text


def case_of(bench: Bench, answer: Any) -> str:
    """The case id in the answer of any door."""
    plain = answer.get_json()
    if "serviceRequest" in plain:
        return str(plain["id"])
    return str(answer.headers["Location"].rpartition("/")[2])


def stored(bench: Bench, case_id: str) -> Counter[str]:
    """Everything of a case, without ids, meta and time stamps, references replaced by what they point at."""
    with bench.service.context.database.reading() as connection:
        rows = connection.execute(
            sa.select(tables.resource.c.type, tables.resource.c.id, tables.version.c.body)
            .join(tables.version, sa.and_(tables.version.c.rid == tables.resource.c.rid,
                                          tables.version.c.version == tables.resource.c.version))
            .where(tables.resource.c.case_id == case_id)
        ).all()  # fmt: skip
    bodies = {f"{row.type}/{row.id}": json.loads(row.body) for row in rows}
    names = dict.fromkeys(bodies, "")
    for _ in range(6):
        names = {
            reference: hashlib.sha256(json.dumps(bare(body, names, case_id), sort_keys=True).encode()).hexdigest()
            for reference, body in bodies.items()
        }
    return Counter(names.values())


def bare(value: Any, names: dict[str, str], case_id: str) -> Any:
    stamps = ("authoredOn", "lastModified", "recorded", "id", "meta")
    if isinstance(value, dict):
        return {k: bare(v, names, case_id) for k, v in value.items() if k not in stamps}
    if isinstance(value, list):
        return sorted((bare(v, names, case_id) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    if isinstance(value, str):
        local = value.split("/_history/")[0]
        return names.get(local, value).replace(case_id, "the-case")
    return value


words = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc", "Zl", "Zp")),
                min_size=1, max_size=40).filter(lambda t: t.strip() == t and t.strip() != "")  # fmt: skip


@st.composite
def requests_(draw: st.DrawFn) -> Plain:
    """A request: the example with parts changed, left out, or said in other words."""
    plain = copy.deepcopy(example(draw(st.sampled_from(["breast-treatment-plan", "spine-surgery"]))))
    plain["patient"]["family"] = draw(words)
    plain["questions"] = draw(st.lists(words, max_size=4, unique=True))
    plain["reasons"] = draw(
        st.lists(
            st.fixed_dictionaries({"code": st.sampled_from(["uncertain-diagnosis", "explore-alternatives"])},
                                  optional={"text": words}),
            min_size=1, max_size=2,
        )
    )  # fmt: skip
    plain["priority"] = draw(st.sampled_from(["routine", "urgent"]))
    for name in ("pathway", "inform", "decision", "pcp", "specialty", "sources"):
        if draw(st.booleans()):
            plain.pop(name, None)
    if draw(st.booleans()):
        plain["underReview"] = plain["underReview"][:1]
    return plain


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plain=requests_(), seed=st.integers(1, 2**16))
def test_the_same_case_by_any_door_gives_the_same_resources(bench: Bench, plain: Plain, seed: int) -> None:
    found = []
    for door in DOORS:
        sent = copy.deepcopy(plain)
        # Each door gets an order number of its own, else it would be a repeat; the number is then left out.
        sent["placer"]["value"] = f"order-{uuid.uuid4()}"
        answer = knock(bench, door, sent, seed=seed)
        assert answer.status_code in (200, 201), answer.get_data(as_text=True)
        case_id = case_of(bench, answer)
        with bench.service.context.database.transaction(LOCAL) as tx:
            tx.connection.execute(
                sa.update(tables.version).values(
                    body=sa.func.replace(tables.version.c.body, sent["placer"]["value"], "order")
                )
            )
        found.append(stored(bench, case_id))
    assert found[0] == found[1] == found[2] == found[3]
    assert sum(found[0].values()) > 8


@pytest.mark.parametrize("first", DOORS)
@pytest.mark.parametrize("second", DOORS)
def test_a_repeat_by_any_door_answers_200_with_the_same_ids_and_creates_nothing(
    bench: Bench, first: str, second: str
) -> None:
    opened = knock(bench, first, example(), seed=1)
    case_id = case_of(bench, opened)
    before, workflows = stored(bench, case_id), len(bench.enqueued)
    again = knock(bench, second, example(), seed=2)
    assert again.status_code == 200
    assert case_of(bench, again) == case_id
    assert stored(bench, case_id) == before
    assert len(bench.enqueued) == workflows == 3  # one gathering per source, and the look at the clocks
    if first == second == "transaction":
        assert {e["response"]["location"] for e in again.get_json()["entry"]} == {
            e["response"]["location"] for e in opened.get_json()["entry"]
        }
        assert {e["response"]["status"] for e in again.get_json()["entry"]} == {"200 OK"}


@pytest.mark.parametrize("door", DOORS)
def test_other_content_under_the_same_number_is_a_conflict_and_changes_nothing(bench: Bench, door: str) -> None:
    case_id = case_of(bench, knock(bench, "json", example()))
    before = stored(bench, case_id)
    other = example()
    other["questions"].append("One more?")
    answer = knock(bench, door, other)
    assert answer.status_code == 409
    assert stored(bench, case_id) == before
    with bench.service.context.database.reading() as connection:
        cases = connection.execute(sa.select(sa.func.count()).select_from(tables.intake)).scalar_one()
    assert cases == 1


def test_an_idempotency_key_does_what_a_placer_identifier_does_and_is_the_callers_own(bench: Bench) -> None:
    opened = knock(bench, "json", example(), Idempotency_Key="k-1")
    other = example()
    other["placer"]["value"] = "another number"
    assert knock(bench, "json", other, Idempotency_Key="k-1").status_code == 409
    assert knock(bench, "json", example(), Idempotency_Key="k-1").get_json()["id"] == opened.get_json()["id"]
    assert bench.call("POST", "/api/second-opinions", other, who="clinic", Idempotency_Key="k-1").status_code == 201


FAULTS: list[tuple[str, Any, str]] = [
    ("patient", None, "patient"),
    ("patient.birthDate", "1971-4-17", "patient.birthDate"),
    ("patient.identifier", [], "patient.identifier"),
    ("reasons", [{"code": "because"}], "reasons[0].code"),
    ("requester", "nobody", "requester"),
    ("sources", ["riverside", "nowhere"], "sources[1]"),
    ("inform", ["ghost"], "inform[0]"),
    ("decision.owner", "ghost", "decision.owner"),
    ("placer.value", None, "placer.value"),
    ("surprise", 1, ""),
]


@pytest.mark.parametrize(("path", "value", "expression"), FAULTS, ids=[f[0] for f in FAULTS])
def test_bad_json_stores_nothing_and_names_the_place(bench: Bench, path: str, value: Any, expression: str) -> None:
    plain = example()
    *parents, last = path.split(".")
    target = plain
    for parent in parents:
        target = target[parent]
    if value is None:
        del target[last]
    else:
        target[last] = value
    answer = bench.call("POST", "/api/second-opinions", plain)
    assert answer.status_code == 422
    found = [i.get("expression", [""])[0] for i in answer.get_json()["issue"]]
    assert expression in found
    _nothing_stored(bench)


FHIR_FAULTS: list[tuple[str, Any, str, str]] = [
    ("code", None, "ServiceRequest", "code"),
    ("subject", {"reference": "urn:uuid:00000000-0000-4000-8000-000000000000"}, "ServiceRequest", "subject"),
    ("requester", None, "ServiceRequest", "requester"),
    ("status", "completed", "ServiceRequest", "status"),
    ("intent", "option", "ServiceRequest", "intent"),
]


@pytest.mark.parametrize(("element", "value", "kind", "where"), FHIR_FAULTS, ids=[f[0] for f in FHIR_FAULTS])
@pytest.mark.parametrize("address", ["/fhir", "/fhir/$request-second-opinion"])
def test_a_bad_bundle_stores_nothing_and_names_the_place(
    bench: Bench, address: str, element: str, value: Any, kind: str, where: str
) -> None:
    bundle = intake_json.to_bundle(example())
    place, request = next(
        (n, e["resource"])
        for n, e in enumerate(bundle["entry"])
        if e["resource"]["resourceType"] == kind and "orderDetail" in e["resource"]
    )
    if value is None:
        del request[element]
    else:
        request[element] = value
    answer = bench.call("POST", address, bundle)
    assert answer.status_code == 422
    found = [i.get("expression", [""])[0] for i in answer.get_json()["issue"]]
    assert any(f.startswith(f"Bundle.entry[{place}].resource") and f.endswith(f".{where}") for f in found), found
    _nothing_stored(bench)


def _nothing_stored(bench: Bench) -> None:
    with bench.service.context.database.reading() as connection:
        for table in (tables.resource, tables.version, tables.intake, tables.token):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
    assert bench.enqueued == []


def test_a_single_service_request_only_creates_and_opens_no_case(bench: Bench) -> None:
    bundle = intake_json.to_bundle(example())
    request = next(e["resource"] for e in bundle["entry"] if "orderDetail" in e["resource"])
    request["subject"] = {"display": "somebody"}
    for element in ("extension", "reasonReference", "supportingInfo", "requester", "meta"):
        request.pop(element, None)
    answer = bench.call("POST", "/fhir/ServiceRequest", request)
    assert answer.status_code == 201
    assert bench.enqueued == []
    assert bench.call("GET", "/api/second-opinions").get_json()["cases"] == []


def test_a_proposal_is_adopted_by_a_new_order_and_keeps_its_intent(bench: Bench) -> None:
    bundle = intake_json.to_bundle(example())
    request = next(e["resource"] for e in bundle["entry"] if "orderDetail" in e["resource"])
    request["intent"] = "proposal"
    answer = bench.call("POST", "/fhir", bundle)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    case_id = case_of(bench, answer)
    adopted = bench.call("GET", f"/fhir/ServiceRequest/{case_id}").get_json()
    assert adopted["intent"] == "order"
    proposal = bench.call("GET", f"/fhir/{adopted['basedOn'][0]['reference']}").get_json()
    assert proposal["intent"] == "proposal"
    assert "requisition" not in adopted or adopted["requisition"] == proposal["requisition"]


def test_a_stranger_sees_nothing_of_a_case(bench: Bench) -> None:
    opened = knock(bench, "json", example()).get_json()
    case_id = opened["id"]
    for path in (
        f"/fhir/ServiceRequest/{case_id}", f"/fhir/{opened['task']}", f"/fhir/{opened['patient']}",
        f"/api/second-opinions/{case_id}", f"/fhir/ServiceRequest/{case_id}/$alignment",
    ):  # fmt: skip
        assert bench.call("GET", path, who="stranger").status_code == 404
    found = bench.call("GET", "/fhir/Patient?_total=accurate", who="stranger").get_json()
    assert (found["total"], found.get("entry", [])) == (0, [])
    assert bench.call("GET", "/api/second-opinions", who="stranger").get_json()["cases"] == []
