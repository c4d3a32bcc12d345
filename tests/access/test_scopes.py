"""SMART scopes: what is one, its one form, what two sets have in common, what a set grants."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fhir_secondop.access import scopes
from fhir_secondop.access.scopes import Grant, Scope
from fhir_secondop.errors import Invalid


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("system/Observation.rs", "system/Observation.rs"),
        ("system/*.cruds", "system/*.cruds"),
        ("user/Patient.r", "user/Patient.r"),
        ("patient/*.s", "patient/*.s"),
        ("system/Observation.read", "system/Observation.rs"),
        ("system/Observation.write", "system/Observation.cud"),
        ("system/*.*", "system/*.cruds"),
        ("system/Observation.rs?category=laboratory", "system/Observation.rs?category=laboratory"),
        ("system/Observation.rs?status=final&category=laboratory",
         "system/Observation.rs?category=laboratory&status=final"),
        ("system/Observation.rs?category=laboratory&category=laboratory", "system/Observation.rs?category=laboratory"),
        ("system/Observation.rs?category=http://x.example/c|a,http://x.example/c|b",
         "system/Observation.rs?category=http://x.example/c|a,http://x.example/c|b"),
        ("system/Observation.rs?category=http%3A%2F%2Fx.example%7Ca", "system/Observation.rs?category=http://x.example|a"),
        ("system/Observation.rs?c%61tegory=laboratory", "system/Observation.rs?category=laboratory"),
        ("system/Observation.rs?date=ge2024-05", "system/Observation.rs?date=ge2024-05"),
        ("system/Observation.rs?subject:Patient=1", "system/Observation.rs?subject:Patient=1"),
        ("system/Observation.rs?category:not=laboratory", "system/Observation.rs?category:not=laboratory"),
        ("system/Observation.c?category=laboratory", "system/Observation.c?category=laboratory"),
        ("system/*.rs?_id=1", "system/*.rs?_id=1"),
    ],
)  # fmt: skip
def test_a_scope_has_one_form(text: str, meant: str) -> None:
    assert str(scopes.parse(text)) == meant
    assert str(scopes.parse(meant)) == meant


NONE = [
    "", " ", "system", "system/", "system/Patient", "system/Patient.", "system/Patient.sr", "system/Patient.rr",
    "system/Patient.rs ", " system/Patient.rs", "system/Patient.rs\n", "system/Patient.R", "system/Patient.x",
    "system/Patient.rsx", "system/Patient.reads", "system/Patient.read?gender=male", "system/Patient.*?gender=male",
    "SYSTEM/Patient.rs", "xsystem/Patient.rs", "system//Patient.rs", "system/patient.rs", "system/Patients.rs",
    "system/Resource.rs", "system/DomainResource.rs", "system/HumanName.rs", "system/**.rs", "system/Patient,Task.rs",
    "group/Patient.rs", "launch", "launch/patient", "openid", "fhirUser", "offline_access", "system/Pätient.rs",
    "system/Patient.r\u200bs", 'system/Patient.rs?family="x"', "system/Patient.rs?family=x\\",
    # restrictions: unknown, not offered, or none
    "system/Observation.rs?", "system/Observation.rs?category", "system/Observation.rs?category=",
    "system/Observation.rs?=laboratory", "system/Observation.rs?category=laboratory,", "system/Observation.rs?&",
    "system/Observation.rs?category=laboratory&status=", "system/Observation.rs?category=%20",
    "system/Observation.rs?category=%00", "system/Observation.rs?category=a%0Ab", "system/Observation.rs?colour=red",
    "system/Observation.rs?category:in=x", "system/Observation.rs?subject.name=x", "system/Observation.rs?_has:a:b:c=1",
    "system/Observation.rs?_count=5", "system/Observation.rs?_format=json", "system/Observation.rs?_page=1",
    "system/Observation.rs?_total=none", "system/Observation.rs?category=laboratory&_count=5",
    "system/Observation.rs?_sort=date", "system/Observation.rs?_include=Observation:subject",
    "system/Observation.rs?value-quantity=5", "system/Observation.rs?date=yesterday", "system/Observation.rs?date=ge",
    "system/Observation.rs?category:missing=perhaps", "system/Observation.rs?category=laboratory?status=final&x=1",
    "system/*.rs?category=laboratory", "system/Patient.rs?category=laboratory",
    "system/Patient.rs?family=" + "x" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("text", NONE, ids=lambda text: text[:60])
def test_anything_else_is_no_scope_and_grants_nothing(text: str) -> None:
    with pytest.raises(Invalid):
        scopes.parse(text)
    assert all(scopes.grants([text], kind, "r") is None for kind in ("Patient", "Observation", "Task"))


@pytest.mark.parametrize("text", ["", "system/Patient.rs  system/Task.rs", " system/Patient.rs", "system/Patient.rs ",
                                  "system/Patient.rs\tsystem/Task.rs", "system/Patient.rs openid",
                                  "system/Patient.rs?family=" + "x" * 1000,
                                  " ".join(["system/Patient.rs"] * 501)])  # fmt: skip
def test_a_scope_parameter_is_all_of_scopes_or_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        scopes.parse_all(text)


def said(text: str) -> tuple[Scope, ...]:
    return scopes.parse_all(text)


@pytest.mark.parametrize(
    ("asked", "allowed", "both"),
    [
        ("system/Patient.rs", "system/Patient.rs", "system/Patient.rs"),
        ("system/Patient.cruds", "system/Patient.rs", "system/Patient.rs"),
        ("system/*.cruds", "system/Patient.rs system/Task.u", "system/Patient.rs system/Task.u"),
        ("system/Patient.read", "system/*.cruds", "system/Patient.rs"),
        ("system/Patient.write", "system/*.crus", "system/Patient.cu"),
        ("system/Patient.rs system/Task.rs", "system/Patient.rs", "system/Patient.rs"),
        ("system/Observation.rs", "system/Observation.rs?category=laboratory",
         "system/Observation.rs?category=laboratory"),
        ("system/Observation.rs?category=laboratory", "system/Observation.rs",
         "system/Observation.rs?category=laboratory"),
        ("system/Observation.rs?status=final", "system/Observation.rs?category=laboratory",
         "system/Observation.rs?category=laboratory&status=final"),
        ("system/Observation.rs?category=a", "system/Observation.rs?category=b",
         "system/Observation.rs?category=a&category=b"),
        ("system/*.rs?_id=1", "system/Task.r", "system/Task.r?_id=1"),
        ("system/Patient.r system/Patient.s", "system/*.rs", "system/Patient.rs"),
        ("system/*.rs system/Patient.r", "system/*.cruds", "system/*.rs"),
        ("user/Patient.rs", "system/Patient.rs", ""),
        ("system/Patient.rs", "system/Task.rs", ""),
        ("system/Patient.c", "system/Patient.rs", ""),
    ],
)  # fmt: skip
def test_what_is_granted_is_what_both_sides_say(asked: str, allowed: str, both: str) -> None:
    assert " ".join(map(str, scopes.intersect(said(asked), said(allowed)))) == both


@pytest.mark.parametrize(
    ("held", "kind", "letter", "grant"),
    [
        (["system/Observation.rs"], "Observation", "s", Grant()),
        (["system/*.rs"], "Observation", "s", Grant()),
        (["system/Observation.rs?category=laboratory"], "Observation", "s", Grant(("category=laboratory",))),
        (["system/Observation.rs?status=final", "system/Observation.r?category=laboratory"], "Observation", "r",
         Grant(("category=laboratory", "status=final"))),
        (["system/Observation.rs?status=final", "system/Observation.r?category=laboratory"], "Observation", "s",
         Grant(("status=final",))),
        (["system/Observation.rs?status=final", "system/Observation.s"], "Observation", "s", Grant()),
        (["system/Observation.rs"], "Observation", "c", None),
        (["system/Observation.rs"], "Observation", "rs", None),
        (["system/Observation.rs"], "Observation", "", None),
        (["system/Observation.rs"], "Patient", "r", None),
        ([], "Patient", "r", None),
    ],
)  # fmt: skip
def test_a_grant_says_on_which_resources(held: list[str], kind: str, letter: str, grant: Grant | None) -> None:
    assert scopes.grants(held, kind, letter) == grant


@pytest.mark.parametrize(
    ("text", "first"),
    [("system/Patient.rs", "system/Patient.read"), ("system/*.cud", "system/*.write"), ("system/*.cruds", "system/*.*"),
     ("system/Patient.r", "system/Patient.r"), ("system/Patient.rs?gender=male", "system/Patient.rs?gender=male")],
)  # fmt: skip
def test_version_1_is_written_where_it_can_say_it(text: str, first: str) -> None:
    assert scopes.in_version_1(scopes.parse(text)) == first


# --- properties: a small model of resources, each with the facts that restrictions ask for ----------------------

KINDS = ("Observation", "DiagnosticReport", "Task")
FACTS = ("status=final", "code=a", "code=b", "_id=1")
Resource = tuple[str, frozenset[str]]
resources = st.tuples(st.sampled_from(KINDS), st.frozensets(st.sampled_from(FACTS)))


@st.composite
def scope_texts(draw: st.DrawFn) -> str:
    context = draw(st.sampled_from(["system", "system", "user"]))
    kind = draw(st.sampled_from([*KINDS, "*"]))
    letters = draw(st.sets(st.sampled_from("cruds"), min_size=1))
    written = "".join(letter for letter in "cruds" if letter in letters)
    known = FACTS if kind != "*" else ("_id=1",)
    query = "&".join(draw(st.lists(st.sampled_from(known), max_size=3)))
    first = draw(st.sampled_from(["read", "write", "*", ""]))
    return f"{context}/{kind}.{first}" if first and not query else f"{context}/{kind}.{written}" + (
        f"?{query}" if query else "")  # fmt: skip


sets = st.lists(scope_texts(), max_size=4).map(lambda texts: tuple(scopes.parse(t) for t in texts))


def opens(held: tuple[Scope, ...], context: str, resource: Resource, letter: str) -> bool:
    """By the text alone, not by the code under test: does one of these scopes open this resource?"""
    kind, facts = resource
    for scope in map(str, held):
        place, _, query = scope.partition("?")
        where, _, rest = place.partition("/")
        wanted, _, letters = rest.partition(".")
        asked = frozenset(query.split("&")) if query else frozenset()
        if where == context and wanted in ("*", kind) and letter in letters and asked <= facts:
            return True
    return False


@given(sets, sets, st.sampled_from(["system", "user"]), resources, st.sampled_from("cruds"))
@settings(max_examples=400, deadline=None)
def test_an_intersection_opens_just_what_both_sides_open(
    a: tuple[Scope, ...], b: tuple[Scope, ...], context: str, resource: Resource, letter: str
) -> None:
    both = scopes.intersect(a, b)

    assert opens(both, context, resource, letter) == (
        opens(a, context, resource, letter) and opens(b, context, resource, letter)
    )
    assert scopes.intersect(b, a) == both
    assert scopes.intersect(both, b) == both


@given(sets, st.sampled_from(["system", "user"]), resources, st.sampled_from("cruds"))
@settings(max_examples=300, deadline=None)
def test_the_canonical_form_opens_the_same_and_stands(
    held: tuple[Scope, ...], context: str, resource: Resource, letter: str
) -> None:
    fewest = scopes.canonical(held)

    assert opens(fewest, context, resource, letter) == opens(held, context, resource, letter)
    assert scopes.canonical(fewest) == fewest
    assert tuple(scopes.parse(str(scope)) for scope in fewest) == fewest


def test_one_letter_of_a_scope_may_be_needless() -> None:
    held = "system/Task.cr?_id=1&status=final system/*.r?_id=1"

    assert list(map(str, said(held))) == ["system/*.r?_id=1", "system/Task.c?_id=1&status=final"]


@given(sets, resources, st.sampled_from("cruds"))
@settings(max_examples=300, deadline=None)
def test_a_grant_holds_on_a_resource_when_one_of_its_queries_does(
    held: tuple[Scope, ...], resource: Resource, letter: str
) -> None:
    kind, facts = resource
    grant = scopes.grants(map(str, held), kind, letter)

    holds = grant is not None and (grant.unrestricted or any(set(q.split("&")) <= facts for q in grant.queries))
    assert holds == any(opens(held, context, resource, letter) for context in scopes.CONTEXTS)


@given(
    st.text(max_size=60) | scope_texts().flatmap(lambda t: st.integers(0, len(t)).map(lambda n: t[:n] + "x" + t[n:]))
)
@settings(max_examples=500, deadline=None)
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        scope = scopes.parse(text)
    except Invalid:
        return
    assert scopes.parse(str(scope)) == scope
