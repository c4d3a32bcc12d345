"""What a source or its resources are marked as, and what follows: kept out, an explicit consent, a notice."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fhir_secondop.access import consent, labels
from fhir_secondop.access.consent import Decision
from fhir_secondop.model import Resource
from fhir_secondop.opinion import records
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import Context


class ConsentEnded(Exception):
    """The patient's consent ended while a record was being read: its source is asked for nothing more."""


def may_ask(context: Context, case: Case, name: str, source: str) -> Decision:
    """Whether the record may be asked of that source: one under 42 CFR Part 2 only by an explicit consent."""
    return _may_ask(context, case.of_type("Consent"), name, source)


def require_consent(context: Context, consents: Iterable[Resource], name: str, source: str) -> None:
    """While a record is being read, by the consents as they stand now. Raises ConsentEnded."""
    decision = _may_ask(context, consents, name, source)
    if not decision.permitted:
        raise ConsentEnded(decision.because)


def _may_ask(context: Context, consents: Iterable[Resource], name: str, source: str) -> Decision:
    policy = "explicit" if context.connections[name].part2 else context.consent_policy
    return consent.decide(map(labels.without_labelled, consents), policy, frozenset({source}), context.now())


def may_send(context: Context, case: Case, actors: frozenset[str]) -> Decision:
    """Whether something of the case may go to the party of these references."""
    policy = "explicit" if records.is_part2(case) else context.consent_policy
    return consent.decide(case.of_type("Consent"), policy, actors, context.now())


def may_tell_payer(context: Context, case: Case, actors: frozenset[str]) -> Decision:
    """Whether the payer of these references may be told of the case, to say whether it covers it."""
    policy = "explicit" if records.is_part2(case) else context.consent_policy
    consents = case.of_type("Consent")
    return consent.decide(consents, policy, actors, context.now(), purposes=consent.COVERAGE)


def marks(context: Context, name: str) -> list[Resource]:
    """The labels that everything from that source carries."""
    connection = context.connections.get(name)  # none where there is no connection to it
    return [records.PART2] if connection is not None and connection.part2 else []


def label_of(context: Context, case: Case, source: str) -> Callable[[Resource], str]:
    """The label that keeps a resource of that source out of the case, or ""."""
    said = labels.named(case.of_type("Consent"), frozenset({source}), context.now())
    blocked = (context.blocked_labels | said.kept_out) - said.let_in

    def label(resource: Resource) -> str:
        return min(labels.of(resource) & blocked, default="")

    return label
