"""May something of this patient go to, or come from, this organisation now? Checked before a pull and before a push.

Site policy `treatment-implied` blocks only on a deny; `explicit` needs a permit. R4's Consent.provision: the root is
the rule, nested provisions are exceptions to it.
Source: https://hl7.org/fhir/R4/consent.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fhir_secondop.fhir import times

POLICIES = ("treatment-implied", "explicit")
CARE = frozenset({"TREAT", "COC", "PATRQT"})
COVERAGE = frozenset({"COVERAGE"})


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it may go, and why, in words without the patient."""

    permitted: bool
    because: str


def decide(
    consents: Iterable[dict[str, Any]], policy: str, actors: frozenset[str], now_ms: int, *,
    purposes: frozenset[str] = CARE,
) -> Decision:  # fmt: skip
    """The decision for the party known by any of these references ("Organization/…", "PractitionerRole/…").

    An active deny that covers it wins over everything. A permit for care is none for telling the payer, and the other
    way round; a deny that is about the payer alone leaves care as it is.
    """
    verdicts = [
        _verdict(consent, actors, now_ms, purposes)
        for consent in consents
        if consent.get("status") == "active" and is_about_privacy(consent)
    ]
    if "deny" in verdicts:
        return Decision(False, "a consent on file denies it")
    if "permit" in verdicts:
        return Decision(True, "a consent on file permits it")
    if policy == "explicit":
        return Decision(False, "site policy needs an explicit consent, and there is none")
    return Decision(True, "implied by treatment, as site policy says")


def _verdict(consent: dict[str, Any], actors: frozenset[str], now_ms: int, purposes: frozenset[str]) -> str:
    policies = {c.get("code") for c in consent.get("policyRule", {}).get("coding", [])}
    rule = "deny" if "OPTOUT" in policies else "permit" if "OPTIN" in policies else ""
    return _of_provision(consent.get("provision", {}), rule, actors, now_ms, purposes)


def _of_provision(
    provision: dict[str, Any], above: str, actors: frozenset[str], now_ms: int, purposes: frozenset[str]
) -> str:
    """deny, permit or "" of one provision with its exceptions; `above` is the type of what it is an exception to.

    Of several exceptions that cover it a deny wins; one that names nobody is for everybody.
    """
    named = _purposes(provision)
    if not covers(provision, actors, now_ms) or (named and named <= COVERAGE and not named & purposes):
        return ""
    own = str(provision.get("type", above))
    if own == "permit" and ((named and not named & purposes) or narrowing(provision)):
        own = ""
    nested = [_of_provision(exception, own, actors, now_ms, purposes) for exception in provision.get("provision", [])]
    return "deny" if "deny" in nested else "permit" if "permit" in nested else own


def is_about_privacy(consent: dict[str, Any]) -> bool:
    """Whether a Consent is about sharing or treatment; those for research or advance directives are not asked."""
    scopes = {c.get("code") for c in consent.get("scope", {}).get("coding", [])}
    return not scopes or bool(scopes & {"patient-privacy", "treatment"})


# What narrows a provision to a part of the record or of what is done with it.
_NARROWING = frozenset({"securityLabel", "class", "code", "data", "action", "dataPeriod"})


def narrowing(provision: dict[str, Any]) -> set[str]:
    """The elements that narrow a provision to a part of the record, or of what is done with it."""
    return {element for element in _NARROWING if provision.get(element)}


def covers(provision: dict[str, Any], actors: frozenset[str], now_ms: int) -> bool:
    """Whether a provision is about these actors, or about everybody, and holds now."""
    return _in_period(provision, now_ms) and (not provision.get("actor") or _names(provision, actors))


def is_for_care(provision: dict[str, Any]) -> bool:
    """Whether a provision names no purpose, or one of ours."""
    named = _purposes(provision)
    return not named or bool(named & CARE)


def _purposes(provision: dict[str, Any]) -> set[str]:
    return {str(p.get("code")) for p in provision.get("purpose", [])}


def _names(provision: dict[str, Any], actors: frozenset[str]) -> bool:
    """Whether a provision names one of these references as its actor."""
    return any(actor.get("reference", {}).get("reference") in actors for actor in provision.get("actor", []))


def _in_period(provision: dict[str, Any], now_ms: int) -> bool:
    """Whether a provision holds now."""
    period = provision.get("period", {})
    if "start" in period and times.interval(period["start"]).low > now_ms:
        return False
    return "end" not in period or times.interval(period["end"]).high > now_ms
