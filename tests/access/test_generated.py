"""Nobody gets in where they don't belong: combinations made from what is registered, against a small model.

The long form, with another seed each time it is wanted:
TEST_SEED=7 python -m pytest -m slow -s tests/access/test_generated.py
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.access import rights, scopes
from fhir_secondop.fhir import query
from fhir_secondop.model import EVERYTHING
from fhir_secondop.service import hooks
from fhir_secondop.store import includes, plans, resources, search
from tests.access.combinations.model import OPERATIONS, ROUTES
from tests.access.generator import Asked, Generator
from tests.access.stage import Stage, build
from tests.service.world import opened

SEED = int(os.environ.get("TEST_SEED", "20261128"))
PATCH = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("access")
    with PATCH.context() as patch, opened(folder, f"sqlite:///{folder / 'a.sqlite'}", patch) as world:
        yield build(world)


@pytest.fixture(scope="module")
def generator(stage: Stage) -> Generator:
    return Generator(stage)


def asked(generator: Generator, most: int, *, until_leak: bool = False, only: str = "") -> Asked:
    made = generator.run(SEED, most, until_leak=until_leak, only=only)
    counted = ", ".join(f"{kind} {count:,}" for kind, count in made.counted.items())
    print(f"\n{sum(made.counted.values()):,} combinations with seed {SEED}: {counted}; {len(made.leaks)} leaks")
    return made


def test_every_route_and_operation_has_its_rule(stage: Stage) -> None:
    assert set(ROUTES) == {rule.rule for rule in stage.world.client.application.url_map.iter_rules()}
    assert set(OPERATIONS) == {row.code for row in stage.world.service.operations if row.type}
    assert set(query.SUPPORTED_TYPES) == {
        "token",
        "reference",
        "string",
        "date",
        "number",
        "quantity",
        "uri",
        "composite",
    }


def test_nobody_sees_what_is_not_theirs(generator: Generator) -> None:
    made = asked(generator, 3_000)
    assert sum(made.counted.values()) == 3_000
    assert made.leaks == []


@pytest.mark.slow
def test_nobody_sees_what_is_not_theirs_in_the_long_form(generator: Generator) -> None:
    made = asked(generator, 15_000)
    assert sum(made.counted.values()) == 15_000
    assert made.leaks == []


# ---- a rule that is broken on purpose makes it red


def everybody(patch: PATCH) -> None:
    for module in (resources, plans):
        patch.setattr(module, "visible", lambda visibility: sa.true())


def for_ever(patch: PATCH) -> None:
    real = rights.visibility
    patch.setattr(rights, "visibility", lambda caller, at_ms: real(caller, 0))


def whole_record(patch: PATCH) -> None:
    patch.setattr(resources, "IN_RECORD", sa.false())


def operators_too(patch: PATCH) -> None:
    patch.setattr(rights, "_NO_CONTENT", frozenset())


def any_scope(patch: PATCH) -> None:
    patch.setattr("fhir_secondop.rest.operations.may", lambda *of: None)
    patch.setattr("fhir_secondop.web.api.may", lambda *of: None)


def any_restriction(patch: PATCH) -> None:
    real = scopes.grants
    patch.setattr(scopes, "grants", lambda *of: scopes.Grant() if real(*of) else None)


def every_reference(patch: PATCH) -> None:
    real = hooks.resources.find
    patch.setattr(hooks.resources, "find", lambda connection, visibility, *what: real(connection, EVERYTHING, *what))


def total_of_all(patch: PATCH) -> None:
    real = search.Found
    patch.setattr(search, "Found", lambda found, page, total, *kept: real(found, page, total and total + 1, *kept))


def urgent_to_the_patient(patch: PATCH) -> None:
    patch.setattr(resources, "admitted", lambda visibility: sa.true())


def anything_on_the_way(patch: PATCH) -> None:
    patch.setattr(plans, "seen_by", lambda visibility: lambda resource_type, code: sa.true())


def anything_included(patch: PATCH) -> None:
    patch.setattr(includes, "visible", lambda visibility: sa.true())


def any_type_on_the_way(patch: PATCH) -> None:
    patch.setattr("fhir_secondop.rest.endpoint.Endpoint.ways", lambda endpoint, caller, condition: condition)


BREAKS: list[Callable[[PATCH], None]] = [
    everybody, for_ever, whole_record, operators_too, any_scope, any_restriction, every_reference, total_of_all,
    urgent_to_the_patient, anything_on_the_way, anything_included, any_type_on_the_way,
]  # fmt: skip

SEEN_BY = {anything_on_the_way: "through", anything_included: "through", any_type_on_the_way: "through",
           urgent_to_the_patient: "list", any_restriction: "read"}  # fmt: skip
"""Where few combinations of one kind alone would show it."""


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
def test_a_broken_rule_is_found(generator: Generator, broken: Any) -> None:
    with PATCH.context() as patch:
        broken(patch)
        forget_plans()
        made = asked(generator, 6_000, until_leak=True, only=SEEN_BY.get(broken, ""))
    forget_plans()
    assert made.leaks


def forget_plans() -> None:
    """What was built by other rules than those of now."""
    for each in (each for each in vars(plans).values() if hasattr(each, "cache_clear")):
        each.cache_clear()
