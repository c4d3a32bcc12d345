"""Scopes and visibility: pure decisions that the store applies as a condition of its queries."""

from __future__ import annotations

from collections.abc import Iterable

from fhir_secondop.access import blind, scopes
from fhir_secondop.errors import Forbidden
from fhir_secondop.model import Caller, Visibility

# Who sees every case: the coordinator's desk, and the service itself when a workflow runs.
_ALL = frozenset({"coordinator", "system"})
_NO_CONTENT = frozenset({"operator", "auditor"})


def allows(caller: Caller, resource_type: str, letter: str) -> bool:
    """Whether a SMART scope of the caller covers this interaction (c, r, u, d or s) on the type.

    Also true where it is granted on some resources of the type only: which, `scopes.grants` says.
    """
    return scopes.grants(caller.scopes, resource_type, letter) is not None


def restrictions(caller: Caller, resource_type: str, letter: str) -> tuple[str, ...]:
    """The searches of which a resource must match one, where the scopes grant the interaction on some only."""
    granted = scopes.grants(caller.scopes, resource_type, letter)
    return granted.queries if granted is not None else ()


def unrestricted(caller: Caller, resource_type: str, letter: str) -> bool:
    """Whether the interaction is granted on all resources of the type that the caller sees."""
    return allows(caller, resource_type, letter) and not restrictions(caller, resource_type, letter)


def require_creates(caller: Caller, types: Iterable[str]) -> None:
    """Raises Forbidden unless resources of all these types may be created. A scope on some of a type is not enough."""
    require_scopes(caller, *(f"{kind}.c" for kind in dict.fromkeys(types)))


def require_scopes(caller: Caller, *needed: str) -> None:
    """Raises Forbidden unless each of these ("Task.r") is granted, on all resources of its type."""
    missing = [each for each in needed if not unrestricted(caller, *each.split("."))]
    if missing:
        raise Forbidden(f"{caller.name} has no scope {', '.join(missing)}, which this request needs.")


# What a summary of a case tells of.
SUMMARISED = ("ServiceRequest", "Patient", "Task", "DiagnosticReport")


def summary_scopes_missing(caller: Caller) -> list[str]:
    """The scopes that the caller lacks for being told how a case stands."""
    return [f"{kind}.r" for kind in SUMMARISED if not unrestricted(caller, kind, "r")]


def visibility(caller: Caller, at_ms: int) -> Visibility:
    """What the caller may see at that time: everything, or what it owns and the cases that know it.

    Who only operates or audits sees nothing of any case, whatever a case's audience says of a party of that name.
    """
    if caller.roles & _ALL:
        return Visibility(True, caller.id, frozenset(), at_ms)
    without_content = bool(caller.roles) and caller.roles <= _NO_CONTENT
    parties = frozenset() if without_content else frozenset({caller.id, *caller.parties})
    return Visibility(False, caller.id, parties, at_ms, cut=blind.cut, unsearchable=blind.unsearchable())


def has_role(caller: Caller, *roles: str) -> bool:
    """Whether the caller has one of these roles, or coordinates."""
    return bool(caller.roles & {*roles, *_ALL})


def require_role(caller: Caller, *roles: str) -> None:
    """Raises Forbidden unless the caller has one of these roles, or coordinates."""
    if not has_role(caller, *roles):
        raise Forbidden(f"{caller.name} may not do this; it takes the role {' or '.join(roles)}.")


def require_operating(caller: Caller) -> None:
    """Raises Forbidden unless the caller operates, or coordinates and may change cases.

    An operator has no scopes at all: there is nothing clinical in what the role is for.
    """
    require_role(caller, "operator")
    if "operator" not in caller.roles:
        require_scopes(caller, "ServiceRequest.u")


def acts_as(caller: Caller, identifiers: frozenset[str]) -> bool:
    """Whether the caller is the person with these identifiers ("system|value")."""
    return bool(caller.parties & identifiers)
