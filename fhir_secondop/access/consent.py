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


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it may go, and why, in words without the patient."""

    permitted: bool
    because: str


def decide(consents: Iterable[dict[str, Any]], policy: str, actors: frozenset[str], now_ms: int) -> Decision:
    """The decision for the party known by any of these references ("Organization/…", "PractitionerRole/…").

    An active deny that covers it wins over everything.
    """
    verdicts = [_verdict(consent, actors, now_ms) for consent in consents if consent.get("status") == "active"]
    if "deny" in verdicts:
        return Decision(False, "a consent on file denies it")
    if "permit" in verdicts:
        return Decision(True, "a consent on file permits it")
    if policy == "explicit":
        return Decision(False, "site policy needs an explicit consent, and there is none")
    return Decision(True, "implied by treatment, as site policy says")


def _verdict(consent: dict[str, Any], actors: frozenset[str], now_ms: int) -> str:
    provision = consent.get("provision", {})
    if not _in_period(provision, now_ms):
        return ""
    for exception in provision.get("provision", []):
        if _in_period(exception, now_ms) and _names(exception, actors):
            return str(exception.get("type", ""))
    if provision.get("actor") and not _names(provision, actors):
        return ""
    if "type" in provision:
        return str(provision["type"])
    policies = {c.get("code") for c in consent.get("policyRule", {}).get("coding", [])}
    return "deny" if "OPTOUT" in policies else "permit" if "OPTIN" in policies else ""


def _names(provision: dict[str, Any], actors: frozenset[str]) -> bool:
    return any(actor.get("reference", {}).get("reference") in actors for actor in provision.get("actor", []))


def _in_period(provision: dict[str, Any], now_ms: int) -> bool:
    period = provision.get("period", {})
    if "start" in period and times.interval(period["start"]).low > now_ms:
        return False
    return "end" not in period or times.interval(period["end"]).high > now_ms
