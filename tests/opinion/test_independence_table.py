"""DOMAIN section 5, row by row from the file that a clinician reads: tables/independence.csv."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.opinion.independence import Assessment, Declaration, admit, assess
from fhir_secondop.opinion.people import Person

NPI = "http://hl7.org/fhir/sid/us-npi"
NUCC, SNOMED = "http://nucc.org/provider-taxonomy", "http://snomed.info/sct"
SPECIALTIES = {
    "": f"{NUCC}|207RX0202X", "medical oncology (NUCC)": f"{NUCC}|207RX0202X",
    "medical oncology (SNOMED)": f"{SNOMED}|394593009", "surgery (NUCC)": f"{NUCC}|208600000X",
    "surgery (SNOMED)": f"{SNOMED}|394609007", "unlisted (SNOMED)": f"{SNOMED}|123",
    "family medicine (NUCC)": f"{NUCC}|207Q00000X", "internal medicine (NUCC)": f"{NUCC}|207R00000X", "missing": "",
}  # fmt: skip
DECLARATIONS = {
    "": Declaration("none"), "an interest": Declaration("paid by the maker"), "no declaration": None,
    "left empty": Declaration(""),
}  # fmt: skip


def known(name: str, number: str) -> Person:
    return Person(
        reference=f"PractitionerRole/{name}", practitioner=f"Practitioner/{name}", name=f"Dr. {name}",
        identifiers=frozenset({f"{NPI}|{number}"}), organization=f"{NPI}|{number}0",
        organization_ref=f"Organization/{name}", phones=frozenset({f"555-{number}"}),
        suites=frozenset({f"1samplestsuite{number}"}),
    )  # fmt: skip


REVIEWER, AUTHOR = known("reviewer", "0101"), known("author", "0102")
_NOBODY: frozenset[str] = frozenset()
PARENT, GRANDPARENT = "Organization/parent", "Organization/grandparent"
IDENTITY = {
    "": (REVIEWER, AUTHOR),
    "same record": (replace(REVIEWER, practitioner=AUTHOR.practitioner), AUTHOR),
    "same NPI": (replace(REVIEWER, identifiers=AUTHOR.identifiers), AUTHOR),
    "same NPI beside others": (replace(REVIEWER, identifiers=REVIEWER.identifiers | AUTHOR.identifiers), AUTHOR),
    "reviewer's missing": (replace(REVIEWER, identifiers=_NOBODY), AUTHOR),
    "author's missing": (REVIEWER, replace(AUTHOR, identifiers=_NOBODY)),
    "of different registers": (REVIEWER, replace(AUTHOR, identifiers=frozenset({"urn:staff|7"}))),
}
ORGANIZATION: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "": ({}, {}),
    "same": ({"organization": AUTHOR.organization}, {}),
    "same by reference": ({"organization": "", "organization_ref": AUTHOR.organization_ref}, {}),
    "common parent": ({"parents": frozenset({PARENT})}, {"parents": frozenset({PARENT})}),
    "common grandparent": (
        {"parents": frozenset({"Organization/x", GRANDPARENT})}, {"parents": frozenset({PARENT, GRANDPARENT})}),
    "works for the parent": ({"organization_ref": PARENT}, {"parents": frozenset({PARENT})}),
    "reviewer's missing": ({"organization": "", "organization_ref": ""}, {}),
    "author's missing": ({}, {"organization": "", "organization_ref": ""}),
}  # fmt: skip
CONTACT: dict[str, dict[str, object]] = {
    "": {}, "same line": {"phones": AUTHOR.phones}, "same suite": {"suites": AUTHOR.suites},
    "same building": {"suites": _NOBODY},
}  # fmt: skip
ROWS = list(csv.DictReader((Path(__file__).parent / "tables/independence.csv").read_text("utf-8").splitlines()))


def assessed(row: dict[str, str]) -> Assessment:
    reviewer, author = IDENTITY[row["same person"]]
    mine, theirs = ORGANIZATION[row["organization"]]
    mine = {**mine, **CONTACT[row["contact"]], "specialty": SPECIALTIES[row["reviewer's specialty"]]}
    theirs = {**theirs, "specialty": SPECIALTIES[row["author's specialty"]]}
    declaration = DECLARATIONS[row["interests"]]
    if row["took part"] == "declared" and declaration is not None:
        declaration = replace(declaration, participated=("DiagnosticReport/1",))
    reviewer, author = replace(reviewer, **mine), replace(author, **theirs)  # type: ignore[arg-type]
    return assess(
        reviewer, [author], declaration,
        treated=reviewer.identifiers if row["treated before"] == "yes" else _NOBODY,
        took_part=reviewer.identifiers if row["took part"] == "recorded" else _NOBODY,
        same_organization=row["site's rule"] or "warn",
    )  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row["fact"] for row in ROWS])
def test_a_row_of_the_table_is_what_the_program_says(row: dict[str, str]) -> None:
    assert assessed(row).result == row["result"]


@pytest.mark.parametrize("row", ROWS, ids=[row["fact"] for row in ROWS])
def test_who_may_accept_follows_from_the_row(row: dict[str, str]) -> None:
    found = assessed(row)
    results = {f.result for f in found.findings}
    if "barred" in results:
        with pytest.raises(Conflict):
            admit(found, attestation="I know none of them.", override="Nobody else can.")
        return
    admit(found, attestation="I know none of them.", override="Nobody else can.")
    for result, said in (("fail", {"attestation": "x", "override": ""}),
                         ("unknown", {"attestation": "", "override": "x"})):  # fmt: skip
        if result in results:
            with pytest.raises(Invalid):
                admit(found, **said)


def test_every_word_of_the_table_is_used_and_every_result_has_a_row() -> None:
    for column, words in (("same person", IDENTITY), ("organization", ORGANIZATION), ("contact", CONTACT),
                          ("interests", DECLARATIONS), ("reviewer's specialty", SPECIALTIES)):  # fmt: skip
        assert set(words) - {row[column] for row in ROWS} == set(), column
    assert {row["result"] for row in ROWS} == {"barred", "fail", "unknown", "warn", "pass"}
