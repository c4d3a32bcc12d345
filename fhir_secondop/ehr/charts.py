"""All that a chart has of some types now, of the patient alone; and what its lines cite as their medicine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhir_secondop.ehr import plan, pull
from fhir_secondop.ehr.client import matches
from fhir_secondop.ehr.target import Target, is_about
from fhir_secondop.fhir import refs
from fhir_secondop.model import Page, Resource

MOST_CITED = 50


@dataclass(frozen=True, slots=True)
class Chart:
    """`resources` of the types that were answered whole; `lacking` says why the others were not, a line each."""

    resources: tuple[Resource, ...]
    medications: dict[str, Resource]
    lacking: dict[str, str]


def read(target: Target, types: Iterable[str]) -> Chart:
    """The chart as it is now. Raises EhrFailure where time may mend that it could not be read."""
    client = target.client
    wanted = frozenset(types)
    found: dict[str, list[Resource]] = {kind: [] for kind in sorted(wanted)}
    medications: dict[str, Resource] = {}
    lacking: dict[str, str] = {}
    for ask in plan.plan(client.capability, client.site, client.granted):
        if ask.type not in wanted:
            continue

        def take(_: int, __: Page, bundle: Resource, kind: str = ask.type) -> None:
            found[kind] += [
                r for r in matches(bundle, kind) if is_about(target, r) and refs.parse(f"{kind}/{r.get('id')}")
            ]
            medications.update({f"Medication/{m['id']}": m for m in matches(bundle, "Medication") if "id" in m})

        answer = pull.fetch(client, ask, target.patient_id, take)
        if answer.outcome != "answered":
            lacking[ask.type] = f"{ask.type}: {answer.outcome} {answer.detail}".strip()
    whole = {f"{r['resourceType']}/{r['id']}": r for kind in found if kind not in lacking for r in found[kind]}
    _read_cited(target, whole.values(), medications, lacking)
    return Chart(tuple(r for r in whole.values() if r["resourceType"] not in lacking), medications, lacking)


def _read_cited(
    target: Target, lines: Iterable[Resource], medications: dict[str, Resource], lacking: dict[str, str]
) -> None:
    """Reads the Medications that lines cite. Where one can't be read, medicines are not known."""
    cited = {_local(target, line) for line in lines} - {""} - set(medications)
    if len(cited) > MOST_CITED:
        lacking["MedicationRequest"] = f"MedicationRequest: it cites more than {MOST_CITED} Medications"
        return
    for reference in sorted(cited):
        page, why = pull.read_cited(target.client, reference)
        if page is None:
            lacking["MedicationRequest"] = f"MedicationRequest: a Medication that it cites could not be read ({why})"
            return
        medications[reference] = pull.resources_of(page)[0][1]


def _local(target: Target, line: Resource) -> str:
    """What a line cites at this EHR; "" of nothing, and of what it contains itself."""
    ref = refs.parse(line.get("medicationReference", {}).get("reference", ""))
    return ref.local if ref is not None and ref.base in ("", target.client.base) and ref.type == "Medication" else ""
