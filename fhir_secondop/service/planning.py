"""A chart compared with the plan of record, as far as that is coded; only where the record may be asked for."""

from __future__ import annotations

from collections.abc import Sequence

from fhir_secondop.ehr import charts
from fhir_secondop.ehr.target import Target
from fhir_secondop.model import Connection, Resource
from fhir_secondop.opinion import alignment, planned, report
from fhir_secondop.opinion.case import Case, reference, versioned
from fhir_secondop.opinion.checks import Finding
from fhir_secondop.opinion.people import Person
from fhir_secondop.opinion.planned import Contradiction
from fhir_secondop.opinion.watches import Look
from fhir_secondop.service import sensitivity
from fhir_secondop.service.context import Context


def plan_of(case: Case) -> Resource | None:
    """The plan of record that holds now."""
    return alignment.plan_of(case, report.version_of(case.report)) if case.report else None


def current(case: Case) -> frozenset[str]:
    """The versioned reference of that plan."""
    plan = plan_of(case)
    return frozenset({versioned(plan)}) if plan else frozenset()


def look(context: Context, case: Case, connection: Connection, target: Target, people: Sequence[Person]) -> Look:
    """What the chart shows against the plan. Raises EhrFailure where it can't be seen now.

    What labels or 42 CFR Part 2 keep out of a case is not compared: the item would tell of it.
    """
    plan = plan_of(case)
    coded = planned.of_plan(plan) if plan else []
    if plan is None or not coded or not people:
        return Look()
    if connection.part2:
        return Look(why="its chart is under 42 CFR Part 2 and not compared with the plan")
    source = people[0].organization_ref
    allowed = sensitivity.may_ask(context, case, connection.name, source)
    if not allowed.permitted:
        return Look(why=f"the chart is not compared with the plan: {allowed.because}")
    label = sensitivity.label_of(context, case, source)
    kinds = sorted({one.kind for one in coded})
    chart = charts.read(target, [kind for one in kinds for kind in planned.TYPES[one]])
    whole = [one for one in kinds if not any(kind in chart.lacking for kind in planned.TYPES[one])]
    lines = [r for r in chart.resources if not label(r)]
    name = people[0].organization_name or connection.name
    findings = tuple(
        _finding(plan, found, name, tuple(sorted(p.reference for p in people)))
        for found in planned.contradictions(plan, lines, chart.medications)
        if found.planned.kind in whole
    )
    covered = frozenset(f"{kind}/*" for one in whole for kind in planned.TYPES[one])
    return Look(findings, covered, why="; ".join(sorted(chart.lacking.values())))


def _finding(plan: Resource, found: Contradiction, name: str, concerns: tuple[str, ...]) -> Finding:
    """In the plan's own words and code: nothing of the chart's text leaves it."""
    line, system, code = found.line, *found.planned.code
    where = reference(line)
    status = str(line.get("status", ""))
    what = f"at {name} {where} ({system} {code}) has the status {status}"
    says = f'{what}; the plan of record, version {alignment.plan_version(plan)}, says "{found.planned.says}"'
    return Finding(
        "avoided" if found.planned.avoid else "stopped", where, f"{system}|{code} {status}", says, versioned(plan),
        # From before the plan: somebody may still be about to stop it.
        certain=found.since, version=str(line.get("meta", {}).get("versionId", "")), concerns=concerns,
    )  # fmt: skip
