"""An EHR whose name leads where nobody allowed: nothing is sent, nothing is tried again, and a person reads why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.service import delivery
from tests.ehr.resolving import Resolver
from tests.service.hospitals import SURGEON, few
from tests.service.world import Ehr, World, opened

NAME = "ehr.lakeside.example"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


def named(world: World, shape: str = "full", **settings: Any) -> Ehr:
    """Lakeside, connected by its name."""
    ehr = world.ehr("lakeside", shape, record=few("lakeside"))
    world.connect("lakeside", ehr.base.replace("127.0.0.1", NAME), **settings)
    return ehr


def test_a_delivery_is_held_and_goes_out_once_the_network_is_allowed(world: World, resolver: Resolver) -> None:
    resolver.answers[NAME] = [["127.0.0.1"]]
    ehr = named(world)
    case_id = world.signed(sources=[])
    world.work(patience_s=3600)
    held = world.delivery(case_id, SURGEON)
    assert (held["status"], held["businessStatus"]) == ("on-hold", "failed")
    assert "loopback address" in held["why"]
    assert "networks" in held["why"]
    assert NAME not in held["why"]
    assert (ehr.seen, world.outgoing) == ([], [])
    named_again = world.connections["lakeside"].base
    world.connect("lakeside", named_again, networks=("127.0.0.0/8",))
    world.start()
    world.post(case_id, "replay", {"task": held["task"], "changed": "The network was allowed."})
    assert world.work() == ["verified"]
    assert len(ehr.documents) == 1


@pytest.mark.parametrize(("shape", "vendor"), [("full", "generic"), ("epic", "epic")])
def test_a_write_that_was_refused_was_not_sent(
    world: World, resolver: Resolver, monkeypatch: pytest.MonkeyPatch, shape: str, vendor: str
) -> None:
    """The name changes between looking and sending: neither unknown, nor tried on another rung, nor a link.

    Where Epic takes notes alone, no other rung is left that would look once more.
    """
    resolver.answers[NAME] = [["127.0.0.1"]]
    ehr = named(world, shape, vendor=vendor, networks=("127.0.0.0/8",))
    case_id = world.signed(sources=[])
    send = delivery.push.send

    def after_the_change(*given: Any) -> Any:
        resolver.answers[NAME] = [["169.254.169.254"]]
        return send(*given)

    monkeypatch.setattr(delivery.push, "send", after_the_change)
    world.work(patience_s=3600)
    held = world.delivery(case_id, SURGEON)
    assert (held["status"], held["businessStatus"]) == ("on-hold", "failed")
    assert held["evidence"]["sent"] == "no"
    assert "send-started" not in held["evidence"]
    assert "keeps its machines' secrets" in held["why"]
    assert (ehr.written, world.outgoing) == ([], [])
    monkeypatch.setattr(delivery.push, "send", send)
    resolver.answers[NAME] = [["127.0.0.1"]]
    world.post(case_id, "replay", {"task": held["task"], "changed": "The name is right again."})
    assert world.work() == ["verified"]
    assert len(ehr.documents) == 1


def test_a_source_that_must_not_be_asked_says_so_in_the_manifest(world: World, resolver: Resolver) -> None:
    resolver.answers[NAME] = [["127.0.0.1"]]
    ehr = named(world)
    case_id = world.open()
    world.work(patience_s=3600)
    line = world.manifest(case_id, "Lakeside")["*"]
    assert (line["outcome"], line["received"]) == ("not-asked", 0)
    assert "networks" in line["detail"]
    assert ehr.seen == []
