"""Each rule of each profile of ours has an example that breaks it alone; each profile has one that satisfies it.

HL7's validator is asked about each of them in tests/interop/test_package.py.
"""

from __future__ import annotations

import pytest

from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.validate import validate
from tests.fhir.breaking import Rule, applies, broken, examples, rules

RULES = list(rules())
# What goes wrong with it: an extension without a value breaks R4's ext-1 too; what has no axis is not "overall" either.
EXT_1 = "must have either a value or extensions"
ALONG = {
    "concordance-observation Observation.code binding": "so-con-2",
    "concordance-observation Observation.value[x] min": "so-con-1",
    "concordance-observation Observation.value[x] type": "so-con-1",
}


def test_there_are_rules_of_every_kind_and_of_every_profile() -> None:
    assert len(RULES) > 250
    assert {rule.kind for rule in RULES} == {"min", "max", "fixed", "pattern", "type", "target", "binding"}
    assert {rule.profile for rule in RULES} == {each["id"] for each in definitions.profiles().values()}


@pytest.mark.parametrize("profile", sorted(each["id"] for each in definitions.profiles().values()))
def test_profile_has_an_example_that_satisfies_it(profile: str) -> None:
    found = [example for example in examples() if applies(profile, example)]
    assert found
    assert [issue for example in found for issue in validate(example)] == []


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rule_is_broken_alone(rule: Rule) -> None:
    issues = [
        issue
        for issue in validate(broken(rule))
        if issue.diagnostics != EXT_1 and issue.diagnostics.partition(":")[0] != ALONG.get(str(rule))
    ]
    # A count of the whole and of its slices are broken together, at one place.
    assert len({issue.expression for issue in issues}) == 1, issues
    path = [part.partition(":")[0].removesuffix("[x]") for part in rule.element.split(".")]
    place = [part.partition("[")[0] for part in issues[0].expression.split(".")]
    assert place[-len(path) + 1 :] == path[1:] or path[1:] == place[-len(path) : -1], issues
