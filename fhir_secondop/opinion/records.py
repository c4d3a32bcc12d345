"""What was gathered: pages of an EHR → the case's copies, and the coverage manifest that says what is not there.

A copy keeps its text but for references: those to something gathered point at our copy, the rest get the source's
absolute URL, because two EHRs both have a Patient/1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from fhir_secondop.fhir import codec, refs, times
from fhir_secondop.fhir.codec import Body
from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose

COVERAGE = codes.extension("coverage")
PART2 = codes.coding(codes.ACT_CODE, "42CFRPart2")
PART2_NOTICE = "42 CFR part 2 prohibits unauthorized use or disclosure of these records."
"""What accompanies each disclosure of a record under Part 2. Source: 42 CFR § 2.32(a)(2)."""
# Not about one patient: read because something cites them.
_SHARED = frozenset({"Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Device", "Binary"})

Pages = Iterable[tuple[str, Resource, str]]
"""(text of one resource as it came, the same parsed, reference to its page); gone through twice, so no generator."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Our copy of one resource of an EHR. `page` is the Binary with the bytes it came in."""

    id: str
    body: Body
    resource: Resource
    source_url: str
    page: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one source brought: `entries` are the references of our copies by their key there ("Observation/7").

    `answers` have the strangers that were dropped, `kept_out` are the keys of what a label keeps out. `copies` makes
    the copies one by one, from the pages once more: a record is never in memory whole.
    """

    entries: Mapping[str, str]
    answers: tuple[Answer, ...]
    make: Callable[[], Iterator[Copy]] = lambda: iter(())
    kept_out: tuple[str, ...] = ()

    @property
    def copies(self) -> Iterator[Copy]:
        """Every copy, in the order of the pages."""
        return self.make()


def copy_reference(case_id: str, source: str, key: str) -> str:
    """The reference of our copy of what is `key` ("Type/id", or the URL of a file) at that source."""
    kind = key.partition("/")[0] if refs.parse(key) and "://" not in key else "Binary"
    return f"{kind}/{derived_id(case_id, source, key)}"


def merge(
    case_id: str, source: str, base: str, patient_id: str, pages: Pages, answers: Iterable[Answer],
    files: Container[str] = frozenset(), held: Container[str] = frozenset(),
    label: Callable[[Resource], str] = lambda resource: "", marked: Iterable[Resource] = (),
) -> Gathered:  # fmt: skip
    """The copies in the pages of one EHR.

    `patient_id` is the matched patient's id there. A clinical resource about anyone else is dropped and counted: a
    server that ignored our `patient` parameter must not leak a stranger into the case. `files` are the keys
    ("Binary/2", or a URL) of the files that were fetched, `held` those of resources that an earlier gathering has.
    What has a `label` that keeps it out is left out, and its type is withheld; each copy gets the labels `marked`.
    """
    taken: dict[str, tuple[int, tuple[int, str]]] = {}
    provenances: dict[str, list[str]] = {}
    strangers: dict[str, set[str]] = {}
    labelled: dict[str, dict[str, str]] = {}
    for place, (_, resource, _) in enumerate(pages):
        if "id" not in resource or resource["resourceType"] == "OperationOutcome":
            continue
        key = reference(resource)
        if not is_about(resource, patient_id, base):
            strangers.setdefault(resource["resourceType"], set()).add(key)
            continue
        why = label(resource)
        if why:
            labelled.setdefault(resource["resourceType"], {})[key] = why
            continue
        version = _version(resource)
        # Pages may overlap: the newest version is kept.
        if key not in taken or taken[key][1] <= version:
            taken[key] = (place, version)
            if resource["resourceType"] == "Provenance":
                provenances[key] = list(refs.find(resource.get("target", [])))
    # Whichever version came first: what is labelled now is not let in as it was before.
    for key in (key for keys in labelled.values() for key in keys):
        taken.pop(key, None)
        provenances.pop(key, None)
    for key, targets in provenances.items():
        if not _about_taken(targets, taken, base):
            del taken[key]
            strangers.setdefault("Provenance", set()).add(key)
    local = {key: copy_reference(case_id, source, key) for key in taken}
    # Some servers give their entries urn:uuid addresses, of the ids that they have.
    by_urn = {f"urn:uuid:{key.partition('/')[2]}": reference_ for key, reference_ in local.items()}

    def replacement(text: str) -> str | None:
        ref = refs.parse(text)
        if ref is None or ref.base not in ("", base):
            return copy_reference(case_id, source, text) if text in files else by_urn.get(text)
        if ref.local in local:
            return local[ref.local]
        if ref.local in files or ref.local in held:
            return copy_reference(case_id, source, ref.local)
        # Not gathered: the source's own address, with the version that was meant.
        return text if ref.base else f"{base}/{text}"

    def copies() -> Iterator[Copy]:
        places = {place: key for key, (place, _) in taken.items()}
        for place, (text, resource, page) in enumerate(pages):
            key = places.get(place)
            if key is not None:
                yield _copy(key, local[key], codec.body(text), resource, page, base, replacement, marked)

    counted = tuple(
        _kept_out(replace(a, strangers=len(strangers.pop(a.type, ()))), labelled.get(a.type, {})) for a in answers
    )
    counted += tuple(Answer(kind, "not-asked", strangers=len(keys)) for kind, keys in sorted(strangers.items()))
    return Gathered(local, counted, copies, tuple(key for keys in labelled.values() for key in keys))


def _kept_out(answer: Answer, labels: Mapping[str, str]) -> Answer:
    """The line of the manifest when some of its resources were kept out by their labels."""
    if not labels:
        return answer
    # How many, and not which labels: "HIV" would tell what was kept out.
    said = f"kept out by a security label: {len(labels)}"
    return replace(answer, withheld=True, received=max(0, answer.received - len(labels)),
                   detail="; ".join(filter(None, [answer.detail, said])))  # fmt: skip


def _copy(
    key: str, local: str, body: Body, resource: Resource, page: str, base: str,
    replacement: Callable[[str], str | None], marked: Iterable[Resource],
) -> Copy:  # fmt: skip
    version = resource.get("meta", {}).get("versionId")
    url = f"{base}/{key}" + (f"/_history/{version}" if version else "")
    rewritten = refs.rewritten(resource, replacement)
    rewritten["meta"] = {**resource.get("meta", {}), "source": url}
    labels = [*resource.get("meta", {}).get("security", []), *marked]
    if labels:
        rewritten["meta"]["security"] = labels
    return Copy(local.partition("/")[2], refs.rewrite(body, replacement), rewritten, url, page)


def _version(resource: Resource) -> tuple[int, str]:
    meta = resource.get("meta", {})
    updated = times.interval(meta["lastUpdated"]).low if "lastUpdated" in meta else times.MIN_MS
    return (updated, str(meta.get("versionId", "")).rjust(20, "0"))


def is_about(resource: Resource, patient_id: str, base: str) -> bool:
    """Whether a resource is the matched patient's, or nobody's: a person, a place, a file that was read by name."""
    kind = resource["resourceType"]
    if kind == "Patient":
        return bool(resource["id"] == patient_id)
    for element in ("subject", "patient", "beneficiary", "individual", "for"):
        target = resource.get(element)
        if isinstance(target, dict):
            ref = refs.parse(target.get("reference", ""))
            return ref is not None and ref.local == f"Patient/{patient_id}" and ref.base in ("", base)
    return kind in _SHARED or kind == "Provenance"


def _about_taken(targets: Iterable[str], taken: Container[str], base: str) -> bool:
    """Whether a Provenance is about something of this patient's: decided when all pages are in."""
    parsed = [refs.parse(text) for text in targets]
    return any(ref is not None and ref.base in ("", base) and ref.local in taken for ref in parsed)


def package(
    case: Case, source: str, title: str, gathered: Gathered, as_of: str, before: Resource | None = None,
    marked: Iterable[Resource] = (),
) -> Resource:  # fmt: skip
    """The List (snapshot) of one source: its copies, and in its coverage extensions the manifest.

    What an earlier gathering (`before`) had stays in it, but for the types that were answered in full this time.
    """
    anew = {a.type for a in gathered.answers if a.outcome == "answered" and not a.since}
    kept = [e["item"]["reference"] for e in (before or {}).get("entry", [])]
    kept = [r for r in kept if r.partition("/")[0] not in anew]
    made = compose(
        "List",
        id=derived_id(case.id, source, "package"),
        meta={**profile("source-list"), **({"security": list(marked)} if marked else {})},
        status="current",
        mode="snapshot",
        title=title,
        subject={"reference": reference(case.patient)},
        date=as_of,
    )
    # Thousands of parts: past the model, which takes a tenth of a millisecond for each. Storing validates them.
    entries = [{"item": {"reference": r}} for r in dict.fromkeys([*kept, *gathered.entries.values()])]
    manifest = [_coverage(answer) for answer in gathered.answers]
    return {**made, **({"extension": manifest} if manifest else {}), **({"entry": entries} if entries else {})}


def package_of(case: Case, source: str) -> Resource | None:
    """The package of that source, if it was gathered before."""
    return case.find("List", derived_id(case.id, source, "package"))


def _coverage(answer: Answer) -> Resource:
    parts: list[Resource] = [
        {"url": "type", "valueCode": answer.type},
        {"url": "outcome", "valueCode": answer.outcome},
        {"url": "received", "valueUnsignedInt": answer.received},
        {"url": "strangers", "valueUnsignedInt": answer.strangers},
    ]
    for url, kind, value in (
        ("asked", "valueString", answer.asked),
        ("detail", "valueString", answer.detail),
        ("asOf", "valueInstant", answer.as_of),
        ("since", "valueInstant", answer.since),
        ("unresolved", "valueUnsignedInt", answer.unresolved),
        ("withheld", "valueBoolean", answer.withheld),
    ):
        if value:
            parts.append({"url": url, kind: value})
    return {"url": COVERAGE, "extension": parts}


def coverage(package_list: Resource) -> list[Answer]:
    """The manifest of one source, read back from its List."""
    answers = []
    for ext in package_list.get("extension", []):
        if ext["url"] == COVERAGE:
            said = {part["url"]: next(v for k, v in part.items() if k.startswith("value")) for part in ext["extension"]}
            answers.append(
                Answer(
                    said["type"], said["outcome"], said.get("asked", ""), said["received"], said["strangers"],
                    said.get("detail", ""), said.get("asOf", ""), said.get("since", ""), said.get("unresolved", 0),
                    said.get("withheld", False),
                )
            )  # fmt: skip
    return answers


def is_gap(answer: Answer) -> bool:
    """Whether a line of the manifest names something that may be missing: the reviewer confirms each.

    A type that the EHR does not offer at all is shown, and asks for nothing: the checklist says what is needed of it.
    """
    return (
        answer.outcome not in ("answered", "not-offered") or answer.withheld or bool(answer.unresolved)
    ) and not answer.type.startswith("$")


def gap_codes(package_list: Resource) -> list[str]:
    """A code without spaces for each named gap of a source: "lakeside-cancer-center/Observation"."""
    name = re.sub(r"[^a-z0-9]+", "-", package_list.get("title", "").lower()).strip("-") or "source"
    return [f"{name}/{answer.type}" for answer in coverage(package_list) if is_gap(answer)]


def packages(case: Case) -> list[Resource]:
    """The Lists of the case's sources."""
    return [r for r in case.of_type("List") if r.get("mode") == "snapshot"]


def labels(case: Case) -> list[Resource]:
    """The labels of the case's sources: what is made of their records carries them on."""
    found = {(s["system"], s["code"]): s for p in packages(case) for s in p.get("meta", {}).get("security", [])}
    return list(found.values())


def is_part2(case: Case) -> bool:
    """Whether the case holds a record under 42 CFR Part 2."""
    return any(label["code"] == PART2["code"] for label in labels(case))


def notices(case: Case) -> list[str]:
    """What must stand in every form in which something of the case is shown or sent."""
    return [PART2_NOTICE] if is_part2(case) else []


def labelled(case: Case, resource: Resource) -> Resource:
    """What is made of the case's record, with the labels of its sources."""
    found = labels(case)
    if not found:
        return resource
    meta = resource.get("meta", {})
    kept = [label for label in meta.get("security", []) if label not in found]
    return {**resource, "meta": {**meta, "security": [*kept, *found]}}


def gathered_resources(case: Case) -> list[Resource]:
    """The case's copies from all sources."""
    wanted = {entry["item"]["reference"] for package_list in packages(case) for entry in package_list.get("entry", [])}
    return [r for r in case.resources if reference(r) in wanted]
