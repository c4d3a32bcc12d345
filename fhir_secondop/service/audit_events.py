"""A row of the audit as an AuditEvent, as plain JSON, and as a line of syslog.

Source: https://hl7.org/fhir/R4/auditevent.html, https://www.rfc-editor.org/rfc/rfc5424
"""

from __future__ import annotations

import json
from typing import Any

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.store.audit.rows import FIELDS, LATER

_TERMS = "http://terminology.hl7.org/CodeSystem"
# http://hl7.org/fhir/restful-interaction; what is none of them is an operation
_INTERACTIONS = frozenset({
    "read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type",
    "transaction", "batch", "operation",
})  # fmt: skip
_CALLER = "urn:secondop:caller"
_DICOM = "http://dicom.nema.org/resources/ontology/DCM"
_FACILITY_AUDIT, _WARNING, _INFORMATIONAL = 13, 4, 6


def id_of(row: Any) -> str:
    """The id of a row: its chain and its number there."""
    return f"{row.chain}.{row.n}"


def plain(row: Any) -> Resource:
    """A row as it is stored, with its times as instants."""
    found = {name: getattr(row, name) for name in FIELDS}
    found |= {name: value for name in LATER if (value := getattr(row, name)) is not None}
    if "until" in found:
        found["until"] = times.instant(found["until"])
    return {**found, "at": times.instant(row.at), "digest": row.digest}


def event(row: Any, base_url: str) -> Resource:
    """The AuditEvent of a row. Members that nothing is known of are left out."""
    found: Resource = {
        "resourceType": "AuditEvent",
        "id": id_of(row),
        **_kind(row),
        "action": row.action,
        "recorded": times.instant(row.at),
        "outcome": _outcome(row.status),
        "outcomeDesc": "stored" if row.status is None else f"HTTP {row.status}",
        "agent": _agents(row),
        "source": {
            "observer": {"identifier": {"system": "urn:ietf:rfc:3986", "value": base_url}},
            "type": [{"system": f"{_TERMS}/security-source-type", "code": "4", "display": "Application Server"}],
        },
    }
    if row.operation.startswith("$"):
        found["subtype"].append({"system": "urn:secondop:operation", "code": row.operation})
    if row.purpose:
        found["purposeOfEvent"] = [{"coding": [{"system": f"{_TERMS}/v3-ActReason", "code": row.purpose}]}]
    entities = _entities(row)
    if entities:
        found["entity"] = entities
    return found


def _kind(row: Any) -> Resource:
    if row.kind == "audience":
        return {
            "type": {"system": _DICOM, "code": "110113", "display": "Security Alert"},
            "subtype": [{"system": _DICOM, "code": "110135", "display": "Object Security Attributes Changed"}],
        }
    interaction = row.operation if row.operation in _INTERACTIONS else "operation"
    return {
        "type": {"system": f"{_TERMS}/audit-event-type", "code": "rest", "display": "RESTful Operation"},
        "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": interaction}],
    }


def _outcome(status: int | None) -> str:
    """http://hl7.org/fhir/audit-event-outcome: success, minor failure (refused), serious failure (ours)."""
    if status is None or status < 400:
        return "0"
    return "4" if status < 500 else "8"


def _agents(row: Any) -> list[Resource]:
    agents: list[Resource] = [{"who": _who(row.caller or "anonymous"), "requestor": True}]
    if row.behalf:
        agents.append({"who": _who(row.behalf), "requestor": False})
    return agents


def _who(name: str) -> Resource:
    return {"identifier": {"system": _CALLER, "value": name}, "display": name}


def _entities(row: Any) -> list[Resource]:
    entities: list[Resource] = []
    if row.type and row.id:
        version = f"/_history/{row.version}" if row.version else ""
        entities.append({"what": {"reference": f"{row.type}/{row.id}{version}"}, "role": _role("4", "Domain Resource")})
    if row.case_id and (row.type, row.id) != ("ServiceRequest", row.case_id):
        entities.append({"what": {"reference": f"ServiceRequest/{row.case_id}"}, "role": _role("20", "Job")})
    details = [("resources", str(row.number)), ("route", f"{row.method} {row.route}".strip()),
               ("parameters", row.params), ("type", row.type if not row.id else ""),
               ("request", row.request)]  # fmt: skip
    said = [{"type": name, "valueString": value} for name, value in details if value]
    if not entities:
        entities.append({"name": "request", "role": _role("24", "Query")})
    entities[0]["detail"] = said
    if row.party is not None:
        entities.append(_admitted(row))
    return entities


def _admitted(row: Any) -> Resource:
    """Who was let in to the case, or lost it: by an identifier, or as a caller of ours."""
    system, _, value = row.party.rpartition("|")
    until = times.instant(row.until) if row.until is not None else ""
    said = [{"type": name, "valueString": text} for name, text in (("part", row.part), ("until", until)) if text]
    who = {"identifier": {"system": system or _CALLER, "value": value}}
    return {"what": who, "role": _role("11", "Security User Entity"), "detail": said}


def _role(code: str, display: str) -> Resource:
    return {"system": f"{_TERMS}/object-role", "code": code, "display": display}


def syslog(row: Any, host: str) -> str:
    """A row as one RFC 5424 line: of facility "log audit", a warning when refused; the message is JSON."""
    severity = _WARNING if row.status is not None and row.status >= 400 else _INFORMATIONAL
    priority = _FACILITY_AUDIT * 8 + severity
    message = json.dumps(plain(row), separators=(",", ":"))  # ASCII, one line
    return f"<{priority}>1 {times.instant(row.at)} {host or '-'} fhir-secondop - audit - {message}"
