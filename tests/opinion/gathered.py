"""The records of the examples as a case has them once they are gathered; no store, no EHR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cases

from fhir_secondop.fhir import codec
from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import records
from fhir_secondop.opinion.case import Case


def bundle_of(example: str, name: str) -> list[Resource]:
    """The resources of one EHR of an example, as the wire would bring them."""
    path = cases.ROOT / "examples" / example / "records" / f"{name}.json"
    return [entry["resource"] for entry in codec.parse(path.read_text("utf-8"))["entry"]]


def gathered(case: Case, sources: Mapping[str, Iterable[Resource]], outcome: str = "answered") -> Case:
    """The case with the record of each source; its patient there is Patient/1, everybody else is dropped."""
    found = list(case.resources)
    for title, resources in sources.items():
        base = f"https://{title}.example/fhir"
        given = list(resources)
        texts = [codec.dumps(resource) for resource in given]
        pages = [(text, codec.parse(text), f"Binary/{place}") for place, text in enumerate(texts)]
        answers = [Answer(kind, outcome) for kind in sorted({r["resourceType"] for r in given})]
        merged = records.merge(case.id, title, base, "1", pages, answers)
        found += [{**copy.resource, "id": copy.id} for copy in merged.copies]
        found.append(records.package(case, title, title, merged, cases.NOW))
    return Case(case.id, found)


def gathered_example(example: str, *names: str) -> Case:
    """An example's case with the records of these EHRs."""
    return gathered(cases.case_of(example), {name: bundle_of(example, name) for name in names})


def there(case: Case, reference: str) -> str:
    """ "riverside Condition/1": what a copy was called at its source."""
    for title in (package["title"] for package in records.packages(case)):
        kind = reference.partition("/")[0]
        for number in range(1, 60):
            if records.copy_reference(case.id, title, f"{kind}/{number}") == reference:
                return f"{title} {kind}/{number}"
    return reference
