"""DOMAIN section 5: every row of the truth table alone, any rows together, and who may accept."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import cases
import pytest

from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.opinion import codes, independence
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.independence import Assessment, Declaration, Finding, admit, assess
from fhir_secondop.opinion.people import Directory, Person

NUCC, SNOMED = "http://nucc.org/provider-taxonomy", "http://snomed.info/sct"
ONCOLOGY = f"{NUCC}|207RX0202X"
NPI = "http://hl7.org/fhir/sid/us-npi"
NONE = Declaration("none")
PARENT = frozenset({"Organization/p"})
REVIEWER = Person(
    reference="PractitionerRole/r", practitioner="Practitioner/r", name="Dr. Reviewer",
    identifiers=frozenset({f"{NPI}|9000000001"}), organization=f"{NPI}|9000000011",
    organization_ref="Organization/r", specialty=ONCOLOGY, phones=frozenset({"555-0101"}),
)  # fmt: skip
AUTHOR = Person(
    reference="PractitionerRole/a", practitioner="Practitioner/a", name="Dr. Author",
    identifiers=frozenset({f"{NPI}|9000000002"}), organization=f"{NPI}|9000000012",
    organization_ref="Organization/a", specialty=ONCOLOGY, phones=frozenset({"555-0102"}),
)  # fmt: skip


def result(reviewer: Person = REVIEWER, author: Person = AUTHOR, declaration: Declaration | None = NONE) -> str:
    return assess(reviewer, [author], declaration).result


def test_two_strangers_of_one_specialty_with_a_declaration_pass() -> None:
    assert result() == "pass"


# name → (reviewer, author, declaration, what the table says)
ROWS: dict[str, tuple[Person, Person, Declaration | None, str]] = {
    "same person": (replace(REVIEWER, practitioner="Practitioner/a"), AUTHOR, NONE, "barred"),
    "same NPI under another id": (replace(REVIEWER, identifiers=AUTHOR.identifiers), AUTHOR, NONE, "barred"),
    "same NPI beside other identifiers": (
        replace(REVIEWER, identifiers=REVIEWER.identifiers | AUTHOR.identifiers), AUTHOR, NONE, "barred"),
    "took part": (REVIEWER, AUTHOR, Declaration("none", ("DiagnosticReport/1",)), "fail"),
    "declared an interest": (REVIEWER, AUTHOR, Declaration("paid by the maker of the screws"), "fail"),
    "made no declaration": (REVIEWER, AUTHOR, None, "unknown"),
    "declared nothing in it": (REVIEWER, AUTHOR, Declaration(""), "unknown"),
    "same organization": (replace(REVIEWER, organization=AUTHOR.organization), AUTHOR, NONE, "warn"),
    "same organization by reference": (
        replace(REVIEWER, organization="", organization_ref="Organization/a"), AUTHOR, NONE, "warn"),
    "common parent": (
        replace(REVIEWER, parents=PARENT), replace(AUTHOR, parents=PARENT), NONE, "warn"),
    "same direct line": (replace(REVIEWER, phones=AUTHOR.phones), AUTHOR, NONE, "warn"),
    "listed equivalent": (replace(REVIEWER, specialty=f"{SNOMED}|394593009"), AUTHOR, NONE, "pass"),
    "listed equivalent, the other way": (
        REVIEWER, replace(AUTHOR, specialty=f"{SNOMED}|394593009"), NONE, "pass"),
    "other specialty": (replace(REVIEWER, specialty=f"{NUCC}|208600000X"), AUTHOR, NONE, "warn"),
    "unmapped specialty": (replace(REVIEWER, specialty=f"{SNOMED}|123"), AUTHOR, NONE, "unknown"),
    "specialty in an unknown system": (replace(REVIEWER, specialty="urn:x|207RX0202X"), AUTHOR, NONE, "unknown"),
    "reviewer's specialty missing": (replace(REVIEWER, specialty=""), AUTHOR, NONE, "unknown"),
    "author's specialty missing": (REVIEWER, replace(AUTHOR, specialty=""), NONE, "unknown"),
    "both specialties missing": (replace(REVIEWER, specialty=""), replace(AUTHOR, specialty=""), NONE, "unknown"),
    "reviewer's identifiers missing": (replace(REVIEWER, identifiers=frozenset()), AUTHOR, NONE, "unknown"),
    "author's identifiers missing": (REVIEWER, replace(AUTHOR, identifiers=frozenset()), NONE, "unknown"),
    "reviewer's organization missing": (
        replace(REVIEWER, organization="", organization_ref=""), AUTHOR, NONE, "unknown"),
    "author's organization missing": (REVIEWER, replace(AUTHOR, organization="", organization_ref=""), NONE, "unknown"),
}  # fmt: skip
WORST_FIRST = ("barred", "fail", "unknown", "warn", "pass")


@pytest.mark.parametrize(("reviewer", "author", "declaration", "expected"), ROWS.values(), ids=ROWS.keys())
def test_each_row_alone_gives_its_result(
    reviewer: Person, author: Person, declaration: Declaration | None, expected: str
) -> None:
    assert result(reviewer, author, declaration) == expected


def test_identifiers_that_can_not_be_compared_are_missing_data() -> None:
    """One is known by an NPI only, the other by a house number only: they may be one person."""
    assert result(author=replace(AUTHOR, identifiers=frozenset({"https://lakeside.example/staff|77"}))) == "unknown"


def test_two_organizations_known_by_identifier_only_are_not_the_same_for_having_no_reference() -> None:
    assert result(replace(REVIEWER, organization_ref=""), replace(AUTHOR, organization_ref="")) == "pass"


def test_who_works_for_the_parent_organization_itself_is_warned_of() -> None:
    assert result(replace(REVIEWER, organization_ref="Organization/p"), replace(AUTHOR, parents=PARENT)) == "warn"


def combined(names: tuple[str, ...]) -> Assessment:
    """The findings of several authors: each row is an author of its own, against the same reviewer where it can be."""
    return Assessment(
        tuple(f for name in names for f in assess(ROWS[name][0], [ROWS[name][1]], ROWS[name][2]).findings)
    )


def test_of_any_two_rows_together_the_worse_wins() -> None:
    for names in itertools.combinations(ROWS, 2):
        worst = min((ROWS[name][3] for name in names), key=WORST_FIRST.index)
        assert combined(names).result == worst, names


def test_of_several_authors_the_worst_wins_whatever_their_order() -> None:
    authors = [AUTHOR, replace(AUTHOR, specialty=""), replace(AUTHOR, organization=REVIEWER.organization),
               replace(AUTHOR, practitioner=REVIEWER.practitioner)]  # fmt: skip
    for size in range(1, len(authors) + 1):
        for some in itertools.permutations(authors, size):
            each = [assess(REVIEWER, [one], NONE).result for one in some]
            assert assess(REVIEWER, some, NONE).result == min(each, key=WORST_FIRST.index)


def test_every_row_that_applies_is_found_not_only_the_worst() -> None:
    reviewer = replace(REVIEWER, organization=AUTHOR.organization, phones=AUTHOR.phones, specialty="")

    found = assess(reviewer, [AUTHOR], Declaration("an interest", ("Condition/1",)))

    assert sorted(f.result for f in found.findings) == ["fail", "fail", "unknown", "warn", "warn"]
    assert {f.about for f in found.findings if f.result != "fail"} == {"Dr. Author"}


def test_nobody_to_compare_with_is_unknown_and_never_pass() -> None:
    assert assess(REVIEWER, [], NONE).result == "unknown"
    assert Assessment(()).result == "unknown"


def test_none_is_understood_however_it_is_written() -> None:
    for text in ("none", "None", " NONE "):
        assert result(declaration=Declaration(text)) == "pass"


# --- whom it is compared with -----------------------------------------------------------------------------------


def case_with(item: dict[str, object]) -> Case:
    """The breast example with the diagnosis under review written as `item` says."""
    case = cases.case_of("breast-treatment-plan")
    condition = case.items[0]
    bare = {k: v for k, v in condition.items() if k != "recorder"}
    return Case(case.id, [{**bare, **item} if r is condition else r for r in case.resources])


def author_names(case: Case) -> set[str]:
    return {person.name for person in case.authors}


def test_the_authors_of_diagnosis_and_plan_are_compared_and_the_pcp_is_not() -> None:
    assert author_names(cases.case_of("breast-treatment-plan")) == {"Dr. Priya Examplar", "Dr. Harlan Mockridge"}


def test_both_who_recorded_and_who_asserted_the_diagnosis_are_its_authors() -> None:
    case = case_with({"recorder": {"reference": cases.person_ref("pcp")},
                      "asserter": {"reference": cases.person_ref("oncologist")}})  # fmt: skip

    assert author_names(case) >= {"Dr. Ines Placeholder", "Dr. Priya Examplar"}


def test_a_diagnosis_whose_author_is_not_named_is_unknown_though_the_plan_has_one() -> None:
    from fhir_secondop.service.review import assess as assess_case

    assert assess_case(case_with({}), REVIEWER, NONE).result == "unknown"


def test_parents_are_known_all_the_way_up_and_by_identifier() -> None:
    """Two copies of one health system have two ids and one number."""

    def person(name: str, top: str) -> Person:
        found = Directory([
            {"resourceType": "Organization", "id": top, "identifier": [{"system": "urn:o", "value": "system"}]},
            {"resourceType": "Organization", "id": f"mid-{name}", "partOf": {"reference": f"Organization/{top}"}},
            {"resourceType": "Organization", "id": name, "partOf": {"reference": f"Organization/mid-{name}"},
             "identifier": [{"system": "urn:o", "value": name}]},
            {"resourceType": "Practitioner", "id": name, "identifier": [{"system": NPI, "value": name}]},
            {"resourceType": "PractitionerRole", "id": name, "practitioner": {"reference": f"Practitioner/{name}"},
             "organization": {"reference": f"Organization/{name}"}, "specialty": [{"coding": [{"code": "x"}]}]},
        ]).person(f"PractitionerRole/{name}")  # fmt: skip
        assert found is not None
        return found

    found = assess(person("a", "one"), [person("b", "another")], NONE)
    assert [f.fact for f in found.findings if f.result == "warn"] == ["the organizations have a common parent"]


def test_organizations_that_are_part_of_each_other_are_read_to_an_end() -> None:
    ring = [{"resourceType": "Organization", "id": a, "partOf": {"reference": f"Organization/{b}"}}
            for a, b in (("a", "b"), ("b", "a"))]  # fmt: skip
    role = {"resourceType": "PractitionerRole", "id": "r", "practitioner": {"reference": "Practitioner/p"},
            "organization": {"reference": "Organization/a"}}  # fmt: skip
    found = Directory([*ring, role, {"resourceType": "Practitioner", "id": "p"}]).person("PractitionerRole/r")
    assert found is not None
    assert found.parents == {"Organization/a", "Organization/b"}


PARTS: dict[str, dict[str, object]] = {
    "read what the diagnosis rests on": {
        "resourceType": "DiagnosticReport", "id": "d", "resultsInterpreter": [{"reference": "PractitionerRole/r"}]},
    "operated because of it": {
        "resourceType": "Procedure", "id": "d", "performer": [{"actor": {"reference": "Practitioner/r"}}],
        "reasonReference": [{"reference": "ITEM"}]},
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_who_took_part_as_the_record_says_fails_without_having_declared_it(part: dict[str, object]) -> None:
    from fhir_secondop.service.review import assess as assess_case

    plain = case_with({"evidence": [{"detail": [{"reference": "DiagnosticReport/d"}]}],
                       "recorder": {"reference": cases.person_ref("oncologist")}})  # fmt: skip
    item = f"Condition/{plain.items[0]['id']}"
    done = json.loads(json.dumps(part).replace("ITEM", item))
    people = [
        {"resourceType": "Practitioner", "id": "r", "identifier": [{"system": NPI, "value": "9000000001"}]},
        {"resourceType": "PractitionerRole", "id": "r", "practitioner": {"reference": "Practitioner/r"}},
    ]
    facts = {f.fact for f in assess_case(plain, REVIEWER, NONE).findings}
    assert "took part in an item under review, as the record says" not in facts
    found = assess_case(Case(plain.id, [*plain.resources, done, *people]), REVIEWER, NONE)
    assert ("fail", "took part in an item under review, as the record says") in {
        (f.result, f.fact) for f in found.findings
    }


# --- who may accept ---------------------------------------------------------------------------------------------


def findings(*results: str) -> Assessment:
    return Assessment(tuple(Finding(r, r) for r in results))


@pytest.mark.parametrize(
    ("results", "attestation", "override", "refused"),
    [
        (("pass",), "", "", None),
        (("warn", "pass"), "", "", None),
        (("unknown",), "", "", Invalid),
        (("unknown",), " ", "", Invalid),
        (("unknown",), "", "because", Invalid),
        (("unknown",), "I know none of them", "", None),
        (("fail",), "", "", Invalid),
        (("fail",), "I know none of them", "", Invalid),
        (("fail",), "", " ", Invalid),
        (("fail",), "", "because", None),
        (("fail", "unknown"), "", "because", Invalid),
        (("fail", "unknown"), "I know none of them", "", Invalid),
        (("fail", "unknown"), "I know none of them", "because", None),
        (("barred",), "", "", Conflict),
        (("barred",), "I know none of them", "because", Conflict),
        (("pass", "warn", "unknown", "fail", "barred"), "I know none of them", "because", Conflict),
    ],
)
def test_who_may_accept(
    results: tuple[str, ...], attestation: str, override: str, refused: type[Exception] | None
) -> None:
    if refused is None:
        admit(findings(*results), attestation=attestation, override=override)
        return
    with pytest.raises(refused):
        admit(findings(*results), attestation=attestation, override=override)


def test_a_refusal_says_which_of_the_two_is_missing() -> None:
    for result_, missing in (("fail", "override"), ("unknown", "attestation")):
        with pytest.raises(Invalid) as caught:
            admit(findings(result_), attestation="", override="")
        assert caught.value.path == missing


def test_what_was_found_attested_and_overridden_stands_in_the_extension() -> None:
    extension = independence.extension(
        Assessment((Finding("fail", "took part"), Finding("warn", "another specialty", "Dr. X"))),
        attestation="I know none", override="nobody else",
    )  # fmt: skip

    assert extension["url"] == codes.INDEPENDENCE
    assert independence.stated({"extension": [{"url": "urn:x", "valueString": "y"}, extension]}) == {
        "result": ["fail"], "finding": ["fail: took part", "warn: another specialty (Dr. X)"],
        "attestation": ["I know none"], "override": ["nobody else"],
    }  # fmt: skip
    assert independence.stated({}) == {}


def test_who_stands_in_the_record_has_treated_the_patient_before() -> None:
    (mine, *_) = REVIEWER.identifiers
    found = independence.assess(REVIEWER, [AUTHOR], NONE, frozenset({mine}))
    assert found.result == "warn"
    assert "treated" in next(f.fact for f in found.findings if f.result == "warn")
    assert independence.assess(REVIEWER, [AUTHOR], NONE, frozenset({"urn:x|somebody"})).result == "pass"


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (["1 Sample St", "Suite 4"], ["1 Sample St, suite 4"], "warn"),
        (["1 Sample St", "Suite 4"], ["1 Sample St", "Suite 5"], "pass"),
        (["1 Sample St"], ["1 Sample St"], "pass"),  # a building is shared by many
    ],
)
def test_the_same_suite_is_warned_of_and_the_same_building_is_not(
    mine: list[str], theirs: list[str], expected: str
) -> None:
    def person(name: str, npi: str, lines: list[str]) -> Person:
        found = Directory(
            [
                {"resourceType": "Organization", "id": name, "identifier": [{"system": "urn:o", "value": name}],
                 "address": [{"line": lines, "city": "Sampleton", "postalCode": "1"}]},
                {"resourceType": "Practitioner", "id": name, "identifier": [{"system": "urn:npi", "value": npi}]},
                {"resourceType": "PractitionerRole", "id": name, "practitioner": {"reference": f"Practitioner/{name}"},
                 "organization": {"reference": f"Organization/{name}"},
                 "specialty": [{"coding": [{"system": "urn:s", "code": "x"}]}]},
            ]
        ).person(f"PractitionerRole/{name}")  # fmt: skip
        assert found is not None
        return found

    assert result(person("a", "1", mine), person("b", "2", theirs)) == expected
