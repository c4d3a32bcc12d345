"""The statements of searches are kept: built once for a form, with each reader's own values, and no more often."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.fhir import definitions, query
from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.store import plans, search
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, DESK, create, sees

TYPES = sorted(definitions.resource_types())


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of which conditions are built, from nothing that is kept."""
    found: list[str] = []
    real = plans._conditions

    def noted(kind: str, *of: Any) -> Any:
        found.append(kind)
        return real(kind, *of)

    monkeypatch.setattr(plans, "_conditions", noted)
    for each in (plans.lists, plans.counts, plans.total, plans.page, plans.newest, plans.in_order, plans.among):
        each.cache_clear()
    return found


def found(database: Database, kinds: str | list[str], text: str, visibility: Any = EVERYTHING) -> list[str]:
    with database.reading() as connection:
        return [each.id for each in search.run(connection, query.parse(kinds, text), visibility, BASE).matches]


def test_a_form_is_built_once_whatever_its_values(database: Database, built: list[str]) -> None:
    with database.transaction(DESK) as tx:
        for number in range(3):
            create(tx, {"resourceType": "Patient", "gender": "male", "name": [{"family": f"Abel{number}"}]},
                   resource_id=f"p{number}")  # fmt: skip
    assert found(database, "Patient", "family=Abel1&gender=male") == ["p1"]
    times = len(built)
    assert found(database, "Patient", "family=Abel2&gender=male") == ["p2"]
    assert found(database, "Patient", "family=Cain&gender=male") == []
    assert len(built) == times
    assert found(database, "Patient", "family=Abel2,Abel0&gender=male") == ["p0", "p2"]
    assert len(built) > times


def test_readers_of_a_kind_share_a_form_and_not_what_they_see(database: Database, built: list[str]) -> None:
    ours = [Caller(name, name, frozenset({"provider"}), ("user/*.rs",), parties=(name,)) for name in ("a", "b")]
    for caller in ours:
        with database.transaction(caller) as tx:
            create(tx, {"resourceType": "Patient", "active": True}, resource_id=caller.id)
    assert found(database, "Patient", "active=true", sees(ours[0])) == ["a"]
    times = len(built)
    assert found(database, "Patient", "active=true", sees(ours[1])) == ["b"]
    assert len(built) == times


def test_a_search_over_all_types_builds_each_a_few_times_and_not_once_for_every_other(
    database: Database, built: list[str]
) -> None:
    with database.transaction(DESK) as tx:
        for kind in TYPES:
            create(tx, {"resourceType": kind}, resource_id="one")
    assert len(found(database, TYPES, "_id=one&_tag:missing=true&_count=500")) == len(TYPES)
    assert len(built) <= 4 * len(TYPES)
