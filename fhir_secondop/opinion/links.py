"""Groups as FHIR: a Linkage each, all its items alternates of one another, because no source is taken for the truth.

What a person said about copies stands on the Linkage too, with its time: the latest word about a pair holds.
Source: https://hl7.org/fhir/R4/linkage.html
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import PLATFORM, Case, profile
from fhir_secondop.opinion.duplicates import BY_HAND, Group, Pair, Said, group_id

UNLINKED, LINKED = "unlinked", "linked"


def of_case(case: Case) -> list[Resource]:
    """The Linkages of a case that are ours."""
    mine = codes.extension("record-link")
    return [r for r in case.of_type("Linkage") if mine in r.get("meta", {}).get("profile", [])]


def members(link: Resource) -> tuple[str, ...]:
    """The references of the copies that a Linkage is about."""
    return tuple(item["resource"]["reference"] for item in link["item"])


def why(link: Resource) -> str:
    """Why they are taken for one fact."""
    return str(codes.extension_value(link, codes.LINK_WHY) or "")


def decision(link: Resource) -> tuple[str, str]:
    """What a person said of the copies ("linked", "unlinked"), and when; ("", "") when nobody did."""
    for ext in link.get("extension", []):
        if ext["url"] == codes.LINK_DECISION:
            said = {part["url"]: next(v for k, v in part.items() if k.startswith("value")) for part in ext["extension"]}
            return said["decision"], said["at"]
    return "", ""


def said(links: Iterable[Resource]) -> Said:
    """What people have said of pairs: the latest word about each."""
    latest: dict[Pair, str] = {}
    decided = sorted((decision(link)[1], link["id"], decision(link)[0], members(link)) for link in links)
    for _, _, what, together in decided:
        if what:
            latest |= {frozenset(pair): what for pair in combinations(together, 2)}
    return Said(
        frozenset(pair for pair, what in latest.items() if what == UNLINKED),
        frozenset(pair for pair, what in latest.items() if what == LINKED),
    )


def linkage(group: Group, author: Resource = PLATFORM) -> Resource:
    """The Linkage of a group."""
    # Not composed by the models, though it has their shape (a test says so): a large record has ten thousand, which are
    # made while everybody else who writes waits.
    return {
        "resourceType": "Linkage",
        "id": group.id,
        "meta": profile("record-link"),
        "extension": [{"url": codes.LINK_WHY, "valueString": group.why}],
        "active": True,
        "author": author,
        "item": [{"type": "alternate", "resource": {"reference": member}} for member in group.members],
    }


def decided(
    case_id: str, copies: Iterable[str], what: str, at: str, author: Resource, before: Resource | None
) -> Resource:
    """The Linkage of exactly these copies with a person's word on it; `before` is what stood there."""
    listed = tuple(sorted(set(copies)))
    link = before or linkage(Group(group_id(case_id, listed), listed, BY_HAND), author)
    word = {
        "url": codes.LINK_DECISION,
        "extension": [{"url": "decision", "valueCode": what}, {"url": "at", "valueInstant": at}],
    }
    kept = [e for e in link["extension"] if e["url"] != codes.LINK_DECISION]
    return {**link, "extension": [*kept, word], "active": what == LINKED}


def changed(groups: Iterable[Group], links: Iterable[Resource]) -> list[Resource]:
    """The Linkages to write so that exactly those of the groups are active; none is deleted."""
    stored = {link["id"]: link for link in links}
    write = []
    for group in groups:
        before = stored.pop(group.id, None)
        if before is None:
            write.append(linkage(group))
        elif not before["active"] or why(before) != group.why:
            others = [e for e in before["extension"] if e["url"] != codes.LINK_WHY]
            write.append({**before, "active": True, "extension": [*linkage(group)["extension"], *others]})
    return write + [{**link, "active": False} for link in stored.values() if link["active"]]
