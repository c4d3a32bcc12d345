"""Scopes and visibility: pure decisions that the store applies as a condition of its queries."""

from __future__ import annotations

from fhir_secondop.access import scopes
from fhir_secondop.errors import Forbidden
from fhir_secondop.model import Caller, Visibility

# Who sees every case: the coordinator's desk, and the service itself when a workflow runs.
_ALL = frozenset({"coordinator", "system"})


def allows(caller: Caller, resource_type: str, letter: str) -> bool:
    """Whether a SMART scope of the caller covers this interaction (c, r, u, d or s) on the type.

    Also true where it is granted on some resources of the type only: which, `scopes.grants` says.
    """
    return scopes.grants(caller.scopes, resource_type, letter) is not None


def visibility(caller: Caller) -> Visibility:
    """What the caller may see: everything, or what it owns and the cases that know it."""
    if caller.roles & _ALL:
        return Visibility(True, caller.id, frozenset())
    return Visibility(False, caller.id, frozenset({caller.id, *caller.parties}))


def require_role(caller: Caller, *roles: str) -> None:
    """Raises Forbidden unless the caller has one of these roles, or coordinates."""
    if not caller.roles & {*roles, *_ALL}:
        raise Forbidden(f"{caller.name} may not do this; it takes the role {' or '.join(roles)}.")


def acts_as(caller: Caller, identifiers: frozenset[str]) -> bool:
    """Whether the caller is the person with these identifiers ("system|value")."""
    return bool(caller.parties & identifiers)
