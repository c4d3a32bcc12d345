"""Security labels: what a source has marked as sensitive stays out of a case, unless a consent lets it in by name.

Source: https://hl7.org/fhir/R4/security-labels.html
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fhir_secondop.access.consent import covers, is_about_privacy, is_for_care, narrowing

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
    """What active consents say of labels, for everybody or for these actors.

    A permit lets a label in only where nothing else narrows it: one for research, or for laboratory results, or for
    the data of a year, is for that alone. A deny keeps it out however it is narrowed.
    """
    allowed: set[str] = set()
    denied: set[str] = set()
    for consent in consents:
        if consent.get("status") != "active" or not is_about_privacy(consent):
            continue
        # Each provision, and whether everything that it is an exception to is for care and for all of the record.
        waiting = [(consent.get("provision", {}), True)]
        while waiting:
            provision, plain = waiting.pop()
            if not covers(provision, actors, now_ms):
                continue
            plain = plain and is_for_care(provision)
            further = narrowing(provision) - {"securityLabel"}
            waiting += [(nested, plain and not further) for nested in provision.get("provision", [])]
            codes = {str(label.get("code", "")) for label in provision.get("securityLabel", [])}
            if provision.get("type") != "permit":
                denied.update(codes)
            elif plain and not further:
                allowed.update(codes)
    return Named(frozenset(allowed - denied), frozenset(denied))


def without_labelled(consent: dict[str, Any]) -> dict[str, Any]:
    """A consent without what it says of labelled things only: whether the rest may be asked for is another matter."""

    def kept(provision: dict[str, Any]) -> dict[str, Any]:
        nested = [kept(p) for p in provision.get("provision", []) if not p.get("securityLabel")]
        return {**provision, "provision": nested}

    provision = consent.get("provision", {})
    return {**consent, "provision": {} if provision.get("securityLabel") else kept(provision)}
