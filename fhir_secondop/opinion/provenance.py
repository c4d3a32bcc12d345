"""Who did what to which resource, for whom: Provenance as DOMAIN section 3 codes it.

Source: https://hl7.org/fhir/R4/provenance.html
"""

from __future__ import annotations

from collections.abc import Iterable

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.case import PLATFORM, profile
from fhir_secondop.opinion.compose import compose

_OPERATION = "http://terminology.hl7.org/CodeSystem/v3-DataOperation"


def provenance(
    resource_id: str, targets: Iterable[str], recorded: str, *, activity: str, author: Resource | None = None,
    sources: Iterable[str] = (), revises: str = "", reason: str = "", auth_time: str = "",
    signature: Resource | None = None,
) -> Resource:  # fmt: skip
    """The Provenance of one act.

    `activity` is CREATE, UPDATE or APPEND of v3-DataOperation; `author` a Reference (with `type` and `identifier`
    where there is no resource), the platform is always the assembler; `sources` are references that it was made from;
    `auth_time` is the instant at which the author last proved who it is, `signature` what it has signed with.
    """
    agents: list[Resource] = []
    if author:
        proved = {"extension": [{"url": codes.AUTH_TIME, "valueInstant": auth_time}]} if auth_time else {}
        agents.append({**proved, "type": codes.concept(codes.PROVENANCE_AGENT, "author"), "who": author})
    agents.append({"type": codes.concept(codes.PROVENANCE_AGENT, "assembler"), "who": PLATFORM})
    entities: list[Resource] = [{"role": "source", "what": {"reference": source}} for source in sources]
    if revises:
        entities.append({"role": "revision", "what": {"reference": revises}})
    cited = [{"reference": target} for target in targets]
    made = compose(
        "Provenance",
        id=resource_id,
        meta=profile("signature") if signature else None,
        target=cited[:1],
        recorded=recorded,
        activity=codes.concept(_OPERATION, activity),
        reason=[{"text": reason}] if reason else None,
        agent=agents,
        signature=[signature] if signature else None,
    )
    # A gathered record has thousands of both: past the model, which is slow; storing validates them.
    return {**made, "target": cited, **({"entity": entities} if entities else {})}
