"""Settings from one TOML file and SECONDOP_* variables over it; the only reader of the environment.

The file is the one that `--config` or SECONDOP_CONFIG names, else ./secondop.toml where there is one.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fhir_secondop import alert_settings
from fhir_secondop.alert_settings import Alerts
from fhir_secondop.errors import Invalid
from fhir_secondop.limits import RANGES, Limits
from fhir_secondop.model import Connection, Sender, Validator

DEFAULT_FILE = "secondop.toml"
_MINUTES = re.compile(r"[1-9]\d{0,4}(,[1-9]\d{0,4}){2}")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
AUTHS = ("tokens", "smart", "none")
CONNECTION_AUTHS = ("none", "basic", "bearer", "smart")  # what ehr.auth can do; a test compares them
CONNECTION_ROLES = ("ehr", "repository", "payer")
CONSENT_POLICIES = ("treatment-implied", "explicit")  # what access.consent knows; a test compares them
OIDC_CLIENT_AUTHS = ("secret", "private_key_jwt", "none")
AUDITS = ("default", "strict")
VALIDATOR_PROTOCOLS = ("fhir", "hl7")  # what ehr.second_stage speaks; a test compares them
LOG_FORMATS = ("text", "json")  # what service.logs writes; a test compares them
TRACE_CALLERS = ("ignore", "continue")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, slots=True)
class Settings(Limits):
    """What is in force, the limits among it. `origins` says where each value came from: default, file, or variable."""

    host: str = "127.0.0.1"
    port: int = 8100
    base_url: str = ""  # the public URL; never taken from the Host header
    database: str = "secondop.sqlite"
    auth: str = "smart"
    token_file: str = "tokens.toml"
    clients_file: str = "clients.toml"  # the systems that may sign in, with auth=smart
    token_s: int = 300  # how long an access token of ours lives
    issuer: str = ""  # whose access tokens are taken instead of ours, with auth=smart
    audience: str = ""  # what those have as aud
    link_secret_file: str = "link-secret"
    metrics_token_file: str = ""  # the token by which a scraper reads /metrics; else by signing in
    keys_file: str = "keys.json"  # our signing keys for SMART sign-in at EHRs
    document_keys_file: str = "document-keys.json"  # the keys that sign documents; the first is made when it is needed
    people_file: str = ""  # who may sign in to the pages, and as what
    oidc_issuer: str = ""  # the OpenID provider at which people sign in
    oidc_client_id: str = ""
    oidc_client_auth: str = "secret"  # secret (of oidc_secret_file), private_key_jwt (keys_file), none: a public client
    oidc_secret_file: str = ""
    demo_people: str = ""  # password hashes of the demo's accounts; on loopback only
    session_idle_s: int = 900
    session_longest_s: int = 43_200
    signing_age_s: int = 300  # how long ago somebody who signs may have proved who it is
    consent_policy: str = "treatment-implied"
    same_organization: str = (
        "warn"  # of the reviewer and an author: "fail" needs an override, and its reason is printed
    )
    proposal_days: int = 60  # after which a proposal that nobody answered ages out
    drift_hours: int = 24  # between two looks at a chart to which something was delivered; 0: never looked at
    drift_days: int = 90  # for which it is looked at after the last delivery, acknowledgement or decision
    contact: str = ""  # whom to call, for those who get a notice: "Call the coordinator, +1-202-555-0100."
    urgent_minutes: str = "15,30,60"  # after which the deputy, the coordinator, then everybody is to be called
    # Codes of security labels that keep a resource out of a case, unless a consent names them.
    blocked_labels: str = "R,V,ETH,HIV,PSY,SDV,SUD,42CFRPart2"
    log_level: str = "INFO"
    log_format: str = "text"  # or json: an object a line
    otlp_endpoint: str = ""  # where spans go, by OTLP over HTTP: "http://127.0.0.1:4318/v1/traces"; else there are none
    trace_ratio: float = 1.0  # of the traces that begin here
    trace_callers: str = "ignore"  # or "continue": a caller's traceparent is believed
    audit: str = "default"  # "strict": an answer waits until it is recorded durably
    checklists: str = ""  # a folder with the site's own checklists; those of the program hold beside it
    clocks: str = ""  # the file with the site's time zone, holidays and targets; else ours
    polling_s: float = 0.2  # between two looks of an idle worker at what is to be gathered and delivered
    gatherings_per_ehr: int = 1  # at once, over all workers
    deliveries_per_ehr: int = 8  # twice a connection's `concurrency`: half of a delivery is our own work
    worker_concurrency: int = 16  # workflows of a kind at once in one worker
    lease_s: float = 10.0  # after which a worker that does not beat is gone for the others
    keep_jobs_days: int = 30  # for which workflows that have ended are kept; 0 for ever
    drain_s: float = 20.0  # for which a worker that stops waits for what it has begun
    circuit_failures: int = 5  # attempts in a row without an answer, after which an EHR is left alone
    circuit_pause_s: float = 30.0  # until it is tried again; twice as long each time
    circuit_longest_s: float = 900.0
    requests_per_s: float = 50.0  # of one caller, or of an address that did not sign in; 0: without end
    burst: int = 100  # how many of them at once
    writable_types: str = "case"  # by plain FHIR writes; service.writable says what else may stand here
    trusted_proxy: str = ""  # the address or network of the proxy whose X-Forwarded-For is believed
    connections: Mapping[str, Connection] = field(default_factory=dict)
    validators: Mapping[str, Validator] = field(default_factory=dict)  # of other guides' profiles
    alerts: Alerts = field(default_factory=Alerts)  # what is told to whom when deliveries wait
    hl7_senders: Mapping[str, Sender] = field(default_factory=dict)  # whose HL7 v2 messages are taken
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach it."""
        return self.host not in _LOOPBACK

    @property
    def escalation(self) -> tuple[int, ...]:
        """The minutes after which an urgent contact escalates."""
        return tuple(int(minutes) for minutes in self.urgent_minutes.split(","))

    @property
    def limits(self) -> Limits:
        """How much one request may ask for."""
        return Limits(**{f.name: getattr(self, f.name) for f in fields(Limits)})

    @property
    def public_url(self) -> str:
        """The URL under which others reach us, without a slash at the end."""
        return (self.base_url or f"http://{self.host}:{self.port}").rstrip("/")


def load(
    path: str = "", environment: Mapping[str, str] | None = None, *, said: Mapping[str, str | int] | None = None
) -> Settings:
    """The settings in force: `said` on the command line wins over variables, those over the file.

    Raises Invalid naming the key that is wrong, and what is allowed.
    """
    variables = os.environ if environment is None else environment
    chosen = path or variables.get("SECONDOP_CONFIG", "")
    file = Path(chosen or DEFAULT_FILE)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    connections: dict[str, Connection] = {}
    validators: dict[str, Validator] = {}
    alerts = Alerts()
    senders: dict[str, Sender] = {}
    if file.exists():
        loaded = _read(file)
        for table in ("connections", "validators", "hl7_senders"):
            if not isinstance(loaded.get(table, {}), dict):
                raise Invalid(f"{file}: {table} are tables, [{table}.NAME].")
        connections = {name: connection(name, entry, file) for name, entry in loaded.pop("connections", {}).items()}
        validators = {name: _validator(name, entry, file) for name, entry in loaded.pop("validators", {}).items()}
        alerts = alert_settings.read(loaded.pop("alerts", {}), file, connections, connection)
        senders = {name: _sender(name, entry, file) for name, entry in loaded.pop("hl7_senders", {}).items()}
        for key, value in loaded.items():
            values[key] = value
            origins[key] = str(file)
    elif chosen:
        raise Invalid(f"The configuration file {chosen} does not exist.")
    for key, value in variables.items():
        if not key.startswith("SECONDOP_") or key in _NOT_SETTINGS:
            continue
        name = key.removeprefix("SECONDOP_").lower()
        if name not in _KEYS:
            raise Invalid(f"The variable {key} is no setting; known are {', '.join(sorted(_KEYS))}.")
        values[name] = value
        origins[name] = key
    for name, given in (said or {}).items():
        values[name] = given
        origins[name] = f"--{name}"
    tables: dict[str, Any] = {"connections": connections, "validators": validators, "alerts": alerts,
                              "hl7_senders": senders}  # fmt: skip
    settings = Settings(**_typed(values, file), **tables, origins=origins)
    return _checked(settings, file)


_TABLES = ("connections", "validators", "alerts", "hl7_senders", "origins")
# The file's own name, and what the tests read.
_NOT_SETTINGS = ("SECONDOP_CONFIG", "SECONDOP_TEST_DATA", "SECONDOP_REQUIRE")
_KEYS = {f.name: f.type for f in fields(Settings) if f.name not in _TABLES}


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} is not TOML: {error}") from error
    except OSError as error:
        raise Invalid(f"{file} can't be read: {error.strerror}.") from error


def _typed(values: dict[str, Any], file: Path) -> dict[str, Any]:
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise Invalid(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}.")
    try:
        converters: dict[str, Any] = {"int": int, "float": float, "str": str}
        return {key: converters[str(_KEYS[key])](value) for key, value in values.items()}
    except ValueError as error:
        raise Invalid(f"{file}: {error}") from error


FILES = ("secret_file", "key_file", "ca_bundle", "client_cert", "client_key")  # of a connection
HL7_KINDS = ("mdm", "oru")  # what ehr.hl7_documents composes
_PYTHON: dict[str, tuple[type, ...]] = {
    "str": (str,), "float": (int, float), "int": (int,), "bool": (bool,), "tuple[str, ...]": (list,),
}  # fmt: skip
_KINDS = {f.name: str(f.type).removesuffix(" | None") for f in fields(Connection) if f.name != "name"}


def connection(name: str, entry: Any, file: Path, table: str = "connections") -> Connection:
    """A connection from its table in the file; paths are meant from where the file stands.

    Raises Invalid naming the key that is wrong, and what is allowed.
    """
    where = f"{file}: {table}.{name}"
    if not isinstance(entry, dict):
        raise Invalid(f"{where} must be a table: [{table}.{name}].")
    for key, value in entry.items():
        _check_member(where, key, value)
    speaks_hl7 = bool(entry.get("hl7") or entry.get("hl7_folder"))
    if not _is_url(entry.get("base", "")) and not (speaks_hl7 and "base" not in entry):
        raise Invalid(f"{where}.base must be an http(s) URL.")
    if entry.get("auth", "none") not in CONNECTION_AUTHS:
        raise Invalid(f"{where}.auth: use one of {', '.join(CONNECTION_AUTHS)}.")
    if entry.get("role", "ehr") not in CONNECTION_ROLES:
        raise Invalid(f"{where}.role: use one of {', '.join(CONNECTION_ROLES)}.")
    if entry.get("organization") and "|" not in entry["organization"]:
        raise Invalid(f"{where}.organization is written system|value.")
    for origin in entry.get("origins", []):
        if not isinstance(origin, str) or not _is_url(origin):
            raise Invalid(f"{where}.origins must be http(s) URLs.")
    for network in entry.get("networks", []):
        _check_network(where, network)
    if speaks_hl7:
        _check_hl7(where, entry)
    given: dict[str, Any] = {"base": "", **{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}}
    made = Connection(name=name, **given)
    paths = {key: str(file.parent / getattr(made, key)) for key in (*FILES, "hl7_folder") if getattr(made, key)}
    made = replace(made, base=made.base.rstrip("/"), **paths)  # type: ignore[arg-type]
    for key in FILES:
        if getattr(made, key) and not Path(getattr(made, key)).is_file():
            raise Invalid(f"{where}.{key}: there is no file {getattr(made, key)}.")
    if made.auth in ("basic", "bearer") and not made.secret_file:
        raise Invalid(f"{where}.secret_file must name the file with the secret for auth={made.auth}.")
    if made.auth == "smart" and not made.client_id:
        raise Invalid(f"{where}.client_id is needed for auth=smart: the EHR gave it when we were registered.")
    return made


def _check_hl7(where: str, entry: dict[str, Any]) -> None:
    """What belongs together for HL7 v2 messages to go there. Raises Invalid."""
    if entry.get("hl7") and entry.get("hl7_folder"):
        raise Invalid(f"{where}: messages go by hl7 or into hl7_folder, not both.")
    if entry.get("role", "ehr") != "ehr":
        raise Invalid(f"{where}.hl7 goes with role=ehr.")
    if entry.get("hl7") and not _is_mllp(entry["hl7"]):
        raise Invalid(f"{where}.hl7 is written mllp://host:port, or mllps://host:port for TLS.")
    if entry.get("hl7_kind", "mdm") not in HL7_KINDS:
        raise Invalid(f"{where}.hl7_kind: use one of {', '.join(HL7_KINDS)}.")
    for key in ("hl7_sender", "hl7_receiver"):
        if entry.get(key, "A|B").count("|") != 1:
            raise Invalid(f"{where}.{key} is written APPLICATION|FACILITY.")
    for key in ("hl7_receiver", "hl7_authority", "patient_system"):
        if not entry.get(key):
            raise Invalid(f"{where}.{key} is needed for HL7 v2: docs/hl7v2.md has an example.")
    if entry["hl7_authority"].count("|") not in (0, 2):
        raise Invalid(f"{where}.hl7_authority is written NAMESPACE, or NAMESPACE|UNIVERSAL ID|TYPE.")


def _is_mllp(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.path or parts.query or parts.fragment) and "@" not in parts.netloc
    return parts.scheme in ("mllp", "mllps") and bool(parts.hostname) and bool(port) and plain


_OF_SENDERS: dict[str, type] = {
    "application": str, "facility": str, "title": str, "organization": str, "order_system": str, "systems": dict,
    "organizations": dict, "order_codes": list, "networks": list,
}  # fmt: skip


def _sender(name: str, entry: Any, file: Path) -> Sender:
    """A sender of HL7 v2 messages from its table. Raises Invalid naming the key that is wrong, and what is allowed."""
    where = f"{file}: hl7_senders.{name}"
    given: dict[str, Any] = entry if isinstance(entry, dict) else {}
    for key, value in given.items():
        if key not in _OF_SENDERS:
            raise Invalid(f"{where}.{key} is unknown; known are {', '.join(sorted(_OF_SENDERS))}.")
        members = [value, *(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())]
        if not isinstance(value, _OF_SENDERS[key]) or not all(isinstance(m, str) for m in members[1:]):
            raise Invalid(f"{where}.{key} must be a {_OF_SENDERS[key].__name__}, of text.")
    for key in ("facility", "title", "organization", "order_system", "systems"):
        if not given.get(key):
            raise Invalid(f"{where}.{key} is needed; docs/hl7v2.md has an example.")
    for identifier in (given["organization"], *given.get("organizations", {}).values()):
        if "|" not in identifier:
            raise Invalid(f"{where}.organization is written system|value.")
    for network in given.get("networks", []):
        _check_network(where, network)
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Sender(name=name, **{"application": "", **plain})


_OF_VALIDATORS = frozenset(f.name for f in fields(Validator)) - {"connection"}
# Of a connection, what says how a server is reached; the rest is about records and deliveries.
_REACHING = frozenset({
    "base", "auth", "username", "secret_file", "client_id", "key_file", "token_url", "scopes", "timeout_s",
    "rate_per_s", "concurrency", "proxy", "ca_bundle", "client_cert", "client_key", "networks",
})  # fmt: skip
_VALIDATOR_TIMEOUT_S = 10.0  # somebody waits for the answer to a write


def _validator(name: str, entry: Any, file: Path) -> Validator:
    """A validator from its table in the file. Raises Invalid naming the key that is wrong, and what is allowed."""
    where = f"{file}: validators.{name}"
    given: dict[str, Any] = entry if isinstance(entry, dict) else {}
    for key in given:
        if key not in _REACHING | _OF_VALIDATORS:
            known = ", ".join(sorted(_REACHING | _OF_VALIDATORS))
            raise Invalid(f"{where}.{key} is unknown; known are {known}.")
    reaching = {key: value for key, value in given.items() if key in _REACHING}
    made = connection(name, {"timeout_s": _VALIDATOR_TIMEOUT_S, **reaching} if given else entry, file, "validators")
    if not 0.1 <= made.timeout_s <= 120:
        raise Invalid(f"{where}.timeout_s: use seconds from 0.1 to 120.")
    profiles = given.get("profiles")
    if not isinstance(profiles, list) or not profiles or not all(isinstance(p, str) and _is_url(p) for p in profiles):
        raise Invalid(f'{where}.profiles must be canonical URLs; one that ends with "/" stands for all below it.')
    if given.get("protocol", "fhir") not in VALIDATOR_PROTOCOLS:
        raise Invalid(f"{where}.protocol: use one of {', '.join(VALIDATOR_PROTOCOLS)}.")
    if not isinstance(given.get("required", False), bool):
        raise Invalid(f"{where}.required must be true or false.")
    return Validator(made, tuple(profiles), given.get("protocol", "fhir"), given.get("required", False))


def _check_member(where: str, key: str, value: Any) -> None:
    if key not in _KINDS:
        raise Invalid(f"{where}.{key} is unknown; known are {', '.join(sorted(_KINDS))}.")
    if not isinstance(value, _PYTHON[_KINDS[key]]) or (isinstance(value, bool) and _KINDS[key] != "bool"):
        raise Invalid(f"{where}.{key} must be a {_KINDS[key]}.")
    if isinstance(value, int | float) and value < 0:
        raise Invalid(f"{where}.{key} can't be negative.")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    # A user name would be a secret in the file, and is how one host is made to look like another.
    return parts.scheme in ("http", "https") and bool(parts.netloc) and "@" not in parts.netloc


_WIDEST = {4: 8, 6: 7}  # the private 10.0.0.0/8 and fc00::/7; what is wider would allow everything


def _check_network(where: str, network: Any) -> None:
    try:
        found = ipaddress.ip_network(network) if isinstance(network, str) else None
    except ValueError:
        found = None
    if found is None or found.prefixlen < _WIDEST[found.version]:
        raise Invalid(
            f'{where}.networks: {network!r} is no network; write the narrowest that holds the EHR, "10.20.0.0/16" or '
            '"10.20.30.40/32" say, with zeros after the prefix, and none wider than /8 (IPv6: /7).'
        )


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _checked(settings: Settings, file: Path) -> Settings:
    if settings.audit not in AUDITS:
        raise Invalid(f"audit={settings.audit}: use one of {', '.join(AUDITS)}.")
    if settings.consent_policy not in CONSENT_POLICIES:
        raise Invalid(f"consent_policy={settings.consent_policy}: use one of {', '.join(CONSENT_POLICIES)}.")
    if not 1 <= settings.proposal_days <= 730:
        raise Invalid(f"proposal_days={settings.proposal_days}: use a number from 1 to 730.")
    if not 1 <= settings.worker_concurrency <= 256:
        raise Invalid(f"worker_concurrency={settings.worker_concurrency}: use a number from 1 to 256.")
    if not 1 <= settings.lease_s <= 3600:
        raise Invalid(f"lease_s={settings.lease_s}: use seconds from 1 to 3600.")
    if not 0 <= settings.keep_jobs_days <= 3650:
        raise Invalid(f"keep_jobs_days={settings.keep_jobs_days}: use days from 1 to 3650, or 0 to keep them for ever.")
    if not 0 <= settings.drain_s <= 3600:
        raise Invalid(f"drain_s={settings.drain_s}: use seconds from 0 to 3600.")
    if not 0 <= settings.drift_hours <= 8760:
        raise Invalid(f"drift_hours={settings.drift_hours}: use a number up to 8760, 0 for never.")
    if not 1 <= settings.drift_days <= 3650:
        raise Invalid(f"drift_days={settings.drift_days}: use a number from 1 to 3650.")
    if settings.same_organization not in ("warn", "fail"):
        raise Invalid(f"same_organization={settings.same_organization}: use warn or fail.")
    written = _MINUTES.fullmatch(settings.urgent_minutes)
    if not written or list(settings.escalation) != sorted(set(settings.escalation)):
        raise Invalid(f"urgent_minutes={settings.urgent_minutes}: use three whole numbers, each larger: 15,30,60 say.")
    if settings.log_level.upper() not in _LEVELS:
        raise Invalid(f"log_level={settings.log_level}: use one of {', '.join(_LEVELS)}.")
    if settings.log_format not in LOG_FORMATS:
        raise Invalid(f"log_format={settings.log_format}: use one of {', '.join(LOG_FORMATS)}.")
    if settings.otlp_endpoint and not _is_url(settings.otlp_endpoint):
        raise Invalid(f"otlp_endpoint={settings.otlp_endpoint}: it must be an http(s) URL.")
    if not 0 <= settings.trace_ratio <= 1:
        raise Invalid(f"trace_ratio={settings.trace_ratio}: use a number from 0 to 1.")
    if settings.trace_callers not in TRACE_CALLERS:
        raise Invalid(f"trace_callers={settings.trace_callers}: use one of {', '.join(TRACE_CALLERS)}.")
    if not 0 < settings.port < 65536:
        raise Invalid(f"port={settings.port}: use a number from 1 to 65535.")
    if not 0.01 <= settings.polling_s <= 60:
        raise Invalid(f"polling_s={settings.polling_s}: use seconds from 0.01 to 60.")
    for name in ("gatherings_per_ehr", "deliveries_per_ehr"):
        if not 1 <= getattr(settings, name) <= 64:
            raise Invalid(f"{name}={getattr(settings, name)}: use a number from 1 to 64.")
    if not 1 <= settings.circuit_failures <= 1000:
        raise Invalid(f"circuit_failures={settings.circuit_failures}: use a number from 1 to 1000.")
    if not 1 <= settings.circuit_pause_s <= settings.circuit_longest_s <= 86_400:
        raise Invalid(
            "circuit_pause_s, circuit_longest_s: use seconds from 1 to 86400, the second not below the first."
        )
    if not 60 <= settings.token_s <= 3600:
        raise Invalid(f"token_s={settings.token_s}: use seconds from 60 to 3600.")
    if not 0 <= settings.requests_per_s <= 100_000:
        raise Invalid(f"requests_per_s={settings.requests_per_s}: use a number up to 100000, 0 for no limit.")
    if not 1 <= settings.burst <= 100_000:
        raise Invalid(f"burst={settings.burst}: use a number from 1 to 100000.")
    for name, (least, most) in RANGES.items():
        if not least <= getattr(settings, name) <= most:
            raise Invalid(f"{name}={getattr(settings, name)}: use a number from {least} to {most}.")
    if settings.trusted_proxy and not _is_network(settings.trusted_proxy):
        raise Invalid(f"trusted_proxy={settings.trusted_proxy}: use an address or a network, 10.0.0.0/24 say.")
    if settings.base_url and not _is_url(settings.base_url):
        raise Invalid(f"base_url={settings.base_url}: it must be an http(s) URL.")
    if settings.auth not in AUTHS:
        raise Invalid(f"auth={settings.auth}: use one of {', '.join(AUTHS)}.")
    _check_exposed(settings)
    _check_people(settings)
    # Paths in the file are meant from where the file is.
    folder = file.parent
    changed = {
        key: str(folder / getattr(settings, key))
        for key in ("token_file", "clients_file", "link_secret_file", "keys_file", "document_keys_file")
        if not Path(getattr(settings, key)).is_absolute()
    }
    for key in ("people_file", "oidc_secret_file", "demo_people", "metrics_token_file"):
        if getattr(settings, key):
            changed[key] = str(folder / getattr(settings, key))
            if not Path(changed[key]).is_file():
                raise Invalid(f"{key}: there is no file {changed[key]}.")
    if settings.checklists:
        changed["checklists"] = str(folder / settings.checklists)
        if not Path(changed["checklists"]).is_dir():
            raise Invalid(f"checklists: there is no folder {changed['checklists']}.")
    if settings.clocks:
        changed["clocks"] = str(folder / settings.clocks)
        if not Path(changed["clocks"]).is_file():
            raise Invalid(f"clocks: there is no file {changed['clocks']}.")
    if "://" not in settings.database and not Path(settings.database).is_absolute():
        changed["database"] = str(folder / settings.database)
    settings = replace(settings, **changed)  # type: ignore[arg-type]
    # The service's own keys sign where a connection names no others.
    signing = {
        name: replace(c, key_file=settings.keys_file) if c.auth == "smart" and not c.key_file else c
        for name, c in settings.connections.items()
    }
    checking = {
        name: replace(v, connection=replace(v.connection, key_file=settings.keys_file))
        if v.connection.auth == "smart" and not v.connection.key_file
        else v
        for name, v in settings.validators.items()
    }
    return replace(settings, connections=signing, validators=checking)


def _check_exposed(settings: Settings) -> None:
    """Raises Invalid where others could reach this without sign-in, or read along on the way."""
    if not settings.is_exposed:
        return
    lacking = []
    if settings.auth != "smart":
        lacking.append('auth = "smart"')
    if not settings.base_url.startswith("https://"):
        lacking.append("base_url, the https address that others use")
    if not settings.trusted_proxy:
        lacking.append("trusted_proxy, the address of the proxy at which TLS ends")
    if lacking:
        raise Invalid(f"host={settings.host}: to be reached from elsewhere this needs {'; '.join(lacking)}. "
                      "docs/security.md says how.")  # fmt: skip


# name → the least and the most, in seconds. A session's last use is written once a minute, so idle can't be less.
_SPANS = {"session_idle_s": (120, 43_200), "session_longest_s": (300, 604_800), "signing_age_s": (30, 3_600)}


def _check_people(settings: Settings) -> None:
    """What belongs together for people to sign in. Raises Invalid."""
    for name, (least, most) in _SPANS.items():
        if not least <= getattr(settings, name) <= most:
            raise Invalid(f"{name}={getattr(settings, name)}: use seconds from {least} to {most}.")
    if settings.oidc_client_auth not in OIDC_CLIENT_AUTHS:
        raise Invalid(f"oidc_client_auth={settings.oidc_client_auth}: use one of {', '.join(OIDC_CLIENT_AUTHS)}.")
    if (settings.oidc_issuer or settings.demo_people) and not settings.people_file:
        raise Invalid("people_file: name the file that says who may sign in; docs/security.md has an example.")
    if settings.oidc_issuer:
        parts = urlsplit(settings.oidc_issuer)
        if not _is_url(settings.oidc_issuer) or (parts.scheme == "http" and parts.hostname not in _LOOPBACK):
            raise Invalid("oidc_issuer must be an https URL, as the provider itself writes it.")
        if not settings.oidc_client_id:
            raise Invalid("oidc_client_id is needed: the provider gave it when we were registered.")
        if (settings.oidc_client_auth == "secret") != bool(settings.oidc_secret_file):
            raise Invalid("oidc_secret_file goes with oidc_client_auth=secret, and with no other.")
    if settings.demo_people:
        if settings.oidc_issuer:
            raise Invalid("demo_people: accounts with a password are the demo's; with oidc_issuer there are none.")
        if settings.host not in _LOOPBACK or urlsplit(settings.public_url).hostname not in _LOOPBACK:
            raise Invalid("demo_people: accounts with a password are for loopback only; use oidc_issuer.")
