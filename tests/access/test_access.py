"""Who calls, what that covers, what it sees, and what a consent lets go where."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fhir_secondop.access import consent, rights, tokens
from fhir_secondop.errors import Forbidden, Invalid, Unauthenticated
from fhir_secondop.fhir import times
from fhir_secondop.model import Caller
from fhir_secondop.opinion import intake_json

# --- tokens -----------------------------------------------------------------------------------------------------

FILE = """
[callers.desk]
token = "s3cret-one"
name = "The desk"
roles = ["coordinator"]
scopes = ["system/*.cruds"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000001"]
on_behalf_of = "Organization/1"

[callers.reviewer]
token_sha256 = "%s"
""" % tokens.hash_of("s3cret-two")  # noqa: UP031


def test_a_caller_is_known_by_its_token_or_by_the_hash_of_it() -> None:
    callers = tokens.load(FILE)

    desk, reviewer = (tokens.caller_of(callers, f"Bearer {t}") for t in ("s3cret-one", "s3cret-two"))

    assert desk == Caller("desk", "The desk", frozenset({"coordinator"}), ("system/*.cruds",),
                          frozenset({"http://hl7.org/fhir/sid/us-npi|9000000001"}), "Organization/1")  # fmt: skip
    assert reviewer == Caller("reviewer", "reviewer")


@pytest.mark.parametrize("header", ["Bearer s3cret-one", "bearer s3cret-one", "BEARER  s3cret-one "])
def test_the_scheme_is_read_whatever_its_case(header: str) -> None:
    assert tokens.caller_of(tokens.load(FILE), header).id == "desk"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer  ", "Basic s3cret-one", "s3cret-one", "Bearer s3cret-on", "Bearer S3cret-one",
     "Bearer s3cret-one s3cret-one", "Bearer é\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")],
)  # fmt: skip
def test_any_other_header_is_nobody(header: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens.caller_of(tokens.load(FILE), header)


def test_the_hash_of_a_token_is_no_token() -> None:
    with pytest.raises(Unauthenticated):
        tokens.caller_of(tokens.load(FILE), f"Bearer {tokens.hash_of('s3cret-one')}")


def test_a_token_never_stands_in_what_is_kept_of_it() -> None:
    assert "s3cret" not in repr(tokens.load(FILE))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[callers.a]\nname = 'x'", "callers.a"),
        ("[callers.a]\ntoken = ''", "callers.a"),
        ("[callers.a]\ntoken = 'x'\nroles = ['king']", "callers.a.roles"),
        ("[callers.a]\ntoken = 'x'\n[callers.b]\ntoken = 'x'", "callers.b"),
        ("[callers.a]\ntoken = 'x'\n[callers.b]\ntoken_sha256 = '" + tokens.hash_of("x") + "'", "callers.b"),
        ("[callers.a", "TOML"),
        ("[callers]\na = 'x'", "callers.a"),
        ("[callers.a]\ntoken = 1", "callers.a"),
        ("[callers.a]\ntoken_sha256 = 'abc'", "callers.a"),
        ("[callers.a]\ntoken = ' '", "callers.a"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_the_token_file_is_named(text: str, named: str) -> None:
    with pytest.raises(Invalid, match=named):
        tokens.load(text)


def test_an_empty_token_file_knows_nobody() -> None:
    assert tokens.load("") == {}


# --- scopes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "kind", "letter", "allowed"),
    [
        (("system/*.cruds",), "Task", "d", True),
        (("system/Observation.rs",), "Observation", "r", True),
        (("system/Observation.rs",), "Observation", "s", True),
        (("system/Observation.rs",), "Observation", "c", False),
        (("system/Observation.rs",), "Patient", "r", False),
        (("user/Task.u", "system/Task.r"), "Task", "u", True),
        (("system/Task.r",), "Tas", "r", False),
        (("system/Task.r",), "TaskX", "r", False),
        (("system/*.",), "Task", "r", False),
        (("system/Task.sr",), "Task", "r", False),
        (("system/Task.read",), "Task", "r", True),
        (("system/Task.read",), "Task", "u", False),
        (("system/Observation.rs?category=laboratory",), "Observation", "r", True),  # on some: the query says which
        (("system/Observation.rs?_count=5",), "Observation", "r", False),
        (("launch", "openid", "system/Task"), "Task", "r", False),
        (("xsystem/Task.r", "system/Task.r "), "Task", "r", False),
        ((), "Task", "r", False),
    ],
)
def test_a_scope_allows_just_what_it_says(scopes: tuple[str, ...], kind: str, letter: str, allowed: bool) -> None:
    assert rights.allows(Caller("a", "a", scopes=scopes), kind, letter) is allowed


@given(
    letters=st.sets(st.sampled_from("cruds")), asked=st.sampled_from("cruds"), kind=st.sampled_from(["Task", "Patient"])
)
@settings(max_examples=60)
def test_a_letter_is_allowed_when_it_stands_in_the_scope_and_only_then(
    letters: set[str], asked: str, kind: str
) -> None:
    written = "".join(letter for letter in "cruds" if letter in letters)
    caller = Caller("a", "a", scopes=(f"system/Task.{written}",))

    assert rights.allows(caller, kind, asked) is (kind == "Task" and asked in letters)


# --- visibility and roles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", sorted(tokens.ROLES))
def test_only_coordinator_and_service_see_every_case(role: str) -> None:
    seen = rights.visibility(Caller("a", "a", frozenset({role}), parties=frozenset({"npi|1"})), 0)

    assert seen.everything is (role in ("coordinator", "system"))
    if not seen.everything:
        assert seen.owner == "a"
        # Who sees the audit or the machine sees no clinical content, whatever it is a party to.
        assert seen.parties == (frozenset() if role in ("auditor", "operator") else {"a", "npi|1"})


def test_who_has_no_role_sees_only_what_is_its_own() -> None:
    seen = rights.visibility(Caller("a", "a"), 0)

    assert (seen.everything, seen.parties) == (False, {"a"})


@pytest.mark.parametrize("role", sorted(tokens.ROLES))
def test_a_role_is_required_and_the_coordinator_has_it_too(role: str) -> None:
    caller = Caller("a", "A Person", frozenset({role}))
    if role in ("reviewer", "coordinator", "system"):
        rights.require_role(caller, "reviewer")
        return
    with pytest.raises(Forbidden) as caught:
        rights.require_role(caller, "reviewer")
    assert "reviewer" in caught.value.message


def test_a_caller_is_whom_it_shares_an_identifier_with() -> None:
    caller = Caller("a", "a", parties=frozenset({"npi|1", "x|2"}))

    assert rights.acts_as(caller, frozenset({"npi|1"}))
    assert not rights.acts_as(caller, frozenset({"npi|2", "npi|11"}))
    assert not rights.acts_as(caller, frozenset())
    assert not rights.acts_as(Caller("a", "a"), frozenset({"npi|1"}))


# --- consent ----------------------------------------------------------------------------------------------------

HERE, THERE = "Organization/here", "Organization/there"
NOW = times.interval("2026-11-23T12:00:00Z").low
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def actor(*references: str) -> list[dict[str, Any]]:
    return [{"role": {"text": "x"}, "reference": {"reference": r}} for r in references]


def signed(rule: str | None = None, *exceptions: dict[str, Any], status: str = "active", **root: Any) -> dict[str, Any]:
    provision: dict[str, Any] = {**({"type": rule} if rule else {}), **root}
    if exceptions:
        provision["provision"] = list(exceptions)
    return {"resourceType": "Consent", "status": status, "provision": provision}


def exception(rule: str, *references: str, **more: Any) -> dict[str, Any]:
    return {"type": rule, "actor": actor(*references), **more}


def allowed(*consents: dict[str, Any], policy: str = "treatment-implied", actors: tuple[str, ...] = (HERE,)) -> bool:
    return consent.decide(consents, policy, frozenset(actors), NOW).permitted


TABLE: dict[str, tuple[list[dict[str, Any]], bool, bool]] = {
    # name → (consents, may it go under treatment-implied, under explicit)
    "nothing on file": ([], True, False),
    "permit": ([signed("permit")], True, True),
    "deny": ([signed("deny")], False, False),
    "a deny wins over a permit": ([signed("permit"), signed("deny")], False, False),
    "a deny wins over a permit, other order": ([signed("deny"), signed("permit")], False, False),
    "opt-in rule": ([{"status": "active", "policyRule": {"coding": [{"system": ACT, "code": "OPTIN"}]}}], True, True),
    "opt-out rule": ([{"status": "active", "policyRule": {"coding": [{"system": ACT, "code": "OPTOUT"}]}}], False,
                     False),
    "permit but not here": ([signed("permit", exception("deny", HERE))], False, False),
    "permit but not there": ([signed("permit", exception("deny", THERE))], True, True),
    "deny but not here": ([signed("deny", exception("permit", HERE))], True, True),
    "deny but not there": ([signed("deny", exception("permit", THERE))], False, False),
    "two exceptions": ([signed("permit", exception("deny", THERE), exception("deny", HERE))], False, False),
    "an exception for both": ([signed("permit", exception("deny", THERE, HERE))], False, False),
    "a general deny beside a permit by exception": ([signed("deny", exception("permit", HERE)), signed("deny")], False,
                                                    False),
    "permit for here only": ([signed("permit", actor=actor(HERE))], True, True),
    "permit for there only": ([signed("permit", actor=actor(THERE))], True, False),
    "deny for here only": ([signed("deny", actor=actor(HERE))], False, False),
    "deny for there only": ([signed("deny", actor=actor(THERE))], True, False),
    "deny, not yet in force": ([signed("deny", period={"start": "2026-11-24"})], True, False),
    "deny, in force from today": ([signed("deny", period={"start": "2026-11-23"})], False, False),
    "deny, until today": ([signed("deny", period={"end": "2026-11-23"})], False, False),
    "deny, until this month": ([signed("deny", period={"end": "2026-11"})], False, False),
    "deny, ended yesterday": ([signed("deny", period={"end": "2026-11-22"})], True, False),
    "permit, ended yesterday": ([signed("permit", period={"end": "2026-11-22"})], True, False),
    "permit, in its period": ([signed("permit", period={"start": "2026-01-01", "end": "2027"})], True, True),
    "an exception that ended": ([signed("permit", exception("deny", HERE, period={"end": "2026-11-22"}))], True, True),
    "an exception to come": ([signed("deny", exception("permit", HERE, period={"start": "2026-12-01"}))], False, False),
    **{f"deny, {status}": ([signed("deny", status=status)], True, False)
       for status in ("draft", "proposed", "rejected", "inactive", "entered-in-error")},
}  # fmt: skip


@pytest.mark.parametrize(("consents", "implied", "explicit"), TABLE.values(), ids=TABLE.keys())
def test_what_a_consent_lets_go(consents: list[dict[str, Any]], implied: bool, explicit: bool) -> None:
    assert allowed(*consents, policy="treatment-implied") is implied
    assert allowed(*consents, policy="explicit") is explicit


FAIL_OPEN = {
    "of two exceptions for the same place the deny wins": signed(
        "permit", exception("permit", HERE), exception("deny", HERE)),
    "an exception that names nobody is for everybody": signed("permit", {"type": "deny"}),
    "an exception without a type leaves the deny above it": signed("deny", {"actor": actor(HERE)}),
    "an exception to an exception": signed("deny", exception("permit", HERE, provision=[exception("deny", HERE)])),
}  # fmt: skip


@pytest.mark.parametrize("denied", FAIL_OPEN.values(), ids=FAIL_OPEN.keys())
def test_a_deny_that_may_cover_it_is_never_overlooked(denied: dict[str, Any]) -> None:
    assert not allowed(denied)


def test_a_permit_for_research_is_no_permit_for_care() -> None:
    purpose = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HRESCH"}]

    assert not allowed(signed("permit", purpose=purpose), policy="explicit")


def purpose(code: str) -> list[dict[str, str]]:
    return [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": code}]


def for_payer(*consents: dict[str, Any], policy: str = "treatment-implied") -> bool:
    actors = frozenset({HERE})
    return consent.decide(consents, policy, actors, NOW, purposes=consent.COVERAGE).permitted


def test_a_permit_for_care_is_none_for_telling_the_payer_nor_the_other_way_round() -> None:
    care, payer = signed("permit", purpose=purpose("TREAT")), signed("permit", purpose=purpose("COVERAGE"))

    assert allowed(care, policy="explicit")
    assert not for_payer(care, policy="explicit")
    assert for_payer(payer, policy="explicit")
    assert not allowed(payer, policy="explicit")


def test_a_deny_about_the_payer_leaves_care_and_any_other_deny_keeps_the_payer_out() -> None:
    private = signed("permit", {"type": "deny", "purpose": purpose("COVERAGE")})

    assert allowed(private)
    assert not for_payer(private)
    for denied in (signed("deny"), signed("deny", purpose=purpose("TREAT")), signed("deny", purpose=purpose("HMARKT"))):
        assert not allowed(denied)
        assert not for_payer(denied)


def test_any_reference_by_which_the_party_is_known_counts() -> None:
    denied = signed("permit", exception("deny", "Practitioner/7"))

    assert not allowed(denied, actors=("PractitionerRole/1", "Practitioner/7", HERE))
    assert allowed(denied, actors=("PractitionerRole/1", HERE))


def test_a_decision_says_why_in_words_without_the_patient() -> None:
    for consents in ((), (signed("permit"),), (signed("deny"),)):
        for policy in consent.POLICIES:
            because = consent.decide(consents, policy, frozenset({HERE}), NOW).because
            assert because
            assert "Organization" not in because


PARTS = st.sampled_from([case for consents, _, _ in TABLE.values() for case in consents])


@given(consents=st.lists(PARTS, max_size=4), policy=st.sampled_from(consent.POLICIES))
@settings(max_examples=100, deadline=None)
def test_more_consents_never_open_what_one_of_them_denies(consents: list[dict[str, Any]], policy: str) -> None:
    alone = [allowed(one, policy="treatment-implied") for one in consents]

    together = allowed(*consents, policy=policy)

    assert not together or all(alone)
    assert together == allowed(*reversed(consents), policy=policy)
    if policy == "explicit" and together:
        assert any(allowed(one, policy="explicit") for one in consents)


@pytest.mark.parametrize("rule", ["permit", "deny"])
def test_the_consent_of_the_json_door_means_what_it_says(rule: str) -> None:
    made = intake_json.consent(
        {"decision": rule, "date": "2026-11-20", "except": ["there"]}, {"reference": "Patient/1"},
        lambda key: {"reference": f"Organization/{key.partition('/')[2]}"},
    )  # fmt: skip

    assert allowed(made) is (rule == "permit")
    assert allowed(made, actors=(THERE,)) is (rule == "deny")
