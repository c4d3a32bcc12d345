"""Collects one source's record: every type and every file, in parallel within the EHR's limits.

Each part is marked as finished in the commit that stores its pages: a worker that was killed goes on with what is left.
A few MB wait in memory for their commit, never a whole record.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.ehr import plan, pull
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.plan import Ask
from fhir_secondop.fhir import codec, refs, times
from fhir_secondop.fhir.codec import Body
from fhir_secondop.model import EVERYTHING, Answer, Page, Resource
from fhir_secondop.opinion import blinding, records
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.service import copies
from fhir_secondop.service.context import SERVICE, Context, quarantine
from fhir_secondop.service.sensitivity import label_of, require_consent
from fhir_secondop.store import creating, progress, resources
from fhir_secondop.store.creating import New
from fhir_secondop.store.database import Transaction

MAX_RECORD_BYTES = 2_000_000_000
MAX_FILES = 5_000
BUFFERED_BYTES = 4_000_000  # of pages that wait for one commit with the end of their part
KEPT_BYTES = 4_000_000
GROUPED_S = 0.05
OVERLAP_MS = 3_600_000  # an incremental search asks a little further back: clocks differ
_FILES = "Attachment"


@dataclass(slots=True)
class Collected:
    """What was collected: the pages in order, the files by key, the manifest's answers."""

    pages: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)


@dataclass(slots=True)
class _Part:
    """What one type brought; kept as JSON once the part is finished."""

    answer: dict[str, Any]
    pages: list[str] = field(default_factory=list)
    cited: list[str] = field(default_factory=list)
    files: list[Resource] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A page before its commit, and whose it will be."""

    id: str
    page: Page
    case_id: str


@dataclass(frozen=True, slots=True)
class _Finished:
    """A part that is finished: what it said, and its pages that are not stored yet."""

    part: str
    said: Any
    pages: list[_Waiting]


class _Collector:
    """One run of a gathering Task; its threads share it."""

    def __init__(
        self, context: Context, case: Case, task_id: str, name: str, source: str, patient_id: str, *, last_try: bool
    ) -> None:
        self.context = context
        self.last_try = last_try
        self.case = case
        self.task_id = task_id
        self.name = name
        self.source = source
        self.patient_id = patient_id
        self.client: Client = context.client(name)
        self.label = label_of(context, case, source)
        # Before the first opinion is told apart from the rest nobody who reads blind sees any of it.
        found = blinding.of_case(case)
        self.is_blind = found is not None and found.state == blinding.ASKED
        self._bytes = 0
        self._lock = threading.Lock()
        with context.database.reading() as connection:
            self.finished = progress.finished(connection, task_id)

    def count(self, size: int) -> None:
        """Counts bytes of the record. Raises EhrFailure beyond the bound: what is left is named in the manifest."""
        with self._lock:
            self._bytes += size
            if self._bytes > MAX_RECORD_BYTES:
                why = f"{self.name}: the record is over {MAX_RECORD_BYTES} bytes; the rest is not read."
                raise EhrFailure("policy", why)

    def require_consent(self) -> None:
        """Before each request. Raises ConsentEnded."""
        with self.context.database.reading() as connection:
            said = [stored.resource for stored in resources.in_case(connection, self.case.id, ["Consent"])]
        require_consent(self.context, said, self.name, self.source)

    def is_for_the_case(self, bundle: Resource) -> bool:
        """Whether a page holds nobody else's resources, and nothing that its label keeps out."""
        listed = bundle.get("entry", []) if bundle.get("resourceType") == "Bundle" else [{"resource": bundle}]
        found = (entry.get("resource", {}) for entry in listed)
        return all(
            records.is_about(r, self.patient_id, self.client.base) and not self.label(r)
            for r in found
            if "resourceType" in r and r["resourceType"] != "OperationOutcome" and "id" in r
        )

    def waiting(self, page_id: str, page: Page, bundle: Resource) -> _Waiting:
        """A page on its way into the store. One that holds what may not be seen is nobody's of the case to see."""
        self.count(len(page.body))
        shown = not self.is_blind and self.is_for_the_case(bundle)
        return _Waiting(page_id, page, self.case.id if shown else quarantine(self.case.id))

    def store(self, pages: list[_Waiting], finished: Iterable[_Finished] = ()) -> None:
        """Stores pages as they came, and parts that are finished with theirs, in one commit."""
        done = list(finished)
        with self.context.database.transaction(SERVICE) as tx:
            _put_pages(tx, self.context, self.name, [*pages, *(page for one in done for page in one.pages)])
            progress.finish(tx, self.task_id, {one.part: one.said for one in done})
        pages.clear()
        self.finished |= {one.part: one.said for one in done}

    def type(self, ask: Ask, since: str) -> _Finished | EhrFailure:
        """Fetches one type; the finished part, or the failure that may be mended later."""
        part = _Part({})
        now = self.context.instant()
        pages: list[_Waiting] = []

        def sink(number: int, page: Page, bundle: Resource) -> None:
            page_id = derived_id(self.task_id, "page", ask.type, number)
            pages.append(self.waiting(page_id, page, bundle))
            if sum(len(kept.page.body) for kept in pages) > BUFFERED_BYTES:
                self.store(pages)
            part.pages.append(page_id)
            for entry in bundle.get("entry", []):
                self._note(entry.get("resource", {}), part)
            self.require_consent()

        self.require_consent()
        try:
            if ask.type.startswith("$"):
                answer = pull.fetch_hint(self.client, ask.type[1:], self.patient_id, sink)
            else:
                answer = pull.fetch(self.client, ask, self.patient_id, sink, since=since, patiently=not self.last_try)
        except EhrFailure as failure:
            if failure.retryable:
                return failure
            answer = Answer(ask.type, "refused", detail=f"{failure.kind}: {failure.message}")
        part.answer = asdict(replace(answer, as_of=now))
        return _Finished(ask.type, asdict(part), pages)

    def _note(self, resource: Resource, part: _Part) -> None:
        """What a resource of the patient's cites and which files it names. What may not be seen is not followed."""
        if "resourceType" not in resource or not records.is_about(resource, self.patient_id, self.client.base):
            return
        if self.label(resource):
            return
        part.cited += pull.cited(resource, self.client.base)
        part.files += pull.files(resource)


def collect(
    context: Context, case: Case, task_id: str, name: str, source: str, patient_id: str, earlier: Resource | None, *,
    last_try: bool,
) -> Collected:  # fmt: skip
    """Everything that the EHR of the connection `name` gives of the patient, stored. `source` is its Organization.

    `earlier` is the package of an earlier gathering, of which only the changes are asked for. Raises EhrFailure when it
    is worth trying again later: nothing was answered at all, or the EHR asks for patience. With `last_try` that goes
    into the manifest instead. Raises ConsentEnded before the first request for which there is no consent any more.
    """
    run = _Collector(context, case, task_id, name, source, patient_id, last_try=last_try)
    # Who we are there is settled before the plan: the scopes that were granted are part of it.
    capability = run.client.capability
    asks = list(plan.plan(capability, run.client.site, run.client.granted))
    asks += [Ask(f"${name}") for name in pull.hints(run.client, asks)]
    before = _answered_before(earlier)
    sinces = {ask.type: before.get(ask.type, "") if ask.since else "" for ask in asks}
    failed = _in_parallel(run, [(ask, sinces[ask.type]) for ask in asks])
    impatient = [f for f in failed.values() if f.kind in ("capacity", "quota")]
    answered = any(p["answer"]["outcome"] in ("answered", "truncated") for p in run.finished.values() if "answer" in p)
    if not last_try and failed and (impatient or not answered):
        raise max(failed.values(), key=lambda f: f.retry_after_s)
    for kind, failure in failed.items():
        answer = Answer(kind, "failed", detail=f"{failure.kind}: {failure.message}", as_of=context.instant())
        run.store([], [_Finished(kind, asdict(_Part(asdict(answer))), [])])
    collected = Collected()
    for ask in asks:
        said = run.finished[ask.type]
        collected.pages += said["pages"]
        collected.answers.append(Answer(**said["answer"]))
    parts = [p for p in run.finished.values() if "cited" in p]
    cited = {c for part in parts for c in part["cited"]} | _cited_by_patient(run)
    _read_cited(run, cited, collected, since=min(filter(None, sinces.values()), default=""))
    _read_files(run, [f for part in parts for f in part["files"]], collected)
    return collected


def _answered_before(package: Resource | None) -> dict[str, str]:
    """The types that an earlier gathering answered in full, with the instant from which on to ask again.

    None where something that was cited could not be read: what cites it has not changed and would not come again, and
    the gap would vanish from the manifest unfilled.
    """
    said = records.coverage(package) if package is not None else []
    if any(answer.unresolved for answer in said):
        return {}
    return {
        a.type: times.instant(times.interval(a.as_of).low - OVERLAP_MS)
        for a in said
        if a.outcome == "answered" and a.as_of and not a.withheld and not a.strangers
    }


def _in_parallel(run: _Collector, asks: list[tuple[Ask, str]]) -> dict[str, EhrFailure]:
    """Every type, as many at once as the EHR's limits allow; the failures of those that may be tried again.

    What has come waits a moment for what comes next, as many as are asked for at once: with an EHR that answers in no
    time the commits would be most of the work. A death costs those and the types under way, and no more.
    """
    failures: dict[str, EhrFailure] = {}
    at_once = max(1, run.client.site.concurrency)
    todo = iter([pair for pair in asks if pair[0].type not in run.finished])
    with ThreadPoolExecutor(at_once) as pool:
        under_way: dict[Future[_Finished | EhrFailure], str] = {}
        come: list[_Finished] = []
        try:
            while True:
                for ask, since in islice(todo, at_once - len(under_way)):
                    under_way[pool.submit(run.type, ask, since)] = ask.type
                if not under_way and not come:
                    break
                done = wait(under_way, timeout=GROUPED_S if come else None, return_when=FIRST_COMPLETED).done
                for future in done:
                    kind, outcome = under_way.pop(future), future.result()
                    if isinstance(outcome, EhrFailure):
                        failures[kind] = outcome
                    else:
                        come.append(outcome)
                if come and (not done or len(come) >= at_once):
                    run.store([], come)
                    come = []
        finally:
            for future in under_way:  # after a fault of ours the rest is not asked for
                future.cancel()
    return failures


def _cited_by_patient(run: _Collector) -> set[str]:
    """What the patient's own resource cites: it came before everything else, to say who the patient is."""
    with run.context.database.reading() as connection:
        found = [resource for _, resource, _ in StoredPages(connection, (patient_page(run.task_id),))]
    his = [r for r in found if records.is_about(r, run.patient_id, run.client.base)]
    return {cited for resource in his for cited in pull.cited(resource, run.client.base)}


def patient_page(task_id: str) -> str:
    """The Binary with the page that said who the patient is there."""
    return derived_id(task_id, "page", "Patient", 0)


def _read_cited(run: _Collector, wanted: set[str], collected: Collected, *, since: str) -> None:
    """People, places and medications that are cited, and what they cite: each read once.

    With `since` these are only what the changes cite, and no list of all.
    """
    had: set[str] = set()
    level = 0
    unresolved: dict[str, int] = {}
    received: dict[str, int] = {}
    todo = sorted(wanted)
    while todo:
        part = f"cited {level}"
        said = run.finished.get(part)
        if said is None:
            pages: list[_Waiting] = []
            said = _cited_level(run, todo[: pull.MAX_CITED], pages)
            said["unresolved"] += todo[pull.MAX_CITED :]
            run.store([], [_Finished(part, said, pages)])
        collected.pages += said["pages"]
        for key in said["keys"]:
            received[key.partition("/")[0]] = received.get(key.partition("/")[0], 0) + 1
        for key in said["unresolved"]:
            unresolved[key.partition("/")[0]] = unresolved.get(key.partition("/")[0], 0) + 1
        had |= {*said["keys"], *said["unresolved"]}
        # A role cites its practitioner and its organisation.
        todo = sorted(set(said["further"]) - had)
        level += 1
    now = run.context.instant()
    for kind in sorted({*received, *unresolved}):
        collected.answers.append(
            Answer(kind, "answered", f"{kind}/[id]", received.get(kind, 0), as_of=now,
                   since=since, unresolved=unresolved.get(kind, 0))
        )  # fmt: skip


def _cited_level(run: _Collector, todo: list[str], pages: list[_Waiting]) -> dict[str, list[str]]:
    """Reads these, into `pages` as far as they don't need to be stored before; what they cite in turn is `further`."""
    said: dict[str, list[str]] = {"pages": [], "keys": [], "unresolved": [], "further": []}

    def read(key: str) -> tuple[str, Page | None]:
        run.require_consent()
        try:
            return key, pull.read_cited(run.client, key)[0]
        except EhrFailure:
            return key, None  # named as unresolved in the manifest

    with ThreadPoolExecutor(max(1, run.client.site.concurrency)) as pool:
        for key, page in pool.map(read, todo):
            if page is None:
                said["unresolved"].append(key)
                continue
            resource = codec.parse(page.body)
            page_id = derived_id(run.task_id, "page", key)
            try:
                pages.append(run.waiting(page_id, page, resource))
            except EhrFailure:  # the bound of the record
                said["unresolved"].append(key)
                continue
            if sum(len(kept.page.body) for kept in pages) > BUFFERED_BYTES:
                run.store(pages)
            said["pages"].append(page_id)
            said["keys"].append(key)
            said["further"] += pull.cited(resource, run.client.base)
    return said


def file_key(url: str, base: str) -> str:
    """How a file is named among the keys of its source: "Binary/2", or its URL."""
    ref = refs.parse(url)
    return ref.local if ref is not None and ref.base in ("", base) else url


def _read_files(run: _Collector, attachments: list[Resource], collected: Collected) -> None:
    """The files behind urls, one Binary each: what differs from what its document says is named, and kept."""
    by_key = {file_key(a["url"], run.client.base): a for a in attachments}
    failures: dict[str, str] = {}
    differing: list[str] = []

    def read(item: tuple[str, Resource]) -> tuple[str, dict[str, Any]]:
        key, attachment = item
        part = f"file {key}"[:300]
        said = run.finished.get(part)
        if said is None:
            run.require_consent()
            try:
                file = pull.read_file(run.client, attachment)
                run.count(len(file.data))
            except EhrFailure as failure:
                run.store([], [_Finished(part, {"failed": failure.kind}, [])])
                return key, {"failed": failure.kind}
            said = {"differs": list(file.differs)}
            binary_id = records.copy_reference(run.case.id, run.name, key).partition("/")[2]
            with run.context.database.transaction(SERVICE) as tx:
                zone = quarantine(run.case.id) if run.is_blind else run.case.id  # the merge brings it back
                put_binary(tx, run.context, zone, run.name, binary_id, file.content_type, file.data,
                           key if "://" in key else f"{run.client.base}/{key}")  # fmt: skip
                progress.finish(tx, run.task_id, {part: said})
        return key, said

    # Those that an earlier gathering has come last: a day's budget of documents is for the others.
    held = _held_files(run, by_key)
    wanted = sorted(by_key.items(), key=lambda item: item[0] in held)[:MAX_FILES]
    # Two at once: their bytes are in memory until they are stored.
    with ThreadPoolExecutor(min(2, max(1, run.client.site.concurrency))) as pool:
        for key, outcome in pool.map(read, wanted):
            if "failed" in outcome and key in held:
                collected.files.add(key)
            elif "failed" in outcome:
                failures[key] = outcome["failed"]
            else:
                collected.files.add(key)
                if outcome["differs"]:
                    differing.append(", ".join(outcome["differs"]))
    if not by_key:
        return
    missing = len(by_key) - len(collected.files)
    details = [f"{len(differing)} differ from what their document says ({'; '.join(sorted(set(differing)))})"]
    detail = details[0] if differing else ""
    if failures:
        detail = "; ".join(filter(None, [detail, "not read: " + ", ".join(sorted(set(failures.values())))]))
    said = "truncated" if missing and collected.files else "failed" if missing else "answered"
    collected.answers.append(
        Answer(_FILES, said, "files of documents and reports", len(collected.files), detail=detail,
               as_of=run.context.instant(), unresolved=missing)
    )  # fmt: skip


def _held_files(run: _Collector, keys: Iterable[str]) -> set[str]:
    """The files that the case has from an earlier gathering."""
    by_id = {records.copy_reference(run.case.id, run.name, key).partition("/")[2]: key for key in keys}
    with run.context.database.reading() as connection:
        return {by_id[found] for found in copies.files(connection, by_id)}


def _put_pages(tx: Transaction, context: Context, name: str, pages: list[_Waiting]) -> None:
    """Pages as Binaries: new ones in few statements, one that a search brought again as its next version."""
    held = copies.files(tx.connection, [kept.id for kept in pages])
    new: dict[str, dict[str, New]] = {}
    for kept in pages:
        page = kept.page
        if kept.id in held:
            put_binary(tx, context, kept.case_id, name, kept.id, page.content_type, page.body, page.url)
        else:
            body, resource = _binary(page.content_type, page.body, page.url)
            # A search that began again brings the same page twice: the later one counts.
            new.setdefault(kept.case_id, {})[kept.id] = New(kept.id, body, resource)
    for case_id, binaries in new.items():
        owner = resources.SOURCE + name
        creating.create_many(tx, list(binaries.values()), base_url=context.base_url, case_id=case_id, owner=owner)


def _binary(content_type: str, data: bytes, url: str) -> tuple[Body, Resource]:
    kind = content_type.partition(";")[0].strip() or "application/octet-stream"
    head = '{"resourceType":"Binary"'
    text = f'{head},"contentType":{codec.dumps(kind)},"data":"{base64.b64encode(data).decode()}"}}'
    if not data:
        text = f'{head},"contentType":{codec.dumps(kind)}}}'
    resource = {"resourceType": "Binary", "contentType": kind, "meta": {"source": url.partition("?")[0]}}
    return Body(text, len(head)), resource


def put_binary(
    tx: Transaction, context: Context, case_id: str, name: str, binary_id: str, content_type: str, data: bytes, url: str
) -> None:
    """Bytes of an EHR as a Binary, unchanged; again is the same. `case_id` is the case, or its quarantine."""
    body, resource = _binary(content_type, data, url)
    before = resources.find(tx.connection, EVERYTHING, "Binary", binary_id)
    if before is None:
        resources.create(
            tx,
            body,
            resource,
            base_url=context.base_url,
            resource_id=binary_id,
            case_id=case_id,
            owner=resources.SOURCE + name,
        )
        return
    if before.case_id != case_id:  # a label came, or went
        resources.move(tx, before, case_id)
    if before.body != body:
        resources.update(tx, before, body, resource, base_url=context.base_url)


@dataclass(slots=True)
class StoredPages:
    """(text of a resource, the same parsed, reference to its page) of stored pages.

    Few bytes are kept for the next time it is gone through; a large record is read anew, page by page.
    """

    connection: SqlConnection
    page_ids: tuple[str, ...]
    _kept: list[tuple[str, Resource, str]] | None = None

    def __iter__(self) -> Iterator[tuple[str, Resource, str]]:
        if self._kept is not None:
            yield from self._kept
            return
        rows: list[tuple[str, Resource, str]] = []
        size = 0
        for page_id in self.page_ids:
            binary = resources.read(self.connection, EVERYTHING, "Binary", page_id).resource
            page = Page("", "", binary["contentType"], base64.b64decode(binary.get("data", "")))
            size += len(page.body)
            for text, resource in pull.resources_of(page):  # only what could be read was stored
                row = (text, resource, f"Binary/{page_id}")
                yield row
                if size <= KEPT_BYTES:
                    rows.append(row)
        if size <= KEPT_BYTES:
            self._kept = rows


def distinct(page_ids: Iterable[str]) -> tuple[str, ...]:
    """Each page once, in order."""
    return tuple(dict.fromkeys(page_ids))
