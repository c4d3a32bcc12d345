"""The second stage of validation: profiles of other guides (US Core, IPS, national ones), looked at by a validator that
the operator has configured. Its verdict is added to ours, with its name; what nobody looked at is said.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Issue
from fhir_secondop.fhir import claims, codec, definitions
from fhir_secondop.model import Resource, Validator

PATHS = {"fhir": "{type}/$validate", "hl7": "validateResource"}  # below the base, by protocol
MAX_SENT_CHARACTERS = 8 * 1024 * 1024
MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_ISSUES = 200
MAX_SAID = 1000  # characters of one issue
AT_ONCE = 4  # HL7's own program looks at one resource after the other
REST_S = 15.0  # who did not answer is not asked for so long: whoever writes meanwhile need not wait as well
SEVERITIES = ("fatal", "error", "warning", "information")
RETRY = "transient"  # the code of what was not checked: no fault of the sender, another time it may be
_UNKNOWN_PROFILE = "validation_val_profile_unknown"  # how HL7's ids of that message begin, HAPI's too
_URL = re.compile(r"[a-z]+:[^\s'\"|()<>,;]+")
_COMMENT = re.compile(r"/\*.*?\*/")  # HL7 writes entry[0].resource/*Patient/12*/.name
# What HAPI and HL7's program say, as errors too, of codes that they can't look up, and within the reason why a code is
# in no value set. `Cannot invoke` is an exception of theirs, for want of a terminology server.
_UNDECIDED = re.compile(
    r"(?:.*\(error message = )?(?:CodeSystem is unknown and can't be validated|"
    r"A definition for CodeSystem .* could not be found|ValueSet '.*' not found$|Unable to expand ValueSet|"
    r"Unable to validate code .* without terminology services|Cannot invoke \"|"
    r"The System URI could not be determined for the code .* has system \S+ which could not be found)",
    re.DOTALL,
)
# Said of a wrong code, and as well of one that could not be looked up: then there is an issue like those above with it.
_OF_CODES = ("terminology_tx_novalid", "unable_to_infer_codesystem")
# HL7's program 6.10 without a terminology server says of each MIME type that it is none, and not that it can't know.
_MIME = "http://hl7.org/fhir/ValueSet/mimetypes"


class SecondStage:
    """The configured validators. Threads share it; `now` gives ms since 1970, `clock` seconds that only rise."""

    def __init__(
        self, validators: Iterable[Validator], *, now: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._askers = [_Asker(each, now, clock) for each in validators]

    def covers(self, url: str) -> bool:
        """Whether a validator is configured for a profile."""
        return self._responsible(url) is not None

    def examine(self, resource: Resource, text: str, demanded: Iterable[str] = ()) -> list[Issue]:
        """What the validators say of a resource that is valid R4, and what of its claims nobody has looked at.

        `text` is the resource as it was sent; `demanded` are profiles that it must satisfy beside those that it claims.
        Nothing is raised: what was not checked is an issue, an error (of code RETRY, but for what is too large) where
        its validator is required.
        """
        nobodys: list[Issue] = []
        wanted: dict[_Asker, list[tuple[str, str]]] = {}
        for place, url in claims.unknown(resource, demanded):
            asker = self._responsible(url)
            if asker is None:
                nobodys.append(claims.of_nobody(place, url))
            else:
                wanted.setdefault(asker, []).append((place, url))
        issues = _first(nobodys)
        for asker, of_it in wanted.items():
            issues += asker.ask(resource, text, of_it)
        return issues

    def _responsible(self, url: str) -> _Asker | None:
        """The validator that names the profile in the longest way."""
        matching = [(len(named), asker) for asker in self._askers for named in asker.names(url)]
        return max(matching, key=lambda match: match[0])[1] if matching else None


@dataclass(eq=False, slots=True)
class _Asker:
    """One validator, and how it has done so far."""

    validator: Validator
    now: Callable[[], int]
    clock: Callable[[], float]
    client: Client = field(init=False)
    at_once: threading.BoundedSemaphore = field(init=False)
    rests_until: float = 0.0
    looks_at_claims: bool | None = None

    def __post_init__(self) -> None:
        settings = self.validator.connection
        self.client = Client(settings, now=self.now, longest_s=settings.timeout_s, most_bytes=MAX_ANSWER_BYTES)
        self.at_once = threading.BoundedSemaphore(settings.concurrency or AT_ONCE)

    def names(self, url: str) -> list[str]:
        """What the configuration has that means this profile."""
        plain = url.partition("|")[0]
        return [p for p in self.validator.profiles if plain == p or (p.endswith("/") and plain.startswith(p))]

    def ask(self, resource: Resource, text: str, wanted: Sequence[tuple[str, str]]) -> list[Issue]:
        """Its verdict, and what of (place, profile) it has not looked at."""
        if len(text) > MAX_SENT_CHARACTERS:
            return self._unchecked(wanted, "it is too large to be sent there", "too-costly")
        claimed = {url for _, url in claims.unknown(resource)}
        lacking = [url for _, url in wanted if url not in claimed]
        try:
            sent = _claiming(text, lacking, lambda url: bool(self.names(url)))
            rows = _rows(self._outcome(resource["resourceType"], sent))
        except EhrFailure as failure:
            return self._unchecked(wanted, failure.why)
        asked = {url.partition("|")[0] for _, url in wanted}
        undecided = {above for row in rows if row.is_undecided for above in _with_above(row.place)}
        verdict = [self._issue(row, undecided) for row in rows if not row.is_of_unknown_profile(asked)]
        verdict.sort(key=lambda issue: SEVERITIES.index(issue.severity))
        unknown = {url for row in rows if row.is_of_unknown_profile(asked) for url in row.urls & asked}
        lacks = [(place, url) for place, url in wanted if url.partition("|")[0] in unknown]
        return [*_first(verdict), *self._unchecked(lacks, "the profile is not known there")]

    def _outcome(self, kind: str, text: str) -> Resource:
        """What it answers. Raises EhrFailure, at once where it has just failed to answer another."""
        name, longest = self.validator.name, self.validator.connection.timeout_s
        self._check_rest()
        if not self.at_once.acquire(timeout=longest):
            raise EhrFailure("capacity", f"{name} is busy with others' resources.")
        try:
            self._check_rest()  # whoever was before us may have waited in vain
            return self._asked(kind, text)
        finally:
            self.at_once.release()

    def _asked(self, kind: str, text: str) -> Resource:
        try:
            if not self.looks_at_claims:
                self.looks_at_claims = self._probe()
            if not self.looks_at_claims:
                raise EhrFailure("scope", f"{self.validator.name} does not look at the profiles that a resource claims")
            return self._send(kind, text)
        except EhrFailure as failure:
            # A 500 may be about this one resource: it keeps nobody else's from being checked.
            if failure.kind in ("unreachable", "capacity") and failure.status in (0, 429, 502, 503, 504):
                self.rests_until = self.clock() + max(REST_S, min(failure.retry_after_s, 60.0))
            raise

    def _check_rest(self) -> None:
        if self.clock() < self.rests_until:
            name = self.validator.name
            raise EhrFailure("unreachable", f"{name} did not answer a moment ago and is not asked again yet.")

    def _send(self, kind: str, text: str) -> Resource:
        return self.client.outcome(PATHS[self.validator.protocol].format(type=kind), text)

    def _probe(self) -> bool:
        """Whether it has anything to say of a profile that nobody has: some servers look at R4 alone, and say that all
        is well.
        """
        named = self.validator.profiles[0].rstrip("/") + "/not-a-profile-a-question-whether-profiles-are-looked-at"
        basic = {"resourceType": "Basic", "meta": {"profile": [named]}, "code": {"text": "Question"}}
        return any(named in row.text for row in _rows(self._send("Basic", codec.dumps(basic))))

    def _issue(self, row: _Row, undecided: set[str]) -> Issue:
        of_codes = row.has_id(*_OF_CODES) and (row.place in undecided or _MIME in row.text)
        open_question = row.is_undecided or of_codes
        severity = "information" if open_question else row.severity
        return Issue(severity, row.code, row.place, f"{self.validator.name} says: {row.text}",
                     source=self.validator.name)  # fmt: skip

    def _unchecked(self, wanted: Iterable[tuple[str, str]], why: str, code: str = RETRY) -> list[Issue]:
        name = self.validator.name
        severity = "error" if self.validator.required else "warning"
        why = why.rstrip(".")
        said = ((place, f"The profile {url} was not checked by {name}: {why}.") for place, url in wanted)
        return _first([Issue(severity, code, place, text, source=name) for place, text in said])


@dataclass(frozen=True, slots=True)
class _Row:
    """An issue of theirs, as far as it is looked at."""

    severity: str
    code: str
    place: str
    text: str
    ids: tuple[str, ...]

    def has_id(self, *beginnings: str) -> bool:
        """Whether the id of its message begins so; HL7 writes them in more than one way."""
        return any(each.casefold().startswith(beginnings) for each in self.ids)

    @property
    def is_undecided(self) -> bool:
        """Whether it says that codes could not be looked up."""
        return _UNDECIDED.match(self.text) is not None

    @property
    def urls(self) -> set[str]:
        """The URLs that it names, without a version."""
        return {found.rstrip(".:") for found in _URL.findall(self.text)}

    def is_of_unknown_profile(self, asked: set[str]) -> bool:
        """Whether it says that it does not know a profile, be it one of those or ours: no fault of the sender."""
        if self.has_id(_UNKNOWN_PROFILE):
            return True
        return self.code in ("not-found", "not-supported", "incomplete") and bool(self.urls & asked)


def _with_above(place: str) -> Iterator[str]:
    """A place, and the element around its coding where it is one: that is where HAPI says what is in no value set."""
    yield place
    yield re.sub(r"\.coding\[\d+\](\.\w+)?$", "", place)


def _first(issues: list[Issue]) -> list[Issue]:
    """As many as are shown, and how many there are more."""
    if len(issues) <= MAX_ISSUES:
        return issues
    after = issues[MAX_ISSUES]
    said = f"There are {len(issues) - MAX_ISSUES} more like this; they are not shown."
    return [*issues[:MAX_ISSUES], Issue(after.severity, after.code, "", said, source=after.source)]


def _claiming(text: str, demanded: Sequence[str], is_asked_about: Callable[[str], bool]) -> str:
    """The resource as it is sent: with these further profiles, and without claims of what it is not asked about.

    HL7's program fetches the URL of any profile that it does not know: whoever writes to us could send it anywhere.
    """
    resource = codec.parse(text)
    others = _without_claims(resource, is_asked_about)
    if demanded:
        meta = resource.setdefault("meta", {})
        meta["profile"] = [*meta.get("profile", []), *demanded]
    return codec.dumps(resource) if others or demanded else text


def _without_claims(value: Any, keep: Callable[[str], bool]) -> bool:
    """Takes every other claim out of a resource, wherever one stands in it; whether there was one."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [_without_claims(part, keep) for part in parts]
    meta = value.get("meta") if isinstance(value, dict) else None
    urls = meta.get("profile") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(urls, list) or all(keep(url) for url in urls if url is not None):
        return any(found)
    meta.pop("_profile", None)  # its items belong to those of profile by their number
    meta["profile"] = [url for url in urls if url is not None and keep(url)]
    if not meta["profile"]:
        del meta["profile"]
    if not meta:
        del value["meta"]
    return True


def _rows(outcome: Resource) -> list[_Row]:
    """The issues of an OperationOutcome. Raises EhrFailure of one that has none, or none that can be read."""
    found = outcome.get("issue")
    try:
        if isinstance(found, list) and found:
            return [_row(each) for each in found]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EhrFailure("validation", "Its outcome can't be read") from error
    raise EhrFailure("validation", "Its outcome is empty")


def _row(issue: dict[str, Any]) -> _Row:
    severity, code = issue["severity"], issue["code"]
    if severity not in SEVERITIES:
        raise ValueError(severity)
    details = issue.get("details", {})
    ids = [coding.get("code") for coding in details.get("coding", [])]
    ids += [each.get("valueString") or each.get("valueCode") for each in issue.get("extension", [])]
    places = issue.get("expression") or issue.get("location") or [""]
    text = str(issue.get("diagnostics") or details.get("text") or code)
    named = tuple(each for each in ids if isinstance(each, str))
    known = code if code in _codes() - {RETRY} else "processing"
    return _Row(severity, known, _COMMENT.sub("", str(places[0])), text[:MAX_SAID], named)


def _codes() -> frozenset[str]:
    """The issue codes of R4; R5 has more."""
    known = definitions.value_set("http://hl7.org/fhir/ValueSet/issue-type") or {}
    return frozenset().union(*known.values())
