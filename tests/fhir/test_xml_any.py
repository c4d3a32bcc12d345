"""JSON ↔ XML of whatever comes: made at random, damaged, or meant to break it."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.validate import validate
from fhir_secondop.fhir.xml import from_xml, to_xml
from tests.fhir.made import DIVS, TEXTS, TYPES, Maker, written
from tests.fhir.test_xml import FHIR, HEAD, NAME, XHTML, exact, refused, xml

# --- bombs ------------------------------------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "lol" * 10}">' for n in range(10))
BOMBS: dict[str, str] = {
    "entities": f"<!DOCTYPE Patient [{LAUGHS}]><Patient {FHIR}><id value='&a9;'/></Patient>",
    "entities behind a comment": f"<!-- --><?a ?> <!DOCTYPE a [{LAUGHS}]><Patient {FHIR}><id value='&a9;'/></Patient>",
    "entities in a narrative": "",
    "depth": xml("<extension url='u'>" * 200_000),
    "depth of a narrative": xml(f"<text><div {XHTML}>" + "<p>" * 500_000),
    "depth of containers": xml("<contained><Patient>" * 100_000),
    "a long namespace": xml(f"<text><div {XHTML} xmlns:x='urn:{'x' * 1_000_000}'>" + "<p x:a=''/>" * 200_000),
    "many namespaces": f"<Patient {FHIR} " + " ".join(f"xmlns:n{n}='urn:x'" for n in range(100_000)) + "/>",
    "many attributes": f"<Patient {FHIR} " + " ".join(f"a{n}=''" for n in range(200_000)) + "/>",
    "comments without end": "<!--" * 500_000,
    "instructions without end": "<?" * 1_000_000,
    "an attribute without end": xml("<id value='" + "<" * 10 + "a" * 3_000_000)[:-10],
    "entities without end": xml("<id value='" + "&" * 3_000_000),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_in_time_and_space(text: str) -> None:
    call: Any = from_xml if text else to_xml
    div = f"<!DOCTYPE div [{LAUGHS}]><div {XHTML}>&a9;</div>"
    sent: Any = text.encode() if text else {"resourceType": "Patient", "text": {"div": div}}
    tracemalloc.start()
    begun = time.process_time()
    refused(call, sent)
    took, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 5
    assert peak < 60 * len(text) + 1_000_000  # each attribute becomes two strings in a dict


DEEPEST = {
    "an extension": "",
    "a primitive": "<valueCode value='a'/>",
    "a primitive with an id": "<valueCode id='i' value='a'/>",
    "a primitive with an extension":
        "<valueCode value='a'><extension url='u'><valueCode value='a'/></extension></valueCode>",
    "what repeats": "<valueHumanName><given value='a'/></valueHumanName>",
    "what repeats with an id": "<valueHumanName><given id='i' value='a'/></valueHumanName>",
    "an object": "<valueHumanName><period><start value='2000'/></period></valueHumanName>",
}  # fmt: skip


@pytest.mark.parametrize("deepest", DEEPEST.values(), ids=DEEPEST)
def test_what_is_taken_is_as_deep_as_json_may_be_and_no_deeper(deepest: str) -> None:
    for before, after in (("", ""), ("<contained><Patient>", "</Patient></contained>")):
        for levels in range(42, 52):
            sent = [xml(before + "<extension url='u'>" * n + deepest + "</extension>" * n + after) for n in (1, levels)]
            depth = _depth(from_xml(sent[0].encode())) + 2 * (levels - 1)
            if depth > codec.MAX_DEPTH:
                assert "deeper" in refused(from_xml, sent[1].encode()).message
            else:
                text = from_xml(sent[1].encode())
                assert _depth(text) == depth
                codec.parse(text)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:  # there is no bracket in a string of these
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def test_a_large_document_takes_time_in_proportion() -> None:
    def took(entries: int) -> float:
        sent = xml(f"<text><div {XHTML}>{'<p>a</p>' * 50}</div></text>{NAME}")
        bundle = xml(f"<entry><resource>{sent.removeprefix(HEAD)}</resource></entry>" * entries, "Bundle").encode()
        begun = time.process_time()
        assert from_xml(bundle).count('"given":["a"]') == entries
        return time.process_time() - begun

    few, many = min(took(100) for _ in range(3)), took(1000)
    assert many < 40 * few


# --- at random --------------------------------------------------------------------------------------------------


@given(st.sampled_from(TYPES), st.integers(0, 2**32), st.sampled_from([0.1, 0.3, 0.6]))
@settings(max_examples=400, deadline=None)
def test_any_resource_survives_json_xml_json(kind: str, seed: int, plenty: float) -> None:
    made = Maker(seed, plenty).resource(kind, depth=3)
    text = written(made)
    assert exact(text) == made
    there = to_xml(text)
    assert exact(from_xml(there)) == made
    assert to_xml(from_xml(there)) == there


def test_most_of_what_is_made_is_valid() -> None:
    """Else the test above would say little of valid resources."""
    made = [codec.parse(written(Maker(seed, 0.2).resource(kind, depth=2))) for kind in TYPES for seed in range(5)]
    # What R4 demands across elements, that a contained resource is referred to, say, chance does not meet.
    across = ("invariant", "extension", "duplicate")
    sound = [all(issue.code in across for issue in validate(resource)) for resource in made]
    assert sum(sound) > 0.7 * len(made)


def test_every_type_is_made_and_read() -> None:
    for kind in TYPES:
        made = Maker(1, 1.0).resource(kind, depth=1)
        assert exact(from_xml(to_xml(written(made)))) == made


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_or_is_refused_with_its_path(text: str) -> None:
    sent = written({"resourceType": "Patient", "name": [{"id": text, "text": text}], "extension": [{"url": text}]})
    if "\0" in text:
        refused(to_xml, sent)
        return
    if any((c < " " and c not in "\t\n\r") or c in "\ufffe\uffff" for c in text):
        assert refused(to_xml, sent).path in ("Patient.name[0].id", "Patient.extension[0].url")
    else:
        assert exact(from_xml(to_xml(sent))) == exact(sent)


def survives(data: bytes) -> None:
    """A verdict and no crash; what is taken is taken again, the same."""
    try:
        text = from_xml(data)
    except Malformed:
        return
    assert from_xml(to_xml(text)) == text


@given(st.binary())
@settings(max_examples=200)
def test_any_bytes_have_a_verdict(data: bytes) -> None:
    survives(data)


PIECES = (
    b"<", b">", b"/", b"&", b"'", b'"', b"=", b" ", b"\n", b"&#10;", b"&#0;", b"&lt;", b"<!-- a -->", b"<![CDATA[x]]>",
    b"<?a b?>", b"<!DOCTYPE a>", b"xmlns:a='http://hl7.org/fhir' ", b"<a:", b"</", b"/>", b"<div xmlns='http://www.w3.org/1999/xhtml'>",
    b"</div>", b"<div/>", b"value='1' ", b"id='a' ", b"<extension url='u'>", b"</extension>", b"<extension url='u'/>",
    b"\xff", b"\xc3\xa9", b"<contained>", b"</contained>", b"<Patient>", b"</Patient>", b"<id value='1'/>", b"",
)  # fmt: skip


@given(
    st.integers(0, 2**32), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), max_size=4)
)
@settings(max_examples=600, deadline=None)
def test_damaged_xml_has_a_verdict(seed: int, damage: list[tuple[float, int, bytes]]) -> None:
    data = to_xml(written(Maker(seed, 0.2).resource(depth=2)))
    for where, length, piece in damage:
        at = int(where * len(data))
        data = data[:at] + piece + data[at + length :]
    survives(data)


def test_damage_in_small_documents_has_a_verdict() -> None:
    """Each piece at each place of one document, in and instead of what stands there."""
    whole = xml(f"<text>{DIVS[2]}</text><name id='n'><given value='a'/><given id='b'/></name>").encode()
    for at in range(0, len(whole), 3):
        for piece in PIECES:
            survives(whole[:at] + piece + whole[at:])
            survives(whole[:at] + piece + whole[at + max(1, len(piece)) :])


def test_texts_are_odd_enough() -> None:
    assert {"\n", "\t", "\r", "&", "<", '"', "😀"} <= set("".join(TEXTS))
