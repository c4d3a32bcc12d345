"""$docref: the documents of a patient. None is made on demand here, and whoever wants only those is told so.

Source: https://hl7.org/fhir/us/core/STU6.1/OperationDefinition-docref.html
"""

from __future__ import annotations

from flask import Response

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.fhir import query
from fhir_secondop.model import Caller
from fhir_secondop.rest import disclosure, inputs, interactions, shown
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import compartments, plans, resources
from fhir_secondop.store.compartments import Place
from fhir_secondop.store.resources import Stored

PARAMETERS = ("patient", "start", "end", "type", "on-demand", "_count", "_page")
_ON_DEMAND = "No document is made on demand here; without on-demand=true those that are stored are given."


def run(endpoint: Endpoint, caller: Caller, _: str) -> Response:
    """GET and POST DocumentReference/$docref. Raises Forbidden, Invalid."""
    sent = inputs.read(endpoint, PARAMETERS)
    interactions.may(endpoint, caller, "DocumentReference", "search-type", "s")
    patient_id = sent.one("patient").removeprefix("Patient/")
    if not resources.is_id(patient_id):
        raise Invalid("$docref takes the id of the patient.", path="patient")
    disclosure.asked("Patient", patient_id)
    count, period = shown.page_size(endpoint, sent), sent.period()
    is_on_demand, types = sent.flag("on-demand"), ",".join(sent.values.get("type", ()))
    asked = [("patient", f"Patient/{patient_id}"), *([("type", types)] if types else [])]
    wanted = query.parse("DocumentReference", asked)
    notices: list[Issue] = []
    found: list[Stored] = []
    more, is_more = "", False
    visibility = endpoint.sees(caller, ("DocumentReference", "s"), ("Patient", "r"))
    with endpoint.reading() as connection:
        if endpoint.allows(caller, "Patient", "r"):
            patient = resources.find(connection, visibility, "Patient", patient_id)
            if patient is None or patient.deleted:
                said = f"There is no Patient/{patient_id} here that {caller.name} may see."
                notices.append(Issue("warning", "not-found", "", said))
        if is_on_demand:
            notices.append(Issue("warning", "not-supported", "", _ON_DEMAND))
        else:
            conditions = plans.conditions_of(wanted, visibility, endpoint.base_url)
            if period is not None:
                conditions.append(compartments.in_care(period))
            place = shown.place_of(endpoint, caller, "$docref", sent)
            size = 0
            for one in compartments.page(connection, conditions, visibility, place, count + 1):
                size += one.bytes
                if len(found) == count or (found and size > endpoint.limits.max_page_bytes):
                    is_more = True
                    break
                found.append(one)
            if is_more:
                last = place.last if place else compartments.newest(connection)
                more = shown.link_to(endpoint, caller, "$docref", sent, Place(found[-1].rid, last))
    disclosure.disclosed(found)
    return shown.searchset(endpoint, "DocumentReference/$docref", sent.pairs(), more, found, (), notices)
