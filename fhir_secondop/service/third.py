"""Asks for a third opinion, and finds those that were asked for."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Forbidden
from fhir_secondop.model import EVERYTHING, Caller, Visibility
from fhir_secondop.opinion import third
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import intake
from fhir_secondop.service.context import Context, load
from fhir_secondop.store import resources, tables

Plain = dict[str, Any]
_ASKING = frozenset({"requester", "pcp", "decision-owner"})


def ask(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """Opens a case for a third opinion on the same question; asked again for the same version, it is the same case."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
        if not may_ask(case, caller):
            raise Forbidden("It is asked for by the requester, the decision owner, the PCP or the patient.")
        if case.report is None:
            raise Conflict("There is no second opinion yet; a third one is asked for when it is signed.")
        # What the asker sees of it and what it is made of are two things: the request goes along whole.
        whole = load(connection, EVERYTHING, case_id)
    pdf = next(f for f in case.report["presentedForm"] if f["contentType"] == "application/pdf")
    number = int(case.report["meta"]["versionId"])
    sent = third.request(whole, plain["reason"], number, pdf)
    opened = intake.open_checked(context, caller, sent, [None] * len(sent))
    return {"id": opened.case_id, "serviceRequest": f"ServiceRequest/{opened.case_id}", "task": opened.task}


def may_ask(case: Case, caller: Caller) -> bool:
    """Whether the caller coordinates, requests, decides, is the patient or the PCP."""
    if rights.has_role(caller, "requester", "patient"):
        return True
    members = (m for m in case.audience if rights.acts_as(caller, m.person.identifiers))
    return any(_ASKING & set(member.roles) for member in members)


def asked(connection: Connection, visibility: Visibility, case_id: str) -> list[str]:
    """The cases of third opinions on that case which may be seen, oldest first."""
    resource, cited = tables.resource.c, tables.reference.c
    based_on = sa.select(cited.rid).where(
        cited.type == "ServiceRequest", cited.param == "based-on", cited.target == f"ServiceRequest/{case_id}"
    )
    query = sa.select(resource.id).where(
        resource.rid.in_(based_on), resource.id == resource.case_id, resources.visible(visibility)
    )
    return list(connection.execute(query.order_by(resource.rid)).scalars())
