"""What an EHR lets us read and write, and so on which rung we would deliver and why.

Sends only GET and the token request, and nothing of any patient.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from fhir_secondop.ehr import ladder, plan, scopes, sockets, vendors
from fhir_secondop.ehr.addresses import reach_of
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.ehr.origins import origin
from fhir_secondop.ehr.smart import BackendServices
from fhir_secondop.ehr.target import Target
from fhir_secondop.ehr.vendors import Site, Vendor
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

Plain = dict[str, Any]
SKEW_S = 60.0  # beyond it, signed assertions are refused by some
STALE_DAYS = 365  # a vendor fact that nobody has looked at for longer
EXPIRES_DAYS = 30


@dataclass(slots=True)
class Examination:
    """What was found; `problems` are what a person should mend, in words."""

    name: str
    base: str
    plain: Plain = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether this EHR can be read at all."""
        return bool(self.plain.get("reachable"))

    def as_plain(self) -> Plain:
        """The JSON of `doctor --json`."""
        return {"name": self.name, "base": self.base, "ok": self.ok, **self.plain, "problems": self.problems}


def examine(client: Client, today: date) -> Examination:
    """Everything that can be known of one EHR without writing to it."""
    connection = client.connection
    found = Examination(connection.name, connection.base or connection.hl7 or connection.hl7_folder)
    vendor = vendors.load(connection.vendor)
    found.plain["vendor"] = of_vendor(vendor, today)
    if found.plain["vendor"]["oldestDays"] > STALE_DAYS:
        found.problems.append(f"Facts of {vendor.title} were last verified over a year ago; check what matters to you.")
    found.plain["certificate"] = _certificate(connection, found) if connection.base else None
    try:
        if not connection.base:
            client.reach_messages()
        capability = client.capability
    except EhrFailure as failure:
        found.plain["reachable"] = False
        said = f"Nothing can be read of it: {failure.message} ({failure.kind})."
        found.problems.append(f"Not allowed: {failure.message}" if isinstance(failure, Refused) else said)
        found.plain["writePlan"] = {
            "rung": ladder.LINK, "why": f"{ladder.LINK_NAME}: the EHR can't be reached ({failure.message})",
            "notPossible": [],
        }  # fmt: skip
        return found
    found.plain["reachable"] = True
    found.plain |= declared(capability, client.site)
    if connection.base and not capability.fhir_version.startswith("4.0"):
        found.problems.append(f"It says that it is FHIR {capability.fhir_version or 'of no version'}; R4 is 4.0.1.")
    found.plain["signIn"] = _sign_in(client, capability, found)
    found.plain["clock"] = _clock(client, found)
    found.plain["read"] = reads(capability, client.site, client.granted)
    found.plain["writePlan"] = _write_plan(client)
    return found


def declared(capability: Capability, site: Site) -> Plain:
    """What statement and vendor facts tell by themselves: version, what is written, on which rung we would deliver."""
    writes = [
        {
            "type": kind,
            "create": capability.offers(kind, "create") and kind not in site.never_creates,
            "update": capability.offers(kind, "update"),
            "conditionalCreate": capability.conditional_create(kind),
            "because": "declared, and not for such as us" if kind in site.never_creates else "",
        }
        for kind in plan.WRITTEN
    ]
    operations = [f"{kind}/${name}" if kind else f"${name}" for kind, name in _OPERATIONS
                  if capability.operation(kind, name)]  # fmt: skip
    return {
        "fhirVersion": capability.fhir_version,
        "software": capability.software,
        "transaction": capability.system("transaction"),
        "write": writes,
        "operations": operations,
        "read": reads(capability, site, None),
        "writePlan": planned(capability, site),
    }


_OPERATIONS = (
    ("Patient", "match"), ("Patient", "everything"), ("Patient", "summary"), ("DocumentReference", "docref"),
)  # fmt: skip


def planned(capability: Capability, site: Site) -> Plain:
    """The rung as statement and vendor facts have it, before anything was asked."""
    not_possible: list[dict[str, str]] = []
    for rung in ladder.RUNGS:
        because = ladder.declared(rung, capability, site)
        if not because:
            return {"rung": rung.number, "why": _why(rung.name, not_possible), "notPossible": not_possible}
        not_possible.append({"way": rung.name, "why": because})
    return {"rung": ladder.LINK, "why": _why(ladder.LINK_NAME, not_possible), "notPossible": not_possible}


def _why(name: str, not_possible: list[dict[str, str]]) -> str:
    above = "; ".join(f"{row['way']}: {row['why']}" for row in not_possible)
    return f"{name} ({above})" if above else name


def _write_plan(client: Client) -> Plain:
    """The rung once the EHR was asked what only asking tells; no patient is needed for that."""
    try:
        chosen = ladder.choose(Target(client, "Patient/none"))
    except EhrFailure as failure:
        return {**planned(client.capability, client.site), "unsure": f"the EHR did not answer all: {failure.message}"}
    rows = [{"way": way, "why": why} for way, why in chosen.not_possible]
    name = chosen.rung.name if chosen.rung else ladder.LINK_NAME
    return {"rung": chosen.number, "why": _why(name, rows), "notPossible": rows}


def reads(capability: Capability, site: Site, granted: frozenset[str] | None) -> list[Plain]:
    """How each type of the record would be asked for, or why not."""
    rows = []
    for ask in plan.plan(capability, site, granted):
        searches = [f"{ask.type}?{ask.parameter}=" + (f"&{extra}" if extra else "") for extra in ask.first]
        rows.append(
            {
                "type": ask.type,
                "asked": searches if ask.parameter else [],
                "ifRefused": list(ask.demanded) if ask.parameter else [],
                "incremental": ask.since,
                "because": ask.because or ("not offered" if not ask.parameter else ""),
            }
        )
    return rows


def _sign_in(client: Client, capability: Capability, found: Examination) -> Plain:
    said: Plain = {"way": client.connection.auth}
    if not isinstance(client.auth, BackendServices):
        return said
    try:
        client.auth.token()
    except (EhrFailure, Invalid) as failure:
        found.problems.append(f"Signing in failed: {failure.message}")
        return {**said, "works": False, "why": failure.message}
    said |= {
        "works": True,
        "tokenEndpoint": client.auth.token_url(client.auth.configuration()),
        "asked": client.auth.asked.split(),
        "granted": sorted(client.auth.granted) if client.auth.granted is not None else None,
        "missingScopes": missing_scopes(capability, client.granted),
    }
    if said["missingScopes"]:
        found.problems.append(f"Scopes that were not granted: {' '.join(said['missingScopes'])}.")
    return said


def missing_scopes(capability: Capability, granted: frozenset[str] | None) -> list[str]:
    """What the EHR offers, we would use, and no scope allows."""
    read = [f"system/{k}.rs" for k in plan.TYPES if capability.offers(k, "search-type")
            and not scopes.permits(granted, k, "s") and not scopes.permits(granted, k, "r")]  # fmt: skip
    written = [f"system/{k}.cu" for k in plan.WRITTEN if capability.offers(k, "create")
               and not scopes.permits(granted, k, "c")]  # fmt: skip
    return read + written


def _clock(client: Client, found: Examination) -> Plain:
    skew = client.skew_s
    if skew is not None and abs(skew) > SKEW_S:
        found.problems.append(f"Its clock and ours differ by {skew:.0f} s; signed sign-ins may be refused.")
    return {"skewS": None if skew is None else round(skew, 1)}


def of_vendor(vendor: Vendor, today: date) -> Plain:
    """The vendor's facts with their age."""
    facts = [
        {"name": f.name, "value": f.value, "says": f.says, "source": f.source,
         "lastVerified": f.last_verified.isoformat(), "ageDays": (today - f.last_verified).days}
        for f in vendor.facts
    ]  # fmt: skip
    oldest = vendor.oldest
    return {"key": vendor.key, "title": vendor.title, "note": vendor.note, "facts": facts,
            "oldestDays": (today - oldest).days if oldest else 0}  # fmt: skip


def _certificate(connection: Connection, found: Examination) -> Plain | None:
    """When the server's certificate ends; None without TLS, or behind a proxy where it is not ours to see."""
    there = origin(connection.base)
    if there.scheme != "https" or connection.proxy:
        return None
    timeout_s = min(10.0, connection.timeout_s)
    context = ssl.create_default_context(cafile=connection.ca_bundle or None)
    if connection.client_cert:
        context.load_cert_chain(connection.client_cert, connection.client_key or None)
    try:
        with (
            sockets.connect(there.host, there.port, reach_of(connection, timeout_s), timeout_s=timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=there.host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except Refused:
        return None  # the reading that follows is refused too, and says why
    except (OSError, UnicodeError) as error:
        found.problems.append(f"Its certificate could not be checked ({type(error).__name__}).")
        return {"expires": None, "daysLeft": None}
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    left = (ends - datetime.now(UTC)).days
    if left < EXPIRES_DAYS:
        found.problems.append(f"Its certificate ends in {left} days.")
    return {"expires": ends.isoformat(), "daysLeft": left}
