"""What is done regularly: it ends when it is told to, and not after everything else that is due."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fhir_secondop.service import rounds
from fhir_secondop.service.context import Context
from fhir_secondop.service.rounds import Round, Rounds
from tests.service.world import opened


def test_a_stop_waits_for_what_is_being_done_and_for_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "LOOK_S", 0.01)
    begun, go = threading.Event(), threading.Event()
    done = []

    def first(context: Context) -> None:
        begun.set()
        assert go.wait(20)
        done.append("first")

    with opened(tmp_path, f"sqlite:///{tmp_path / 'a.sqlite'}", monkeypatch) as world:
        taken = Rounds(world.context, (Round("first", 60, first), Round("second", 60, lambda _: done.append("second"))))
        taken.stop()  # one that never began has nothing to end
        taken = Rounds(world.context, (Round("first", 60, first), Round("second", 60, lambda _: done.append("second"))))
        taken.start()
        assert begun.wait(20)
        stopping = threading.Thread(target=taken.stop)
        stopping.start()
        while not taken.is_stopped:
            pass
        go.set()
        stopping.join(20)
    assert done == ["first"]
