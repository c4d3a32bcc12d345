"""The format: text in fields, messages written and read, times; against hl7apy and python-hl7, which know it too."""

from __future__ import annotations

import contextlib

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_secondop.errors import Invalid, Malformed
from fhir_secondop.hl7v2 import names, reading, times
from fhir_secondop.hl7v2.composing import Head, compose
from fhir_secondop.hl7v2.er7 import escape, unescape

HEAD = Head("MDM", "T02", "MDM_T02", "ONE", "20261129", ("S", "P"), ("A", "B"))
# No control characters: none can stand in a field. Blanks at the ends of a line are others' to keep.
PIECES = st.one_of(
    st.sampled_from(["\\", "|", "^", "~", "&", "F", "E", "\\F\\", "\\E", "E\\", "\\.br\\", "\\X41\\", "\\H\\", " "]),
    st.characters(exclude_categories=["C"]),
)
TEXT = st.lists(PIECES, max_size=12).map("".join)


def document(*lines: str) -> str:
    """An MDM with that text."""
    return compose(HEAD, [
        ("EVN", {1: "T02", 2: "20261129"}), ("PID", {3: "1^^^A^MR", 5: "X^Y"}), ("PV1", {2: "N"}),
        ("TXA", {1: "1", 2: "CN", 3: "TX", 12: "a^B", 17: "LA", 19: "AV"}),
        ("OBX", {1: "1", 2: "TX", 3: "a^b^LN", 5: [escape(line) for line in lines], 11: "F"}),
    ])  # fmt: skip


@given(TEXT)
def test_what_is_escaped_is_read_back_to_the_letter(text: str) -> None:
    assert unescape(escape(text)) == text
    assert not set("|^~&") & set(escape(text))


@settings(max_examples=25)
@given(st.lists(TEXT.map(str.strip), min_size=2, max_size=4))
def test_a_text_goes_through_a_message_whole(lines: list[str]) -> None:
    text = document("first", *lines, "last")
    (obx,) = reading.read(text.encode()).named("OBX")
    assert [v.text() for v in obx.fields[4]] == ["first", *lines, "last"]
    theirs = hl7.parse(text)
    assert [str(v) for v in theirs.segment("OBX")[5]] == [escape(v) for v in ["first", *lines, "last"]]
    assert parse_message(text, validation_level=VALIDATION_LEVEL.STRICT).to_er7() == text.rstrip("\r")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a\\.br\\b", "a\nb"), ("\\X41\\\\X42\\", "AB"), ("\\H\\bold\\N\\", "bold"), ("\\XC3A4\\", "ä"),
        ("\\Zunknown\\x", "\\Zunknown\\x"), ("C:\\temp", "C:\\temp"), ("\\E\\R\\", "\\R\\"), ("\\XFF\\", "\\XFF\\"),
        ("5\\T\\6 \\ 7", "5&6 \\ 7"),
    ],
)  # fmt: skip
def test_what_others_escape_is_read_and_nothing_is_lost(written: str, meant: str) -> None:
    assert unescape(written) == meant


def test_a_message_of_ours_that_lacks_what_it_needs_is_not_written() -> None:
    with pytest.raises(Invalid, match="does not conform to MDM_T02"):
        compose(HEAD, [("EVN", {1: "T02", 2: "20261129"}), ("PID", {3: "1", 5: "Sampleton"})])


@pytest.mark.parametrize("wrong", ['1^^^A^MR^^""', "1^^^A^MR^^20200101120000"])
def test_a_value_that_the_library_chokes_on_is_refused_without_its_words(wrong: str) -> None:
    with pytest.raises(Invalid, match=r"does not conform to MDM_T02 \(ValueError\)"):
        compose(HEAD, [("EVN", {1: "T02", 2: "20261129"}), ("PID", {3: wrong, 5: "Sampleton"})])


def test_a_message_is_read_by_position_whatever_its_delimiters_and_line_ends() -> None:
    for text in (
        "MSH|^~\\&|A|B|C|D|20261129||REF^I12|7|P|2.4\rPID|1||1^^^M&1.2&ISO^MR~2||O\\T\\Neil^A\rZXY|x\r",
        "MSH#*?!$#A#B#C#D#20261129##REF*I12#7#P#2.4\nPID#1##1***M$1.2$ISO*MR?2##O!T!Neil*A\n\nZXY#x",
    ):
        message = reading.read(text.encode())
        pid = message.first("PID")
        assert message.kind == ("REF", "I12")
        assert message.control_id == "7"
        assert [v.text() for v in pid.all(3)] == ["1", "2"]
        assert pid.all(3)[0].components[3] == ("M", "1.2", "ISO")
        assert pid.text(5) in ("O&Neil", "O$Neil")
        assert (pid.text(5, 2), pid.text(99), pid.value(3).at(4)) == ("A", "", "PID[1]-3.4")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"", "MSH[1]"), (b"GET / HTTP/1.1\r\n", "MSH[1]"), (b"MSH|^~\\&", "MSH[1]"), (b"MSH|^^^^|A|B|C", "MSH[1]-2"),
        (b"MSHA^~\\&AAA", "MSH[1]-1"), (b"MSH|^~\\&|A|B|C|D|||R^I|1|P|2.5.1||||||UTF-99", "MSH[1]-18"),
        (b"MSH|^~\\&|\xe4|B|C|D|||R^I|1|P|2.5.1||||||UNICODE UTF-8", "MSH[1]-18"),
        (b"MSH|^~\\&|A|B|C|D|||R^I|1|P|2.5.1\rMarenSampleton|1", "MSH[1]"), (b"\xff\xfe" * 20, "MSH[1]"),
    ],
)  # fmt: skip
def test_what_can_not_be_read_is_refused_with_its_place(data: bytes, place: str) -> None:
    with pytest.raises((Invalid, Malformed)) as caught:
        reading.read(data)
    assert caught.value.path == place


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_read_or_refused(data: bytes) -> None:
    for sent in (data, b"MSH|^~\\&|" + data):
        with contextlib.suppress(Invalid, Malformed):
            reading.read(sent)
        with contextlib.suppress(Malformed):
            reading.head(sent)


@given(st.binary(max_size=80))
def test_of_whatever_begins_as_a_message_the_head_can_be_answered(data: bytes) -> None:
    head = reading.head(b"MSH|^~\\&|A|B|C|D|1||REF^I12|7|P|2.5.1||||||" + data)
    assert (head.head.text(4), head.control_id) == ("B", "7")


def test_other_character_sets_are_read() -> None:
    text = "MSH|^~\\&|A|B|C|D|||R^I|1|P|2.5.1||||||8859/1\rPID|1||||Müster"
    assert reading.read(text.encode("latin-1")).first("PID").text(5) == "Müster"


def test_times_keep_what_they_say() -> None:
    assert times.written("2026-11-23T09:30:00.125Z") == "20261123093000.125+0000"
    assert times.written("2026-11-23T09:30:00-05:00") == "20261123093000-0500"
    assert times.written("2026-11") == "202611"
    assert times.day("19710417103000.1+0200", "PID[1]-7") == "1971-04-17"
    for wrong in ("1971", "197104", "19710230", "17.04.1971", ""):
        with pytest.raises(Invalid):
            times.day(wrong, "PID[1]-7")


def test_a_person_is_written_with_the_npi_or_whoever_numbered_it() -> None:
    named = {"name": [{"family": "Standin", "given": ["Clara", "B."], "prefix": ["Dr."]}]}
    npi = {**named, "identifier": [{"system": "urn:oid:1.2.3", "value": "7"}, {"system": names.NPI, "value": "9"}]}
    assert names.person(npi) == "9^Standin^Clara^B.^^Dr.^^^NPI&2.16.840.1.113883.4.6&ISO^L^^^NPI"
    own = {**named, "identifier": [{"system": "urn:oid:1.2.3", "value": "7"}]}
    assert names.person(own, at="2026") == "7^Standin^Clara^B.^^Dr.^^^&1.2.3&ISO^L^^^^^2026"
    assert names.person({}) == ""
