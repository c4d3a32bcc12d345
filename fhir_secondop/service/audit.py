"""Who may see the audit of a case, and how it is shown: rendered on reading, newest first."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import urlencode

from fhir_secondop.access import rights
from fhir_secondop.errors import Forbidden, NotFound
from fhir_secondop.model import EVERYTHING, Caller, Resource, Result
from fhir_secondop.opinion.people import identifiers
from fhir_secondop.service import audit_events
from fhir_secondop.service.context import Context, load, urgent_zone
from fhir_secondop.store.audit import trail

DEFAULT_COUNT = 100
MAX_COUNT = 1_000


def trail_of(context: Context, caller: Caller, case_id: str, asked: Resource) -> Result:
    """A page of the rows of a case, plain and as AuditEvents. Raises NotFound, Forbidden.

    What this process has served so far is in it; of other processes up to 50 ms may be missing.
    """
    _check(context, caller, case_id)
    if context.database.audit is not None:
        context.database.audit.flush()
    count = asked.get("_count", DEFAULT_COUNT)
    with context.database.reading() as connection:
        page = trail.of_case(
            connection, case_id, count=count, cursor=asked.get("_cursor", ""), **_without(caller, case_id)
        )
    here = f"{context.base_url}/ServiceRequest/{case_id}/$audit-trail"
    links = [{"relation": "self", "url": _url(here, count, asked.get("_cursor", ""))}]
    if page.cursor:
        links.append({"relation": "next", "url": _url(here, count, page.cursor)})
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset", "link": links}
    entries = [
        {
            "fullUrl": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, audit_events.id_of(row))}",  # served nowhere else
            "resource": audit_events.event(row, context.base_url),
        }
        for row in page.rows
    ]
    if entries:
        bundle["entry"] = entries
    plain: Resource = {"rows": [audit_events.plain(row) for row in page.rows], "cursor": page.cursor}
    return Result(plain, bundle)


def _without(caller: Caller, case_id: str) -> dict[str, Any]:
    """What of the trail a patient does not read: that something critical was seen is told by a person, then signed."""
    if caller.roles & {"coordinator", "system", "auditor"}:
        return {}
    return {"zone": urgent_zone(case_id), "operations": ("$raise-urgent", "$record-call")}


def _url(here: str, count: int, cursor: str) -> str:
    return f"{here}?{urlencode({'_count': count, **({'_cursor': cursor} if cursor else {})})}"


def _check(context: Context, caller: Caller, case_id: str) -> None:
    """The auditor sees the audit of every case, the coordinator of those it sees, a patient of its own."""
    with context.database.reading() as connection:
        if "auditor" in caller.roles:
            load(connection, EVERYTHING, case_id)
            return
        if "patient" in caller.roles:
            try:
                if rights.acts_as(caller, identifiers(load(connection, EVERYTHING, case_id).patient)):
                    return
            except NotFound:
                pass  # said below, in the same words as of a case that the caller may not see
        load(connection, context.visibility(caller), case_id)
        if caller.roles == {"patient"}:  # by a link, which opens this one case
            return
    if not caller.roles & {"coordinator", "system"}:
        raise Forbidden(f"{caller.name} may not see who saw this case; it takes the coordinator, auditor or patient.")
