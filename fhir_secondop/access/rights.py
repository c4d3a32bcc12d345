"""Scopes and visibility: pure decisions that the store applies as a condition of its queries."""

from __future__ import annotations

import re

from fhir_secondop.errors import Forbidden
from fhir_secondop.model import Caller, Visibility

_SCOPE = re.compile(r"(?:system|user|patient)/(\*|[A-Z][A-Za-z]+)\.(c?r?u?d?s?)")
# Who sees the audit, or the machine, and no clinical content; whoever is a case's party too has another role for it.
NO_CONTENT = frozenset({"auditor", "operator"})
# Who sees every case: the coordinator's desk, and the service itself when a workflow runs.
_ALL = frozenset({"coordinator", "system"})


def allows(caller: Caller, resource_type: str, letter: str) -> bool:
    """Whether a SMART v2 scope of the caller covers this interaction (c, r, u, d or s) on the type.

    Source: https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html
    """
    for scope in caller.scopes:
        match = _SCOPE.fullmatch(scope)
        if match and match[1] in ("*", resource_type) and letter in match[2]:
            return True
    return False


def visibility(caller: Caller) -> Visibility:
    """What the caller may see: everything, or what it owns and the cases that know it."""
    if caller.roles & _ALL:
        return Visibility(True, caller.id, frozenset())
    if caller.roles and caller.roles <= NO_CONTENT:
        return Visibility(False, caller.id, frozenset())
    return Visibility(False, caller.id, frozenset({caller.id, *caller.parties}))


def require_role(caller: Caller, *roles: str) -> None:
    """Raises Forbidden unless the caller has one of these roles, or coordinates."""
    if not caller.roles & {*roles, *_ALL}:
        raise Forbidden(f"{caller.name} may not do this; it takes the role {' or '.join(roles)}.")


def acts_as(caller: Caller, identifiers: frozenset[str]) -> bool:
    """Whether the caller is the person with these identifiers ("system|value")."""
    return bool(caller.parties & identifiers)
