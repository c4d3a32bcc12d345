"""One patient's record from one EHR: what came back for each type, page by page, and for each file.

Nothing here stores: pages are handed on as they came, so that no record is held in memory whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure, vendor_codes
from fhir_secondop.ehr.plan import CITED, Ask
from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import attachments, codec, refs
from fhir_secondop.model import Answer, Page, Resource

MAX_CITED = 2_000
Sink = Callable[[int, Page, Resource], None]
"""Takes page number n of a type, counted over all its searches, and its Bundle."""
_WITHHELD = frozenset({"suppressed", "security", "forbidden", "business-rule"})


@dataclass(slots=True)
class _Tally:
    """What one type's searches have brought so far."""

    sink: Sink
    codes: Mapping[str, str]
    pages: int = 0
    keys: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    notices: set[str] = field(default_factory=set)
    partial: bool = False

    def take(self, page: Page, bundle: Resource) -> None:
        for entry in bundle.get("entry", []):
            resource = entry.get("resource", {})
            if resource.get("resourceType") == "OperationOutcome":
                self._notice(resource)
            elif "resourceType" in resource:
                self.keys.add(f"{resource['resourceType']}/{resource.get('id', '')}")
        self.sink(self.pages, page, bundle)
        self.pages += 1

    def _notice(self, outcome: Resource) -> None:
        """An OperationOutcome among the entries may say that data is withheld, or that more may exist."""
        self.notices.update(str(issue.get("code", "")) for issue in outcome.get("issue", []))
        found = vendor_codes(outcome)
        self.notices.update(found)
        self.partial = self.partial or any(self.codes.get(code) == "partial" for code in found)


def fetch(client: Client, ask: Ask, patient_id: str, sink: Sink, *, since: str = "", patiently: bool = False) -> Answer:
    """Asks for one type and hands every page to `sink`; what to write into the manifest.

    `since` (an instant) asks only for what changed. A refusal is an answer too; only a failure that time may mend,
    met before anything came, is raised; with `patiently` also one that says when to come again, whatever came.
    """
    if not ask.parameter:
        return Answer(ask.type, ask.outcome, detail=ask.because)
    tally = _Tally(sink, client.site.error_codes)
    value = patient_id if ask.parameter == "patient" else f"Patient/{patient_id}"
    params = {ask.parameter: value, "_count": str(client.site.page_count)}
    if since:
        params["_lastUpdated"] = f"ge{since}"
    failures: list[EhrFailure] = []
    answered = 0
    for extra in ask.first:
        failure = _search(client, ask, params, extra, tally)
        if failure is not None and failure.kind == "validation" and not failure.element.startswith("Bundle"):
            failure = _with_demanded(client, ask, params, extra, tally, failure)
        if failure is None:
            answered += 1
        else:
            failures.append(failure)
            if failure.retryable:
                break  # the next search would meet the same
    if patiently and failures and failures[-1].kind == "capacity" and failures[-1].retry_after_s:
        raise failures[-1]
    return _answer(ask, tally, failures, answered, since)


def _answer(ask: Ask, tally: _Tally, failures: list[EhrFailure], answered: int, since: str) -> Answer:
    told = Answer(
        ask.type, "answered", "; ".join(tally.asked), len(tally.keys), detail=_told(tally), since=since,
        withheld=bool(tally.notices & _WITHHELD),
    )  # fmt: skip
    if not failures:
        return replace(told, outcome="truncated") if tally.partial else told
    worst = failures[-1]
    if worst.retryable and not tally.pages and worst.kind != "quota":
        raise worst
    why = f"{worst.kind}: {worst.message}"
    detail = f"{why}; {told.detail}" if told.detail else why
    return replace(told, outcome="truncated" if tally.pages or answered else "refused", detail=detail)


def _told(tally: _Tally) -> str:
    return ("the source added: " + ", ".join(sorted(tally.notices - {""}))) if tally.notices - {""} else ""


def _search(client: Client, ask: Ask, params: Mapping[str, str], extra: str, tally: _Tally) -> EhrFailure | None:
    """One search with all its pages; the failure that ended it early. A search that expired begins again, once."""
    name, _, value = extra.partition("=")
    asked = f"{ask.type}?{ask.parameter}=" + (f"&{extra}" if extra else "")
    if asked not in tally.asked:
        tally.asked.append(asked)
    for last in (False, True):
        try:
            for page, bundle in client.pages(ask.type, {**params, **({name: value} if extra else {})}):
                tally.take(page, bundle)
            return None
        except EhrFailure as failure:
            if failure.kind != "expired" or last:
                return failure
    return None


def _with_demanded(
    client: Client, ask: Ask, params: Mapping[str, str], extra: str, tally: _Tally, refused: EhrFailure
) -> EhrFailure | None:
    """A search that was refused for want of a parameter, with those that such servers demand, each in turn."""
    if extra or not ask.demanded:
        return refused
    left = [f for f in (_search(client, ask, params, demanded, tally) for demanded in ask.demanded) if f is not None]
    # All of them refused: the first refusal is the one that counts.
    return refused if len(left) == len(ask.demanded) else next(iter(left), None)


# Operation → (resource type that declares it, path); {} is the patient's id there.
_HINTS = {
    "everything": ("Patient", "Patient/{}/$everything"),
    "summary": ("Patient", "Patient/{}/$summary"),
    "docref": ("DocumentReference", "DocumentReference/$docref"),
}


def hints(client: Client, asks: Iterable[Ask]) -> list[str]:
    """The operations of the vendor's file that may bring what the searches by type can't.

    `$docref` also makes documents that no search finds; the others only help where a type can't be searched.
    """
    lacking = any(not ask.parameter for ask in asks)
    return [
        name
        for name, (kind, _) in _HINTS.items()
        if name in client.site.hints and client.capability.operation(kind, name) and (lacking or name == "docref")
    ]


def fetch_hint(client: Client, name: str, patient_id: str, sink: Sink) -> Answer:
    """What an operation brings beside the searches. A hint only: a failure of it costs nothing, and is said."""
    tally = _Tally(sink, client.site.error_codes)
    path = _HINTS[name][1].format(patient_id)
    params = {"patient": patient_id} if name == "docref" else {}
    try:
        for page, bundle in client.pages(path, params):
            tally.take(page, bundle)
    except EhrFailure as failure:
        outcome = "truncated" if tally.pages else "refused"
        detail = f"a hint only; {failure.kind}: {failure.message}"
        return Answer(f"${name}", outcome, f"${name}", len(tally.keys), detail=detail)
    return Answer(f"${name}", "answered", f"${name}", len(tally.keys), detail=_told(tally))


def resources_of(page: Page) -> list[tuple[str, Resource]]:
    """Each resource in a page that was fetched, byte for byte and parsed: a Bundle's entries, or the one that it is."""
    return codec.bundled(codec.text_of(page.body))


def cited(resource: Resource, base: str) -> Iterator[str]:
    """What a resource cites and should be read by itself: "Practitioner/1"."""
    for text in refs.find(resource):
        ref = refs.parse(text)
        if ref is not None and ref.base in ("", base) and ref.type in CITED and ref.type != "Binary":
            yield ref.local


def files(resource: Resource) -> Iterator[Resource]:
    """The Attachments of a document or report that stand elsewhere, behind a url."""
    contents = resource.get("content", [])
    attachments = [c.get("attachment") for c in contents if isinstance(c, dict)] if isinstance(contents, list) else []
    for attachment in [*attachments, *resource.get("presentedForm", [])]:
        if isinstance(attachment, dict) and isinstance(attachment.get("url"), str) and "data" not in attachment:
            yield attachment


@dataclass(frozen=True, slots=True)
class File:
    """A file of an EHR: its bytes, and in what it differs from what its document says of it."""

    content_type: str
    data: bytes
    differs: tuple[str, ...]


def read_file(client: Client, attachment: Resource) -> File:
    """The file behind an Attachment, checked against its type, size and hash. Raises EhrFailure."""
    url = str(attachment["url"])
    ref = refs.parse(url)
    if ref is not None and ref.base in ("", client.base):
        url = ref.local
    elif "://" not in url:
        url = f"{client.base}/{url}"
    stated = str(attachment.get("contentType", ""))
    kind, data = client.file(url, stated)
    differs = []
    if stated and kind and kind != stated.partition(";")[0].strip():
        differs.append("type")
    if isinstance(attachment.get("size"), int) and attachment["size"] != len(data):
        differs.append("size")
    if "hash" in attachment and attachment["hash"] != attachments.digest(data):
        differs.append("hash")
    return File(kind or stated or "application/octet-stream", data, tuple(differs))


def read_cited(client: Client, reference: str) -> tuple[Page | None, str]:
    """A cited resource, or why it could not be read. Raises what trying again may mend."""
    try:
        page = client.get(reference)
        cited_kind = codec.parse(page.body).get("resourceType")
    except Malformed:
        return None, "validation"  # a page for people
    except EhrFailure as failure:
        # Some servers answer 500 for a record that is missing; one such must not cost the whole record.
        if failure.retryable and failure.status != 500:
            raise
        return None, failure.kind
    return (page, "") if cited_kind == reference.partition("/")[0] else (None, "validation")
