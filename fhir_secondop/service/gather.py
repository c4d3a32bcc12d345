"""Gathers the record: a Task and a workflow per source, each step repeatable, the manifest at the end.

Pages are stored as they came (Binary) before anything is made of them; a killed worker goes on after the last type
that it finished.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy.engine import Connection

from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.ehr.identity import Match
from fhir_secondop.errors import Conflict, Invalid, NotFound
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Answer, Caller, Resource
from fhir_secondop.opinion import alignment, checklist, codes, records, requests, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import identifiers
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import asking, blinding, circuits, clocks, collect, copies, merging, patients, sensitivity
from fhir_secondop.service.breaker import Wait
from fhir_secondop.service.context import SERVICE, Context, case_of_task, load, put, require_hand
from fhir_secondop.service.tries import Try
from fhir_secondop.store import progress, resources
from fhir_secondop.store.database import Transaction

WORKFLOW = "gather"
MAX_ATTEMPTS = 10  # with the pauses between them about half an hour
LONGEST_WAIT_MS = 86_400_000  # for an EHR that does not answer anybody, or was paused
LONGEST_PAUSE_S = 300.0
_ENDED = ("completed", "failed", "rejected", "cancelled")
_STOPPED = (*_ENDED, "on-hold")  # on hold: a person must say who the patient is


def start(tx: Transaction, context: Context, case: Case, sources: Iterable[str], *, full: bool = False) -> list[str]:
    """A Task and a workflow for each source (a reference to an Organization of the case); the Tasks' ids.

    Gathered again, only what changed is asked for, or everything with `full`.
    """
    started = []
    now = context.instant()
    for source in sources:
        organization = case.directory.resource(source)
        if organization is None or organization["resourceType"] != "Organization":
            raise NotFound(f"{source} is not an Organization of this case.")
        connection = next(
            # One without a FHIR base takes messages, and has nothing to read.
            (c for c in map(context.connection_of, sorted(identifiers(organization))) if c is not None and c.base),
            None,
        )
        task_id = derived_id(case.id, "gather", source)
        before = next((t for t in case.tasks_of("gather-records") if t["id"] == task_id), None)
        if before is not None and before["status"] not in _ENDED:
            started.append(task_id)
            continue
        round_ = 1
        if before is not None:
            round_ = 1 + sum(1 for t in case.tasks_of("gather-records") if _source(t) == source)
            task_id = derived_id(case.id, "gather", source, round_)
        task = compose(
            "Task",
            meta=profile("gather-task"),
            id=task_id,
            partOf=[{"reference": reference(case.coordination)}],
            status="requested",
            intent="order",
            code=codes.concept(codes.TASK, "gather-records"),
            focus={"reference": reference(case.request)},
            for_={"reference": reference(case.patient)},
            authoredOn=now,
            lastModified=now,
            requester=PLATFORM,
            owner={"reference": source, "display": organization.get("name", "")},
            input=[
                {
                    "type": codes.concept(codes.EVIDENCE, "connection"),
                    "valueString": connection.name if connection else "none",
                },
                *([{"type": codes.concept(codes.EVIDENCE, "full"), "valueBoolean": True}] if full else []),
            ],
        )
        put(tx, context, case.id, task)
        enqueue(tx, context, task)
        started.append(task_id)
    return started


def enqueue(tx: Transaction, context: Context, task: Resource) -> None:
    """The workflow of a gathering Task; one that is there already stays the only one."""
    context.enqueue(tx, WORKFLOW, f"gather-{task['id']}", connection_name(task), task["id"])


def resume(tx: Transaction, context: Context, case: Case, task: Resource) -> Resource:
    """Takes up a Task that waited for a person."""
    back = workflow.moved(task, "accepted", context.instant())
    stored = put(tx, context, case.id, back)
    key = f"gather-{task['id']}-resumed-{stored.version}"
    context.enqueue(tx, WORKFLOW, key, connection_name(task), task["id"])
    return back


def _source(task: Resource) -> str:
    return str(task.get("owner", {}).get("reference", ""))


def connection_name(task: Resource) -> str:
    """The connection that a gathering Task reads from, or "none"."""
    return next(
        (i["valueString"] for i in task.get("input", []) if codes.has(i["type"], codes.EVIDENCE, "connection")), "none"
    )


def _key(task_id: str) -> str:
    """Under which name a gathering asks an EHR that is asked by one alone."""
    return f"{WORKFLOW}-{task_id}"


def begin(context: Context, task_id: str, number: int = 1) -> list[str]:
    """Step 1: consent, and who the patient is there.

    Answers ["ended"] when the Task has ended or waits for a person, ["waits"] when nothing is asked there now, else the
    patient's id there and the page that said so.
    """
    case, task = _loaded(context, task_id)
    if task["status"] in _STOPPED:
        return ["ended"]
    name = connection_name(task)
    if name == "none":
        return _end(context, case, task, "No connection to this organization is configured; ask it another way.")
    decision = sensitivity.may_ask(context, case, name, _source(task))
    if not decision.permitted:
        return _end(context, case, task, f"Not asked: {decision.because}.", reason="consent-withheld")
    wait = circuits.enter(context, name, _key(task_id))
    if wait is not None:
        _wait(context, case, task, number, wait)
        return ["waits"]
    client = context.client(name)
    before = client.answers
    try:
        match = patients.find(context, case, context.connections[name])
        circuits.over(context, name, _key(task_id), client.answers != before)
    except EhrFailure as failure:
        circuits.failed(context, name, _key(task_id), failure, client.answers != before)
        if failure.retryable:
            raise
        why = failure.message if isinstance(failure, Refused) else f"The EHR refused: {failure.kind}."
        return _end(context, case, task, why)
    if match.page is None and match.candidates:
        return _hold(context, case, task, match)
    if match.page is None:
        return _end(context, case, task, f"The patient was not matched: {match.because}.")
    with context.database.transaction(SERVICE) as tx:
        task = resources.read(tx.connection, EVERYTHING, "Task", task_id).resource
        if task["status"] in _STOPPED:  # ended meanwhile, by a person
            return ["ended"]
        page_id = collect.patient_page(task_id)
        page = match.page
        collect.put_binary(tx, context, case.id, name, page_id, page.content_type, page.body, page.url)
        put(tx, context, case.id, _advanced(task, "in-progress", context.instant()))
    return [match.id, page_id]


def _loaded(context: Context, task_id: str) -> tuple[Case, Resource]:
    with context.database.reading() as connection:
        return _load(connection, task_id)


def _load(connection: Connection, task_id: str) -> tuple[Case, Resource]:
    case_id, stored = case_of_task(connection, EVERYTHING, task_id)
    return load(connection, EVERYTHING, case_id), stored.resource


def _hold(context: Context, case: Case, task: Resource, match: Match) -> list[str]:
    """Waits for a person: somebody there may be the patient. Nothing of them shows in the case."""
    with context.database.transaction(SERVICE) as tx:
        patients.quarantine_candidates(tx, context, case, connection_name(task), match)
        text = f"{match.because[0].upper()}{match.because[1:]}; see the candidates, then confirm one or none."
        put(tx, context, case.id, _advanced(task, "on-hold", context.instant(), text=text))
    return ["ended"]


def _advanced(task: Resource, status: str, now: str, *, text: str = "", reason: str = "") -> Resource:
    """The Task moved on, through accepted where it must pass it."""
    if task["status"] == "requested":
        task = workflow.moved(task, "accepted", now)
    if task["status"] == status:
        return task
    return workflow.moved(task, status, now, reason=reason, reason_text=text)


def _end(
    context: Context, case: Case, task: Resource, why: str, *, reason: str = "", outcome: str = "not-asked"
) -> list[str]:
    """Ends a Task that can't be done: the source stands in the manifest with nothing, and why."""
    gathered = records.Gathered({}, (Answer("*", outcome, detail=why, as_of=context.instant()),))
    with context.database.transaction(SERVICE) as tx:
        put(tx, context, case.id, _package(context, case, task, gathered))
        put(tx, context, case.id, _advanced(task, "failed", context.instant(), text=why, reason=reason))
        progress.forget(tx, task["id"])
    # Apart: whatever the checklist or the groups may stumble over, the Task has ended and the manifest says why.
    with context.database.transaction(SERVICE) as tx:
        settle(tx, context, case.id)
    return ["ended"]


def fetch(context: Context, task_id: str, patient_id: str, number: int) -> list[str]:
    """Step 2: collects and stores everything; what it answers is only how many pages and files there are.

    Raises EhrFailure when it is worth trying again later. What was finished stays finished.
    """
    case, task = _loaded(context, task_id)
    if task["status"] in _STOPPED:
        return ["0", "0"]
    name = connection_name(task)
    client = context.client(name)
    before = client.answers
    try:
        _require_consent(context, case, task)
        found = _collected(context, case, task, patient_id, last_try=Try.of(number).attempt >= MAX_ATTEMPTS)
        circuits.over(context, name, _key(task_id), client.answers != before)
    except EhrFailure as failure:
        circuits.failed(context, name, _key(task_id), failure, client.answers != before)
        raise
    except sensitivity.ConsentEnded as ended:
        return _end_without_consent(context, task_id, ended)
    return [str(len(found.pages)), str(len(found.files))]


def _require_consent(context: Context, case: Case, task: Resource) -> None:
    sensitivity.require_consent(context, case.of_type("Consent"), connection_name(task), _source(task))


def _end_without_consent(context: Context, task_id: str, ended: sensitivity.ConsentEnded) -> list[str]:
    """Consent has ended since the gathering began: nothing is asked or merged any more."""
    _end(context, *_loaded(context, task_id), f"Not asked: {ended}.", reason="consent-withheld")
    return ["0", "0"]


def _collected(context: Context, case: Case, task: Resource, patient_id: str, *, last_try: bool) -> collect.Collected:
    name = connection_name(task)
    full = any(codes.has(i["type"], codes.EVIDENCE, "full") for i in task.get("input", []))
    before = None if full else records.package_of(case, _source(task))
    return collect.collect(context, case, task["id"], name, _source(task), patient_id, before, last_try=last_try)


def merge(context: Context, task_id: str, patient_id: str, first_page: str, number: int) -> str:
    """Step 3, one transaction: the copies, the List with the manifest, Provenance, the Task's end."""
    case, task = _loaded(context, task_id)
    if task["status"] in _STOPPED:
        return task_id
    try:
        _merge(context, case, task, patient_id, first_page)
    except sensitivity.ConsentEnded as ended:
        _end_without_consent(context, task_id, ended)
    return task_id


def _merge(context: Context, case: Case, task: Resource, patient_id: str, first_page: str) -> None:
    task_id, name = task["id"], connection_name(task)
    base = context.client(name).base
    # Everything of it is finished by now: this only reads back what the parts said.
    found = _collected(context, case, task, patient_id, last_try=True)
    page_ids = collect.distinct([first_page, *found.pages])
    with context.database.transaction(SERVICE) as tx:
        # Once more, with the consents as they are now: nothing that was taken back meanwhile is merged.
        case, task = _load(tx.connection, task_id)
        if task["status"] in _STOPPED:
            return
        _require_consent(context, case, task)
        held = copies.held(tx.connection, case.id, name, base)
        pages = collect.StoredPages(tx.connection, page_ids)
        gathered = records.merge(
            case.id, name, base, patient_id, pages, found.answers, found.files, held,
            sensitivity.label_of(context, case, _source(task)), sensitivity.marks(context, name),
        )  # fmt: skip
        copies.store(tx, context, case.id, name, gathered.copies, held)
        copies.put_aside(tx, case.id, name, gathered.kept_out, held)
        named = (records.copy_reference(case.id, name, key).partition("/")[2] for key in found.files)
        copies.bring_back(tx, case.id, name, named)
        entries = {**gathered.entries, **{key: records.copy_reference(case.id, name, key) for key in found.files}}
        gathered = replace(gathered, entries=entries)
        package = _package(context, case, task, gathered)
        put(tx, context, case.id, package)
        now = context.instant()
        targets = list(gathered.entries.values()) or [reference(package)]
        put(
            tx, context, case.id,
            provenance(
                derived_id(task_id, "provenance"), targets, now, activity="CREATE",
                author={"reference": _source(task)}, sources=[f"Binary/{page}" for page in page_ids],
            ),
        )  # fmt: skip
        said = alignment.with_evidence(task, {"patient-there": f"Patient/{patient_id}"})
        said["output"] = [o for o in said["output"] if not codes.has(o["type"], codes.EVIDENCE, "package")]
        said["output"].append(
            {"type": codes.concept(codes.EVIDENCE, "package"), "valueReference": {"reference": reference(package)}}
        )
        put(tx, context, case.id, _advanced(said, "completed", now))
        progress.forget(tx, task_id)
        settle(tx, context, case.id)


def _package(context: Context, case: Case, task: Resource, gathered: records.Gathered) -> Resource:
    title = task.get("owner", {}).get("display") or connection_name(task)
    before = records.package_of(case, _source(task))
    return records.package(case, _source(task), title, gathered, context.instant(), before,
                           sensitivity.marks(context, connection_name(task)))  # fmt: skip


def settle(tx: Transaction, context: Context, case_id: str) -> None:
    """When the last source has ended: says on the coordination Task whether the record is complete.

    A case that has come further, or that waits for somebody, is left as it is.
    """
    case = load(tx.connection, EVERYTHING, case_id, gathered=True)
    merging.regroup(tx, context, case)
    if blinding.is_blind(case):
        blinding.mark(tx, load(tx.connection, EVERYTHING, case_id, gathered=True))
    if any(t["status"] not in _ENDED for t in case.tasks_of("gather-records")):
        return
    found = items(context, case)
    asking.ask_for(tx, context, case, found)
    task = case.coordination
    if workflow.business_status(task) not in ("records-requested", "records-incomplete", "records-complete"):
        return
    gaps = any(item.state in checklist.GAPS for item in found)  # what was asked for just now is one still
    state = "records-incomplete" if gaps else "records-complete"
    changed = {
        **task,
        "businessStatus": codes.concept(codes.BUSINESS_STATUS, state),
        "lastModified": context.instant(),
    }
    put(tx, context, case_id, changed)
    clocks.attend(tx, context, case_id)


def items(context: Context, case: Case) -> list[checklist.Item]:
    """The checklist for what is under review, over the record. The case must have been loaded with it."""
    found = checklist.evaluate(
        context.checklist(case), records.gathered_resources(case), case.items,
        today=case.coordination["authoredOn"][:10],
        answers=[(p.get("title", ""), a) for p in records.packages(case) for a in records.coverage(p)],
        requested=requests.open_items(case),
    )  # fmt: skip
    return requests.with_arrivals(case, found)


def named_gaps(case: Case, found: list[checklist.Item]) -> list[str]:
    """What the reviewer must confirm to know before signing: checklist items that nobody sent, and what a source did
    not answer in full ("lakeside-cancer-center/Observation").
    """
    listed = [item.code for item in found if item.state in checklist.GAPS]
    return listed + [code for package in records.packages(case) for code in records.gap_codes(package)]


def is_over(case: Case) -> bool:
    """Whether every source has answered, or can't."""
    return all(t["status"] in _ENDED for t in case.tasks_of("gather-records"))


def again(context: Context, caller: Caller, case_id: str, sources: list[str], *, full: bool = False) -> list[str]:
    """Gathers again, from these Organizations or all; the ids of the Tasks to watch.

    Where an EHR tells what changed, only that is asked for; what was deleted there shows only with `full`.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        require_hand(tx, context, case)
        if case.coordination["status"] in ("completed", "rejected", "failed", "cancelled"):
            raise Conflict("The case has ended; its record is not gathered again.")
        wanted = sources or case.sources
        if not wanted:
            raise Invalid("The case names no sources; give some.", path="sources")
        return start(tx, context, case, wanted, full=full)


def later(context: Context, task_id: str, number: int, why: str, at_least_s: float = 0.0) -> str:
    """The EHR does not answer: tries again later, with growing pauses, or gives up and says so in the manifest."""
    case, task = _loaded(context, task_id)
    if task["status"] in _STOPPED:
        return "ended"
    wait = circuits.standing(context, connection_name(task), _key(task_id))
    if wait is not None:
        return _wait(context, case, task, number, wait)
    try_ = Try.of(number)
    if try_.attempt >= MAX_ATTEMPTS:
        said = f"The EHR gave no answer in {try_.attempt} attempts ({why}); gather again when it is back."
        _end(context, case, task, said, outcome="failed")
        return "given up"
    delay_s = max(at_least_s, min(LONGEST_PAUSE_S, 2.0**try_.attempt))
    next_try = times.instant(context.now() + int(delay_s * 1000))
    said = f"No answer from the EHR yet ({why}); attempt {try_.attempt + 1} at {next_try}."
    waiting = {**task, "statusReason": {"text": said}, "lastModified": context.instant()}
    with context.database.transaction(SERVICE) as tx:
        put(tx, context, case.id, waiting)
        _enqueue_try(tx, context, task, try_.next, delay_s)
    return said


def _wait(context: Context, case: Case, task: Resource, number: int, wait: Wait) -> str:
    """Nothing is asked there now: the same attempt comes again. The Task says why, once.

    For a day: a review that waits for the record of one EHR must not wait for it without end.
    """
    if context.now() - times.interval(task["authoredOn"]).low > LONGEST_WAIT_MS:
        said = f"{wait.why} Given up after a day; gather again when it is back."
        _end(context, case, task, said, outcome="failed")
        return "given up"
    waiting = {**task, "statusReason": {"text": wait.why}, "lastModified": context.instant()}
    with context.database.transaction(SERVICE) as tx:
        current = resources.read(tx.connection, EVERYTHING, "Task", task["id"]).resource
        if current["status"] in _STOPPED:  # ended meanwhile, by a person
            return "ended"
        if task.get("statusReason") != waiting["statusReason"]:
            put(tx, context, case.id, waiting)
        _enqueue_try(tx, context, task, Try.of(number).waited, wait.seconds)
    return wait.why


def _enqueue_try(tx: Transaction, context: Context, task: Resource, try_: Try, delay_s: float) -> None:
    number = try_.number
    key = f"gather-{task['id']}-{number}"
    context.enqueue(tx, WORKFLOW, key, connection_name(task), task["id"], number, delay_s=delay_s)


def fail(context: Context, task_id: str, why: str) -> None:
    """Ends a gathering that could not be done after every retry; the manifest names the gap."""
    case, task = _loaded(context, task_id)
    if task["status"] not in _STOPPED:
        _end(context, case, task, why, outcome="failed")
