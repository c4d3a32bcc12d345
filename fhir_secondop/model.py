"""Frozen values that several rooms share; no behaviour beyond reading themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Resource = dict[str, Any]
"""A FHIR resource as it stands in JSON: numbers with a fraction are Decimal, everything else is plain."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who acts. Nothing enters or leaves the store without one.

    `parties` are the identifiers ("system|value", an NPI say) under which a case knows this caller;
    `scopes` are SMART v2 scopes ("system/Observation.rs").
    """

    id: str
    name: str
    roles: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    parties: frozenset[str] = frozenset()
    on_behalf_of: str = ""
    auth_time: str = ""  # FHIR instant at which a person last proved who it is; a system has none


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody of the people file. One of `subject` ("issuer|sub") and `email` (folded) says how it is recognised."""

    id: str
    name: str
    subject: str
    email: str
    roles: frozenset[str]
    parties: frozenset[str]


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which rows a caller may see: all, or its own and those of the cases in whose audience it stands at `at_ms`.

    An entry of the audience says of which part: RECORD is all of the case, REPORT what was asked and answered
    without the record that was gathered for it. `narrowed` are (type, searches): of that type only what matches one
    of them, as a scope with restrictions says.

    An entry BLIND takes away from the others: of that case what is withheld is not there, the rest is read by way of
    `cut`, and by the parameters `unsearchable` (type, name) nothing of it is found.
    """

    everything: bool
    owner: str
    parties: frozenset[str]
    at_ms: int
    narrowed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cut: Callable[[Resource], Resource] = lambda resource: resource
    unsearchable: frozenset[tuple[str, str]] = frozenset()


RECORD = "record"
REPORT = "report"
BLIND = "blind"
EVERYTHING = Visibility(True, "", frozenset(), 0)


@dataclass(frozen=True, slots=True)
class Connection:
    """An EHR that we talk to, as configured. Secrets and keys are file paths, never values.

    `organization` ("system|value") says whose EHR it is; `patient_system` is the system of that place's own
    patient identifiers. `vendor` names a file of profiles/vendors, whose facts hold where nothing is said here: None
    means unsaid. A resend after an unknown outcome waits `settle_s` (at least the time-out); a note goes on an
    encounter of the last `encounter_days`. `origins` are further origins ("https://files.example") that a page or a
    file of this EHR may stand on; `networks` ("10.20.0.0/16") the private addresses that their names may lead to.
    `part2`: its records are under 42 CFR Part 2. `role` "repository": every version of a case goes there; "payer":
    it is asked whether an opinion is covered. `traceparent`: it is sent that header, the id of our trace.

    `hl7` ("mllp://host:port", "mllps://…" with TLS) or `hl7_folder` is where HL7 v2 messages go; `base` may be empty
    then. `hl7_sender` and `hl7_receiver` are "APPLICATION|FACILITY"; `hl7_kind` is mdm or oru; `hl7_authority` is who
    assigns that place's patient numbers ("NAMESPACE" or "NAMESPACE|UNIVERSAL ID|TYPE"). `hl7_dedupes`: it recognises a
    message that comes again by MSH-10, so one that nobody answered may be sent again.
    """

    name: str
    base: str
    vendor: str = "generic"
    role: str = "ehr"
    auth: str = "none"
    organization: str = ""
    patient_system: str = ""
    username: str = ""
    secret_file: str = ""
    client_id: str = ""
    key_file: str = ""
    token_url: str = ""
    scopes: str = ""
    timeout_s: float = 30.0
    settle_s: float | None = None
    rate_per_s: float | None = None
    concurrency: int | None = None
    documents_per_day: int | None = None
    proxy: str = field(default="", repr=False)  # its URL may hold a password
    ca_bundle: str = ""
    client_cert: str = ""
    client_key: str = ""
    origins: tuple[str, ...] = ()
    part2: bool = False
    networks: tuple[str, ...] = ()
    text_only: bool | None = None
    text_limit: int | None = None
    text_ascii: bool | None = None
    one_content: bool | None = None
    encounter_days: int = 60
    drift_hours: int | None = None  # between two looks at a chart there; None as the setting of that name says
    traceparent: bool = False
    hl7: str = ""
    hl7_folder: str = ""
    hl7_kind: str = "mdm"
    hl7_sender: str = "SECONDOP|SECONDOP"
    hl7_receiver: str = ""
    hl7_authority: str = ""
    hl7_dedupes: bool = False

    @property
    def speaks_hl7(self) -> bool:
        """Whether HL7 v2 messages go there."""
        return bool(self.hl7 or self.hl7_folder)


@dataclass(frozen=True, slots=True)
class Validator:
    """A validator of other guides' profiles, as configured: how it is reached, and which profiles it is asked about.

    `profiles` are canonical URLs; one that ends with "/" stands for all below it. `protocol`: "fhir" is $validate of
    any FHIR server, "hl7" the HTTP mode of HL7's own program. With `required` nothing is taken that it has not checked.
    """

    connection: Connection
    profiles: tuple[str, ...]
    protocol: str = "fhir"
    required: bool = False

    @property
    def name(self) -> str:
        """What the operator calls it."""
        return self.connection.name


@dataclass(frozen=True, slots=True)
class Sender:
    """A system that sends us HL7 v2 messages, as configured: known by application and facility (MSH-3, MSH-4) and by
    the networks that it sends from.

    `organization` ("system|value") and `title` say whose it is; `order_system` is the system of its own order numbers.
    `systems` maps assigning authorities, by namespace or universal id, to systems; `organizations` other facilities to
    "system|value"; `order_codes` are those of OBR-4 that ask for a second opinion.
    """

    name: str
    application: str
    facility: str
    title: str
    organization: str
    order_system: str
    systems: Mapping[str, str]
    organizations: Mapping[str, str] = field(default_factory=dict)
    order_codes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of one copy of one version at a recipient: the four facts of DOMAIN section 6 begin here.

    `sent`: no, accepted, refused, unknown. `copy`: verified, mismatch, unverifiable.
    `location` is theirs ("DocumentReference/12"); `evidence` says in words and hashes how we know.
    """

    sent: str
    copy: str
    rung: int
    location: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of an EHR, as its bytes came: the evidence of what it said."""

    url: str
    fetched_at: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What one EHR said about one type: the line of the coverage manifest.

    `outcome`: answered, refused, not-offered, truncated, failed, not-asked. `asked` is the search, without the
    patient's id; `as_of` the instant at which it was asked; with `since` only what changed after that instant was
    asked for. `unresolved` counts what is cited and could not be read, `withheld` is whether the source said so.
    """

    type: str
    outcome: str
    asked: str = ""
    received: int = 0
    strangers: int = 0
    detail: str = ""
    as_of: str = ""
    since: str = ""
    unresolved: int = 0
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What an operation answers: plain JSON, and the FHIR resource where it is more than those plain facts.

    `location` is the path of what was created, below the FHIR base.
    """

    plain: dict[str, Any]
    resource: Resource | None = None
    status: int = 200
    location: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """A row of the table of operations: it gives the FHIR route, the JSON route, OpenAPI and the command.

    `handler(caller, id, input)` gets the input as plain JSON that satisfies `schema` (JSON Schema, an object), or
    with `raw` the FHIR resource as sent. `type` is empty for a system operation; with `on_type` it is called on the
    type, not on one of its resources. `reads` means: no effect, so GET is offered too. `shows` names further types
    of which it tells something: their scope `r` is needed too, "*" is that of all types. `tells` is the type that it
    tells of alone, and whose `r` is all that it needs.
    """

    code: str
    type: str
    summary: str
    handler: Callable[[Caller, str, Resource], Result]
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "additionalProperties": False})
    reads: bool = False
    raw: bool = False
    on_type: bool = False
    shows: tuple[str, ...] = ()
    tells: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer to a write that the domain has already given: an intake, say. `location` is below the FHIR base."""

    status: int
    resource: Resource
    location: str = ""
