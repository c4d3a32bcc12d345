"""Every quirk of a simulated EHR: one table. What it says here stands in profiles/shapes/README.md (a test compares).

The order of the rows is the order around a request: the first is outermost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fhir_secondop.errors import Invalid
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.sandbox import patients, quirks_files, quirks_read, quirks_store, quirks_wire, quirks_write, signin
from fhir_secondop.sandbox.quirks_write import Check
from fhir_secondop.sandbox.traffic import Around


@dataclass(frozen=True, slots=True)
class Quirk:
    """A row: what it does, what VALUE means ("" takes none, "!" before it must be given), and where it steps in.

    `around` and `check` are made from VALUE once per process; a quirk with nothing of the three is one that the token
    endpoint looks for itself.
    """

    says: str
    value: str = ""
    around: Callable[[str], Around] | None = None
    check: Callable[[str], Check] | None = None
    shape: Callable[[Endpoint], Endpoint] | None = None


def _traffic(says: str, around: Around) -> Quirk:
    return Quirk(says, around=lambda value: around)


def _write(says: str, check: Check) -> Quirk:
    return Quirk(says, check=lambda value: check)


QUIRKS: dict[str, Quirk] = {
    # sign-in
    "scopes-v1": Quirk("knows SMART v1 scopes alone (`.read`, `.write`): invalid_scope for v2"),
    "partial-grant": Quirk("the token does not cover this type: 403 on it", "!type"),
    "token-lifetime": Quirk("how long a token is good", "seconds (300)"),
    "refuses-clients": Quirk("declares client_credentials and refuses them all: unauthorized_client"),
    "expired-token": Quirk("401 on one request with a good token", "which (2)", around=signin.expired_token),
    "forgets-tokens": Quirk("401 once for each token", "at which use (2)", around=signin.forgets_tokens),
    # the wire
    "hangs": _traffic("never answers", quirks_wire.hangs),
    "closes": _traffic("closes each connection without an answer", quirks_wire.closes),
    "slow-bytes": Quirk("the answer dribbles", "seconds for the whole (3)", around=quirks_wire.slow_bytes),
    "truncated-json": _traffic(
        "reads and searches: the length of the whole, half of the body, and the end", quirks_wire.truncated_json
    ),
    "half-json": _traffic("reads and searches: half of the JSON, as if it were the whole", quirks_wire.half_json),
    "storm-429": Quirk("429 with Retry-After: 1, the first times", "how many (3)", around=quirks_wire.storm_429),
    "redirects": Quirk("302 for everything but /metadata", "!the base to go to", around=quirks_wire.redirects),
    "not-acceptable": _traffic("406 with an empty body unless JSON is accepted", quirks_files.not_acceptable),
    "late-answer": Quirk("a write is stored, its answer comes later", "seconds (5)", around=quirks_wire.late_answer),
    "late-store": Quirk(
        "a write is stored later, whether or not the client still waits", "seconds (5)", around=quirks_wire.late_store
    ),
    "lost-answer": Quirk(
        "the first writes are stored, then the connection closes", "how many (1)", around=quirks_wire.lost_answer
    ),
    "refused-late": Quirk(
        "the connection of the first writes closes, nothing is stored", "how many (1)", around=quirks_wire.refused_late
    ),
    # reading
    "policy-denial": Quirk(
        "403 with code 4130 for a type", "!type, or type:code (Observation:4134)", around=quirks_read.policy_denial
    ),
    "daily-quota": Quirk(
        "reads of Binary and DocumentReference: 403 with code 4135 after some", "after how many (10)",
        around=quirks_read.daily_quota,
    ),
    "error-in-200": _traffic("a search answers 200 with a bare OperationOutcome", quirks_read.error_in_200),
    "demands-category": _traffic(
        "Observation, Condition, DiagnosticReport and CarePlan: 400 to a search without category",
        quirks_read.demands("category", "Observation", "Condition", "DiagnosticReport", "CarePlan"),
    ),
    "demands-status": _traffic(
        "MedicationRequest and CareTeam: 400 to a search without status",
        quirks_read.demands("status", "MedicationRequest", "CareTeam"),
    ),
    "expiring-pages": Quirk(
        "a next link answers 400 with code 4113, the first times", "how many (1)", around=quirks_read.expiring_pages
    ),
    "page-2-fails": _traffic("a next link answers 500, always", quirks_read.page_2_fails),
    "more-data": Quirk("an entry says with code 4127 that there may be more", around=quirks_read.more_data),
    "withheld-notice": Quirk("an entry says that data is withheld (`suppressed`)", around=quirks_read.withheld_notice),
    "next-elsewhere": Quirk("next links lead to another base", "!that base", around=quirks_read.next_elsewhere),
    "looping-pages": Quirk("the second page's next link leads to the first", around=quirks_read.looping_pages),
    "overlapping-pages": Quirk(
        "the last match of a page comes again on the next, as it was", around=quirks_read.overlapping_pages
    ),
    "ignores-patient": _traffic(
        "searches as if patient and subject had not been sent: strangers come too",
        quirks_read.ignores("patient", "subject"),
    ),
    "ignores-identifier": _traffic("searches as if identifier had not been sent", quirks_read.ignores("identifier")),
    "raw-binary": Quirk(
        "a Binary is its bytes, unless FHIR is accepted", "`always`: even then", around=quirks_files.raw_binary
    ),
    "wrong-hash": _traffic("a DocumentReference states the hash and size of other bytes", quirks_files.wrong_hash),
    # patients
    "match": Quirk("offers Patient/$match: certain, probable, possible", shape=patients.with_match),
    "everything": Quirk("offers Patient/$everything, in one page", shape=patients.with_everything),
    "no-identifier-search": Quirk(
        "patients can't be searched by identifier", shape=patients.without_identifier_search
    ),
    # writing: what is offered
    "no-transaction": Quirk("transactions are not offered", shape=quirks_write.without_transaction),
    "no-conditional-create": Quirk("If-None-Exist is passed over, as declared", shape=quirks_write.unconditional),
    # writing: what is refused
    "needs-if-match": Quirk(
        "an update without If-Match is refused; a stale one is 409, not 412", "status of the refusal (412)",
        around=quirks_write.needs_if_match,
    ),
    "text-only": _write("documents are text/plain", quirks_write.text_only),
    "note-needs-encounter": _write("documents name an encounter", quirks_write.note_needs_encounter),
    "strict-document": _write(
        "Oracle's rules: one content, inline data, a charset, context.period.end with a time, docStatus final or "
        "amended; else 422",
        quirks_write.strict_document,
    ),
    "report-categories": _write(
        "Oracle's rule: only reports of cardiology (LP29708-2) and pathology (LP7839-6) are created; else 422",
        quirks_write.report_categories,
    ),
    "communication-rules": _write(
        "Oracle's rules: a Communication is completed and sent by a Practitioner; else 422",
        quirks_write.communication_rules,
    ),
    "unmapped-type": Quirk(
        "a document type is not mapped: 400 with code 40000", "its code (any)", check=quirks_write.unmapped_type
    ),
    "duplicate-59141": _write(
        "the same bytes for the same patient again: 400 with code 59141", quirks_write.duplicate_59141
    ),
    # writing: what becomes of it
    "eventual": Quirk(
        "a create is answered with 202, to be read only later", "seconds (2)", around=quirks_store.eventual
    ),
    "stores-nothing": Quirk("a create is answered with 201 and stored nowhere", around=quirks_store.stores_nothing),
    "ignores-criteria": Quirk(
        "If-None-Exist is declared and passed over: always creates", around=quirks_store.ignores_criteria
    ),
    "matches-too-much": _traffic(
        "If-None-Exist answers 200 with whatever there is of the type", quirks_store.matches_too_much
    ),
    "drops-fields": Quirk(
        "elements vanish without a word: Oracle's identifier, masterIdentifier, category, relatesTo, context.related",
        "others, of every type (`docStatus,context.period`)", around=quirks_store.drops_fields,
    ),
    "changed-bytes": Quirk("attachments are stored with other bytes", around=quirks_store.changed_bytes),
}  # fmt: skip


def chosen(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(name, VALUE) of each "NAME" or "NAME=VALUE", in the table's order. Raises Invalid."""
    pairs = [(name, value) for name, _, value in (text.partition("=") for text in texts)]
    for name, value in pairs:
        quirk = QUIRKS.get(name)
        if quirk is None:
            raise Invalid(f"Unknown quirk {name}; known are {', '.join(sorted(QUIRKS))}.")
        if value and not quirk.value:
            raise Invalid(f"The quirk {name} takes no value.")
        if quirk.value.startswith("!") and not value:
            raise Invalid(f"The quirk {name} needs a value: {quirk.value[1:]}.")
    order = list(QUIRKS)
    return tuple(sorted(pairs, key=lambda pair: order.index(pair[0])))
