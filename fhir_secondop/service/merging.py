"""One record of several sources: the groups stored as Linkages, shown with the conflicts, undone and linked by hand.

Nothing of the record is changed or deleted by any of it: a Linkage only points at copies.
"""

from __future__ import annotations

from typing import Any

from fhir_secondop.errors import Conflict, Invalid, NotFound
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import conflicts, duplicates, links, sameness, sourced
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.opinion.sourced import Sourced
from fhir_secondop.service.context import Context, load, put, require_hand, who
from fhir_secondop.store import creating, resources
from fhir_secondop.store.creating import New
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]


def regroup(tx: Transaction, context: Context, case: Case) -> None:
    """Groups the copies of the case anew; what a person undid stays undone. The case must have been loaded with the
    record, in this transaction.
    """
    stored = links.of_case(case)
    found = duplicates.groups(case.id, sourced.of_case(case), links.said(stored))
    known = {link["id"] for link in stored}
    new = []
    for link in links.changed(found, stored):
        if link["id"] in known:
            put(tx, context, case.id, link)
        else:
            new.append(New(link["id"], codec.compose(link), link))
    creating.create_many(tx, new, base_url=context.base_url, case_id=case.id, owner=tx.caller.id)


def merged(context: Context, caller: Caller, case_id: str) -> Plain:
    """The groups with their sources, what was undone and by whom, and the conflicts: plain JSON."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id, gathered=True)
    copies = {copy.reference: copy for copy in sourced.of_case(case)}
    stored = links.of_case(case)
    by_hand = links.said(stored).together
    return {
        "groups": [_group(link, copies, by_hand) for link in stored if link["active"]],
        "undone": [_undone(case, link, copies) for link in stored if links.decision(link)[0] == links.UNLINKED],
        "conflicts": [
            {"kind": c.kind, "about": c.about,
             "sides": [{"source": s.source, "reference": s.reference, "text": s.text, "date": s.date} for s in c.sides]}
            for c in conflicts.find(case)
        ],
    }  # fmt: skip


def _group(link: Resource, copies: dict[str, Sourced], by_hand: frozenset[duplicates.Pair]) -> Plain:
    members = links.members(link)
    present = [copies[member] for member in members if member in copies]
    return {
        "group": link["id"],
        "why": links.why(link),
        "byHand": any(pair <= set(members) for pair in by_hand),
        "differs": list(duplicates.differs(present)),
        "members": _members(link, copies),
    }


def _undone(case: Case, link: Resource, copies: dict[str, Sourced]) -> Plain:
    at = links.decision(link)[1]
    act = case.find("Provenance", _act_id(case.id, link["id"], at)) or {}
    by = next((a["who"].get("display", "") for a in act.get("agent", []) if "identifier" in a["who"]), "")
    reason = next((r.get("text", "") for r in act.get("reason", [])), "")
    return {"group": link["id"], "at": at, "by": by, "reason": reason, "members": _members(link, copies)}


def _members(link: Resource, copies: dict[str, Sourced]) -> list[Plain]:
    return [_member(ref, copies.get(ref)) for ref in links.members(link)]


def _member(ref: str, copy: Sourced | None) -> Plain:
    if copy is None:
        return {"reference": ref, "source": "", "text": "no longer in the record"}
    status = ", ".join(conflicts.status(copy)) or copy.resource.get("status", "")
    source_url = copy.resource.get("meta", {}).get("source", "")
    return {"reference": ref, "source": copy.title, "sourceUrl": source_url, "text": copy.text, "date": copy.when,
            "status": status}  # fmt: skip


def unlink(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Takes a group apart, or one copy out of it; from then on no rule puts them together again. The Linkage.

    `plain` has the group, the reason, and perhaps the copy ("Condition/…").
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, gathered=True)
        require_hand(tx, context, case)
        link = _link(case, plain["group"])
        if links.decision(link)[0] == links.UNLINKED:
            return link
        if not link["active"]:
            raise Conflict("This group is no longer one; look at the merged record again.")
        together = links.members(link)
        out = plain.get("copy", "")
        if out and out not in together:
            raise Invalid("This copy is not in the group.", path="copy")
        apart = [(out, other) for other in together if other != out] if out and len(together) > 2 else [together]
        for copies in apart:
            _decide(tx, context, case, copies, links.UNLINKED, plain["reason"])
        return _settled(tx, context, case_id, link["id"])


def link(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Links copies by hand, or links an undone group again. The Linkage.

    `plain` has the reason, and the group or the copies.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, gathered=True)
        require_hand(tx, context, case)
        if ("group" in plain) == ("copies" in plain):
            raise Invalid("Name the group to link again, or the copies to link.", path="copies")
        copies = tuple(plain.get("copies", ())) or links.members(_link(case, plain["group"]))
        known = {copy.reference: copy for copy in sourced.of_case(case)}
        if len(set(copies)) < 2 or any(copy not in known for copy in copies):
            raise Invalid("Name two copies or more of this case's record.", path="copies")
        families = {sameness.family(known[copy]) for copy in copies}
        if len(families) > 1 or families & sameness.NOT_FACTS:
            raise Invalid("Only copies of one type can be of the same fact.", path="copies")
        made = _decide(tx, context, case, copies, links.LINKED, plain["reason"])
        return _settled(tx, context, case_id, made["id"])


def _link(case: Case, group: str) -> Resource:
    found = {link["id"]: link for link in links.of_case(case)}.get(group.removeprefix("Linkage/"))
    if found is None:
        raise NotFound("The case has no such group.")
    return found


def _decide(tx: Transaction, context: Context, case: Case, copies: tuple[str, ...], what: str, reason: str) -> Resource:
    """Writes a person's word about copies, and who said it and why."""
    now, author = context.instant(), who(tx.caller)
    before = case.find("Linkage", duplicates.group_id(case.id, copies))
    made = links.decided(case.id, copies, what, now, author, before)
    put(tx, context, case.id, made)
    put(
        tx, context, case.id,
        provenance(
            _act_id(case.id, made["id"], now), [reference(made)], now, activity="UPDATE" if before else "CREATE",
            author=author, reason=reason,
        ),
    )  # fmt: skip
    return made


def _act_id(case_id: str, link_id: str, at: str) -> str:
    return derived_id(case_id, "provenance", "link", link_id, at)


def _settled(tx: Transaction, context: Context, case_id: str, link_id: str) -> Resource:
    regroup(tx, context, load(tx.connection, EVERYTHING, case_id, gathered=True))
    return resources.read(tx.connection, EVERYTHING, "Linkage", link_id).resource
