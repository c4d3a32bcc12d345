"""The simulated EHRs that deliveries are tried at: who works there, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from werkzeug.wrappers import Response

from fhir_secondop.model import Resource
from fhir_secondop.sandbox.traffic import Asked
from tests.service.world import Ehr, World, record_of

SURGEON, ONCOLOGIST, PCP = "Mockridge", "Examplar", "Placeholder"


def few(name: str) -> list[Resource]:
    """Of an EHR's record the patient, the organization, the people and the encounters: enough to deliver."""
    kept = ("Patient", "Organization", "Practitioner", "PractitionerRole", "Encounter")
    return [r for r in record_of(name) if r["resourceType"] in kept]


def hospital(world: World, *quirks: str, shape: str = "full", **settings: Any) -> Ehr:
    """Lakeside, where the surgeon and the oncologist work."""
    return world.ehr("lakeside", shape, *quirks, record=few("lakeside"), **settings)


def clinic(world: World, *quirks: str, **settings: Any) -> Ehr:
    """Riverside, shaped like Epic's, where the PCP works: a text note on an encounter."""
    return world.ehr("riverside", "epic", *quirks, record=few("riverside"), **{"vendor": "epic", **settings})


def first(world: World, fits: Callable[[Asked], bool], answer: Callable[[], Any], times: int = 1) -> Any:
    """An `instead` that answers the first requests that fit."""
    left = [times]

    def instead(asked: Asked) -> Any:
        if fits(asked) and left[0] > 0:
            left[0] -= 1
            return answer()
        return None

    return instead


def json_answer(text: str) -> Any:
    """An answer that is JSON, or says so."""
    return Response(text, 200, mimetype="application/fhir+json")


def repository(world: World, *quirks: str) -> Ehr:
    """A server that every version of every case goes to; it knows nobody yet."""
    return world.ehr("archive", "full", *quirks, record=[], role="repository")


def planned(world: World, case_id: str, version: int, text: str) -> None:
    """The surgeon adopts a version, and says so in the plan of record."""
    body = {"version": version, "decision": "adopt", "text": text}
    world.post(case_id, "plan-of-record", body, "surgeon")
