"""Security labels: what a source has marked as sensitive stays out of a case, unless a consent lets it in by name.

Source: https://hl7.org/fhir/R4/security-labels.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fhir_secondop.access.consent import in_period, is_about_privacy, names

CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def of(resource: dict[str, Any]) -> frozenset[str]:
    """The label codes of a resource, of the two systems that labels are taken from.

    In its meta, and where a DocumentReference (securityLabel) or a Composition (confidentiality) has them besides.
    """
    labels = list(resource.get("meta", {}).get("security", []))
    labels += [coding for concept in resource.get("securityLabel", []) for coding in concept.get("coding", [])]
    found = {str(label.get("code", "")) for label in labels if label.get("system") in (CONFIDENTIALITY, ACT_CODE)}
    return frozenset(found | {str(code) for code in [resource.get("confidentiality")] if code})


@dataclass(frozen=True, slots=True)
class Named:
    """The label codes that consents let in, and those that they keep out. A deny wins, whichever consent says it."""

    let_in: frozenset[str]
    kept_out: frozenset[str]


def named(consents: Iterable[dict[str, Any]], actors: frozenset[str], now_ms: int) -> Named:
    """What active consents say of labels, for everybody or for these actors."""
    allowed: set[str] = set()
    denied: set[str] = set()
    for consent in consents:
        if consent.get("status") != "active" or not is_about_privacy(consent):
            continue
        waiting = [consent.get("provision", {})]
        while waiting:
            provision = waiting.pop()
            waiting += provision.get("provision", [])
            if not in_period(provision, now_ms) or (provision.get("actor") and not names(provision, actors)):
                continue
            codes = {str(label.get("code", "")) for label in provision.get("securityLabel", [])}
            (allowed if provision.get("type") == "permit" else denied).update(codes)
    return Named(frozenset(allowed - denied), frozenset(denied))


def without_labelled(consent: dict[str, Any]) -> dict[str, Any]:
    """A consent without what it says of labelled things only: whether the rest may be asked for is another matter."""

    def kept(provision: dict[str, Any]) -> dict[str, Any]:
        nested = [kept(p) for p in provision.get("provision", []) if not p.get("securityLabel")]
        return {**provision, "provision": nested}

    provision = consent.get("provision", {})
    return {**consent, "provision": {} if provision.get("securityLabel") else kept(provision)}
