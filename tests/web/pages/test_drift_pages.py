"""What a chart was seen to contradict, on the pages: who sees it, and who says what it is."""

from __future__ import annotations

from tests.service.test_drift import change, items, look
from tests.web.pages.conftest import Clinic

SAYS = "has the status entered-in-error"


def test_an_item_to_check_is_on_the_list_and_the_case_and_is_closed_there(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed(sources=[])
    world.work(patience_s=60)
    case, action = f"/cases/{case_id}", f"/cases/{case_id}/do/close-check"
    assert "not seen again yet" in clinic.text(case)
    change(world.ehrs["lakeside"], status="entered-in-error")
    look(world)
    for who in ("desk", "surgeon"):  # who coordinates, and who decides
        listed = clinic.get("/", who).get_data(as_text=True)
        assert "The chart there seems to contradict" in listed, who
        assert f"{case}#to-check" in listed, who
        assert action in clinic.forms(case, who)
    assert "The chart there seems to contradict" not in clinic.text("/", "pcp")
    assert SAYS in clinic.text(case, "pcp")
    assert action not in clinic.forms(case, "pcp")
    (one,) = items(world, case_id)
    refused = clinic.post(action, {"task": one["task"], "answer": "diverged", "reason": " "}, "surgeon")
    assert refused.status_code == 422
    done = clinic.send(case, action, "surgeon", answer="diverged", reason="zq-<b>taken</b> out")
    assert done.status_code == 303
    shown = clinic.text(case, "pcp")
    assert "the chart diverges" in shown
    assert "zq-<b>taken</b> out" in shown  # escaped
    assert "A chart seems to contradict; somebody is to look" in shown  # what happened
    assert action not in clinic.forms(case, "desk")
    assert "The chart there seems to contradict" not in clinic.text("/", "desk")
