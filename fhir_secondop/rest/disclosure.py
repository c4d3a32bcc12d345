"""What a handler says of its request for the audit: who calls, what was asked for, what is in the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flask import g

from fhir_secondop.model import Caller
from fhir_secondop.store.audit.rows import Access, case_of
from fhir_secondop.store.resources import Stored, is_id

# http://terminology.hl7.org/CodeSystem/v3-ActReason: what a caller of this role comes for; else it is treatment.
_PURPOSE = {"auditor": "HCOMPL", "operator": "HSYSADMIN", "patient": "PATRQT"}


def access() -> Access:
    """What the audit will say of the request under way."""
    found: Access | None = g.get("audit_access")
    if found is None:
        found = g.audit_access = Access()
    return found


def signed_in(caller: Caller) -> None:
    """Says who calls."""
    g.caller = caller.id
    noted = access()
    noted.caller, noted.behalf = caller.id, caller.on_behalf_of
    noted.purpose = next((why for role, why in _PURPOSE.items() if caller.roles == {role}), "TREAT")


def parts() -> list[tuple[Access, int]]:
    """The requests that this one consists of and that are recorded with it, each with its status."""
    found: list[tuple[Access, int]] = g.setdefault("audit_parts", [])
    return found


def asked(resource_type: str, resource_id: str) -> None:
    """Says which resource was asked for; found, refused or not there. What can't be an id is not repeated."""
    noted = access()
    if is_id(resource_id):
        noted.type, noted.id = resource_type, resource_id


def disclosed(found: Iterable[Stored]) -> None:
    """Says that these are in the answer."""
    for case_id, number in Counter(stored.case_id for stored in found).items():
        disclosed_of(case_id, number)


def disclosed_of(case_id: str | None, number: int = 1) -> None:
    """Says that so many resources of a case are in the answer; the audit finds the case of what was `asked` itself."""
    counted = access().disclosed
    case = case_of(case_id)
    counted[case] = counted.get(case, 0) + number
