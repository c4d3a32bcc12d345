"""JSON ↔ XML: nothing is lost either way, and what the other form can't say is refused with its place."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.xml import bundle_to_xml, from_xml, to_xml
from tests.fhir.made import DIVS, NUMBERS, written

FHIR = 'xmlns="http://hl7.org/fhir"'
HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'


def exact(text: str) -> Any:
    return codec.parse_exact(text)


def xml(inside: str, kind: str = "Patient") -> str:
    return f"{HEAD}<{kind} {FHIR}>{inside}</{kind}>"


def patient(**members: Any) -> str:
    return written({"resourceType": "Patient", **members})


def refused(call: Any, *arguments: Any) -> Malformed:
    with pytest.raises(Malformed) as raised:
        call(*arguments)
    return raised.value


# --- the same thing in both forms -------------------------------------------------------------------------------

SAME = {
    "a primitive": ('{"resourceType":"Patient","id":"1","active":true}', '<id value="1"/><active value="true"/>'),
    "an id and an extension of a primitive": (
        '{"resourceType":"Patient","birthDate":"1970","_birthDate":{"id":"b","extension":'
        '[{"url":"urn:t","valueDateTime":"1970-01-01T10:00:00Z"}]}}',
        '<birthDate id="b" value="1970"><extension url="urn:t"><valueDateTime value="1970-01-01T10:00:00Z"/>'
        "</extension></birthDate>",
    ),
    "a primitive with an id only": (
        '{"resourceType":"Patient","birthDate":"1970","_birthDate":{"id":"b"}}', '<birthDate id="b" value="1970"/>',
    ),
    "a primitive without a value": (
        '{"resourceType":"Patient","_birthDate":{"extension":[{"url":"urn:a","valueCode":"unknown"}]}}',
        '<birthDate><extension url="urn:a"><valueCode value="unknown"/></extension></birthDate>',
    ),
    "nulls in both arrays": (
        '{"resourceType":"Patient","name":[{"given":["A",null,"C"],"_given":[null,{"id":"g"},'
        '{"extension":[{"url":"urn:a","valueBoolean":false}]}]}]}',
        '<name><given value="A"/><given id="g"/><given value="C"><extension url="urn:a"><valueBoolean value="false"/>'
        "</extension></given></name>",
    ),
    "an array of extensions only": (
        '{"resourceType":"Patient","name":[{"_given":[{"id":"x"},{"id":"y"}]}]}',
        '<name><given id="x"/><given id="y"/></name>',
    ),
    "ids of elements, and extensions in extensions": (
        '{"resourceType":"Patient","extension":[{"id":"e","url":"urn:o","extension":[{"url":"i","valueString":"v"}]}],'
        '"name":[{"id":"n","family":"F"}]}',
        '<extension id="e" url="urn:o"><extension url="i"><valueString value="v"/></extension></extension>'
        '<name id="n"><family value="F"/></name>',
    ),
    "contained resources": (
        '{"resourceType":"Patient","contained":[{"resourceType":"Organization","id":"o"},'
        '{"resourceType":"Practitioner","id":"p"}],"managingOrganization":{"reference":"#o"}}',
        '<contained><Organization><id value="o"/></Organization></contained><contained><Practitioner><id value="p"/>'
        '</Practitioner></contained><managingOrganization><reference value="#o"/></managingOrganization>',
    ),
    "white space in an attribute": (
        r'{"resourceType":"Patient","name":[{"text":" a\tb\nc\r\nd\"e\"<&>"}]}',
        '<name><text value=" a&#9;b&#10;c&#13;&#10;d&quot;e&quot;&lt;&amp;&gt;"/></name>',
    ),
    "characters beyond the first plane": (
        '{"resourceType":"Patient","name":[{"text":"😀 漢 \u0085\u2028"}]}',
        '<name><text value="😀 漢 \u0085\u2028"/></name>',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "inside"), SAME.values(), ids=SAME)
def test_the_same_is_said_in_both(text: str, inside: str) -> None:
    assert to_xml(text).decode() == xml(inside)
    assert from_xml(xml(inside).encode()) == codec.dumps(json.loads(text))


def test_a_bundle_and_parameters_hold_resources() -> None:
    bundle = (
        '{"resourceType":"Bundle","type":"batch-response","entry":[{"resource":{"resourceType":"Patient","id":"1"},'
        '"response":{"status":"200","outcome":{"resourceType":"OperationOutcome","issue":[{"severity":"error",'
        '"code":"x"}]}}},{"resource":{"resourceType":"Parameters","parameter":[{"name":"a","resource":'
        '{"resourceType":"Binary","contentType":"a/b","data":"aGVs\\nbG8="}},{"name":"b","part":[{"name":"c",'
        '"valueDecimal":1.10}]}]}}]}'
    )
    assert from_xml(to_xml(bundle)) == bundle
    assert b"<resource><Patient><id" in to_xml(bundle)


def test_elements_stand_in_the_order_of_r4_and_come_back_in_it() -> None:
    text = '{"active":true,"_birthDate":{"id":"x"},"id":"1","birthDate":"2000","resourceType":"Patient","meta":{}}'
    back = '{"resourceType":"Patient","id":"1","meta":{},"active":true,"birthDate":"2000","_birthDate":{"id":"x"}}'
    made = to_xml(text).decode()
    assert made == xml('<id value="1"/><meta></meta><active value="true"/><birthDate id="x" value="2000"/>')
    assert from_xml(made.encode()) == back


@pytest.mark.parametrize("number", [*NUMBERS, "1.000000000000000000e-245"])
def test_a_number_keeps_its_text(number: str) -> None:
    text = f'{{"resourceType":"Observation","valueQuantity":{{"value":{number}}}}}'
    assert f'<value value="{number}"/>' in to_xml(text).decode()
    assert from_xml(to_xml(text)) == text


def test_of_a_dict_the_numbers_are_what_its_decimals_say() -> None:
    assert b'value="1.10"' in to_xml({"resourceType": "Observation", "valueQuantity": {"value": Decimal("1.10")}})
    assert b'value="3"' in to_xml({"resourceType": "Observation", "valueInteger": 3})
    for lossy in (1.1, Decimal("NaN"), Decimal("Infinity"), 10**5000):
        error = refused(to_xml, {"resourceType": "Observation", "valueQuantity": {"value": lossy}})
        assert error.path == "Observation.value.value"


# --- narratives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("div", DIVS)
def test_a_narrative_comes_back_character_for_character(div: str) -> None:
    text = patient(text={"status": "generated", "div": div})
    assert f'<text><status value="generated"/>{div}</text>'.encode() in to_xml(text)
    assert exact(from_xml(to_xml(text)))["text"]["div"] == div


def test_a_return_in_a_narrative_is_kept() -> None:
    div = f"<div {XHTML}>a\r\nb\rc</div>"
    assert exact(from_xml(to_xml(patient(text={"div": div}))))["text"]["div"] == div


def test_what_stands_around_the_div_is_left_out() -> None:
    text = patient(text={"div": f"\n<!-- by a program --> <div {XHTML}>a</div> <!-- end -->\n"})
    assert exact(from_xml(to_xml(text)))["text"]["div"] == f"<div {XHTML}>a</div>"


@pytest.mark.parametrize("div", [
    "text", "", f"<div {XHTML}>", "<div>a</div>", f"<p {XHTML}/>", f"<div {XHTML}>&nbsp;</div>",
    f"<div {XHTML}/><div {XHTML}/>", f'<div {XHTML}><x xmlns="urn:other"/></div>', f"<div {XHTML}><?pi a?></div>",
    f"{HEAD}<div {XHTML}/>", f"<!DOCTYPE div><div {XHTML}/>",
    f"<!-- -->\n<!DOCTYPE div [<!ENTITY a 'b'>]><div {XHTML}/>",
    f"<div {XHTML}>\x01</div>", f"<div {XHTML}>\ud800</div>", f"<div {XHTML}>\ufffe</div>", f"<div {XHTML}><b></div>",
    f'<div {XHTML} a="1" a="2"/>', f"<div {XHTML}>" + "<p>" * 100 + "</p>" * 100 + "</div>",
    f'<div {XHTML} xmlns:x="urn:{"x" * 300}"/>',
])  # fmt: skip
def test_a_div_that_is_no_xhtml_is_refused(div: str) -> None:
    assert refused(to_xml, {"resourceType": "Patient", "text": {"div": div}}).path == "Patient.text.div"


@pytest.mark.parametrize(("root", "div", "alone"), [
    ('xmlns:f="http://hl7.org/fhir" xmlns="http://www.w3.org/1999/xhtml"',
     '<div title="&quot;"><b>a</b> &lt; c<!-- d --></div>',
     f'<div {XHTML} title="&quot;"><b>a</b> &lt; c<!-- d --></div>'),
    ('xmlns:f="http://hl7.org/fhir" xmlns:h="http://www.w3.org/1999/xhtml"', "<h:div><h:b>a</h:b> b<h:br/>c</h:div>",
     f"<div {XHTML}><b>a</b> b<br/>c</div>"),
    ('xmlns:f="http://hl7.org/fhir"', f"<div {XHTML}><b >a</b></div>", f"<div {XHTML}><b >a</b></div>"),
])  # fmt: skip
def test_a_div_whose_prefixes_are_declared_outside_is_written_to_stand_alone(root: str, div: str, alone: str) -> None:
    sent = f"<f:Patient {root}><f:text><f:status value='generated'/>{div}</f:text><f:active value='true'/></f:Patient>"
    assert exact(from_xml(sent.encode())) == {
        "resourceType": "Patient", "text": {"status": "generated", "div": alone}, "active": True,
    }  # fmt: skip


def test_a_prefix_that_means_something_else_for_a_while_means_the_same_again_after_it() -> None:
    sent = (
        '<Patient xmlns="http://hl7.org/fhir" xmlns:h="http://www.w3.org/1999/xhtml"><contained><Basic>'
        '<code xmlns:h="urn:x"/></Basic></contained><contained><Basic><text><h:div><h:p/></h:div></text></Basic>'
        "</contained></Patient>"
    )
    assert exact(from_xml(sent.replace("<text>", "<id value='b'/><text>").encode()))["contained"][1]["text"] == {
        "div": f"<div {XHTML}><p/></div>"
    }


# --- what JSON says and XML can't -------------------------------------------------------------------------------

ONLY_JSON: dict[str, tuple[dict[str, Any], str]] = {
    "a control character": ({"name": [{}, {"given": ["a", "b\x0bc"]}]}, "Patient.name[1].given[1]"),
    "half of a surrogate pair": ({"name": [{"text": "\ud83d"}]}, "Patient.name[0].text"),
    "a noncharacter": ({"name": [{"text": "\uffff"}]}, "Patient.name[0].text"),
    "one in an id of an element": ({"name": [{"id": "\x00"}]}, "Patient.name[0].id"),
    "an unknown element": ({"name": [{"nickname": "a"}]}, "Patient.name[0].nickname"),
    "a key that is no name": ({"name": [{"a b": "a"}]}, "Patient.name[0]"),
    "a resourceType where there is none": ({"name": [{"resourceType": "HumanName"}]}, "Patient.name[0].resourceType"),
    "an empty array": ({"name": []}, "Patient.name"),
    "no array": ({"name": {}}, "Patient.name"),
    "an array too much": ({"birthDate": ["2000"]}, "Patient.birthDate"),
    "an array too much of objects": ({"maritalStatus": [{}]}, "Patient.maritalStatus"),
    "text for an object": ({"name": ["a"]}, "Patient.name[0]"),
    "null": ({"birthDate": None}, "Patient.birthDate"),
    "null beside an extension": ({"birthDate": None, "_birthDate": {"id": "a"}}, "Patient.birthDate"),
    "a null companion": ({"birthDate": "2000", "_birthDate": None}, "Patient.birthDate"),
    "null in an array": ({"name": [None]}, "Patient.name[0]"),
    "null without a companion": ({"name": [{"given": ["a", None]}]}, "Patient.name[0].given[1]"),
    "null in both": ({"name": [{"given": [None], "_given": [None]}]}, "Patient.name[0].given[0]"),
    "arrays of two lengths": ({"name": [{"given": ["a", "b"], "_given": [{"id": "x"}]}]}, "Patient.name[0].given"),
    "an empty companion": ({"birthDate": "2000", "_birthDate": {}}, "Patient.birthDate"),
    "a companion that is text": ({"birthDate": "2000", "_birthDate": "x"}, "Patient.birthDate"),
    "more in a companion": ({"birthDate": "2000", "_birthDate": {"value": "x"}}, "Patient.birthDate.value"),
    "a number as text": ({"multipleBirthInteger": "2"}, "Patient.multipleBirth"),
    "text as a number": ({"birthDate": 2000}, "Patient.birthDate"),
    "a boolean as text": ({"active": "true"}, "Patient.active"),
    "a boolean as a number": ({"multipleBirthInteger": True}, "Patient.multipleBirth"),
    "two types of a choice": ({"deceasedBoolean": True, "_deceasedDateTime": {"id": "a"}}, "Patient.deceased"),
    "an extension of an attribute": ({"name": [{"id": "a", "_id": {"id": "x"}}]}, "Patient.name[0]._id"),
    "an extension of an address": ({"extension": [{"url": "a", "_url": {"id": "x"}}]}, "Patient.extension[0]._url"),
    "an address that is no text": ({"extension": [{"url": 1}]}, "Patient.extension[0].url"),
    "an id of a div": ({"text": {"div": DIVS[0], "_div": {"id": "x"}}}, "Patient.text._div"),
    "no resource": ({"contained": [{}]}, "Patient.contained[0]"),
    "no object": ({"contained": ["a"]}, "Patient.contained[0]"),
    "a data type": ({"contained": [{"resourceType": "HumanName"}]}, "Patient.contained[0]"),
    "an abstract type": ({"contained": [{"resourceType": "DomainResource"}]}, "Patient.contained[0]"),
    "a type of R4B": ({"contained": [{"resourceType": "Citation"}]}, "Patient.contained[0]"),
}  # fmt: skip


@pytest.mark.parametrize(("members", "path"), ONLY_JSON.values(), ids=ONLY_JSON)
def test_what_xml_can_not_say_is_refused_with_its_path(members: dict[str, Any], path: str) -> None:
    error = refused(to_xml, {"resourceType": "Patient", **members})
    assert error.path == path
    assert error.message.startswith(path + " ")


def test_json_is_parsed_as_strictly_as_ever() -> None:
    for text in (
        '{"resourceType":"Patient","id":"1","id":"2"}',
        '{"resourceType":"Patient"} x',
        "[]",
        "",
        "nul",
        "\ufeff{}",
    ):
        refused(to_xml, text)
    assert refused(to_xml, '{"resourceType":"Nobody"}').path == "Resource"
    assert refused(to_xml, "{}").path == "Resource"
    assert to_xml(b'{"resourceType":"Patient"}') == xml("").encode()


def test_a_dict_too_deep_is_refused() -> None:
    inner: dict[str, Any] = {"url": "a"}
    for _ in range(2000):
        inner = {"url": "a", "extension": [inner]}
    assert "deeper" in refused(to_xml, {"resourceType": "Patient", "extension": [inner]}).message


# --- what XML says and JSON can't, and what FHIR does not let it say ----------------------------------------------

NAME = '<name><given value="a"/></name>'
ONLY_XML: dict[str, tuple[str, str, str]] = {
    "an unknown element": (xml("<nickname value='a'/>"), "Patient", "nickname"),
    "one of another type": (xml(NAME + "<name><prefix value='a'/><city value='b'/></name>"), "Patient.name[1]", "city"),
    "another order": (xml("<active value='true'/><id value='1'/>"), "Patient.id", "before active"),
    "extension after": (
        xml("<name><family value='a'/><extension url='u'/></name>"), "Patient.name[0].extension", "before"),
    "not together": (xml(NAME + "<gender value='male'/>" + NAME), "Patient.name", "before gender"),
    "twice what is once": (xml("<active value='true'/><active value='true'/>"), "Patient.active", "repeat"),
    "two of a choice": (
        xml("<deceasedBoolean value='true'/><deceasedDateTime value='2000'/>"), "Patient.deceased", "one type only"),
    "an unknown attribute": (xml("<active value='true' x='1'/>"), "Patient.active", "attribute x"),
    "a value of an object": (xml("<name value='a'/>"), "Patient.name[0]", "attribute value"),
    "a url elsewhere": (xml("<name url='a'/>"), "Patient.name[0]", "attribute url"),
    "an id of a resource": (f"<Patient {FHIR} id='1'/>", "Patient", "attribute id"),
    "an id of a container": (xml("<contained id='1'><Patient/></contained>"), "Patient.contained[0]", "attribute id"),
    "an attribute of a namespace": (xml("<active value='true' xml:lang='en'/>"), "Patient.active", "attribute"),
    "a schema's location inside": (
        xml("<name xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xsi:schemaLocation='a b'/>"),
        "Patient.name[0]", "attribute"),
    "nothing in a primitive": (xml(NAME + "<name><given/></name>"), "Patient.name[1].given[0]", "value"),
    "another element in a primitive": (xml("<active value='true'><x/></active>"), "Patient.active", "extensions only"),
    "text": (xml("<active value='true'/>yes"), "Patient", "text"),
    "text in a primitive": (xml("<active value='true'>true</active>"), "Patient.active", "text"),
    "text in CDATA": (xml("<![CDATA[x]]>"), "Patient", "text"),
    "no number": (xml("<multipleBirthInteger value='two'/>"), "Patient.multipleBirth", "number"),
    "a number with a plus": (xml("<multipleBirthInteger value='+2'/>"), "Patient.multipleBirth", "number"),
    "a number with space": (xml("<multipleBirthInteger value=' 2'/>"), "Patient.multipleBirth", "number"),
    "a number with zeros": (xml("<multipleBirthInteger value='02'/>"), "Patient.multipleBirth", "number"),
    "a number of another script": (xml("<multipleBirthInteger value='٢'/>"), "Patient.multipleBirth", "number"),
    "a boolean that is a number": (xml("<active value='1'/>"), "Patient.active", "true or false"),
    "no resource in a container": (xml("<contained/>"), "Patient.contained[0]", "hold a resource"),
    "two in a container": (xml("<contained><Group/><Group/></contained>"), "Patient.contained[0]", "one resource"),
    "a type in a container": (xml("<contained><Period/></contained>"), "Patient.contained[0]", "resource type"),
    "a type of R4B": (f"<Citation {FHIR}/>", "", "resource type"),
    "no namespace": ("<Patient/>", "", "namespace"),
    "another namespace": ("<Patient xmlns='urn:hl7-org:v3'/>", "", "namespace"),
    "another namespace inside": (xml("<x xmlns='urn:x'/>"), "Patient", "namespace"),
    "XHTML where none may stand": (xml(f"<div {XHTML}/>"), "Patient", "namespace"),
    "a div of FHIR": (xml("<text><div/></text>"), "Patient.text", "div"),
    "another namespace in a narrative": (
        xml(f"<text><div {XHTML}><x xmlns='u'/></div></text>"), "Patient.text", "namespace"),
    "an instruction": (xml("<?a b?>"), "Patient", "instruction"),
    "an instruction before": (f"<?xml-stylesheet href='a'?><Patient {FHIR}/>", "", "instruction"),
    "an instruction in a narrative": (xml(f"<text><div {XHTML}><?a b?></div></text>"), "Patient.text", "instruction"),
    "a DOCTYPE": (f"{HEAD}\n<!DOCTYPE Patient><Patient {FHIR}/>", "", "DOCTYPE"),
    "an entity": (xml("<id value='&x;'/>"), "Patient", "undefined entity"),
    "an entity of HTML": (xml(f"<text><div {XHTML}>&nbsp;</div></text>"), "Patient.text", "undefined entity"),
    "another encoding": (f"<?xml version='1.0' encoding='ISO-8859-1'?><Patient {FHIR}/>", "", "UTF-8"),
    "another version": (f"<?xml version='1.1'?><Patient {FHIR}/>", "", "XML 1.0"),
    "the end too early": (xml("")[:-3], "Patient", "well-formed"),
    "something after the end": (xml("") + "x", "", "well-formed"),
    "a second resource": (xml("") + f"<Patient {FHIR}/>", "", "well-formed"),
    "the same attribute twice": (xml("<active value='true' value='true'/>"), "Patient", "well-formed"),
    "an impossible character": (xml("<id value='&#1;'/>"), "Patient", "well-formed"),
    "nothing": ("", "", "well-formed"),
    "space": (" ", "", "well-formed"),
    "JSON": ("{}", "", "well-formed"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "path", "said"), ONLY_XML.values(), ids=ONLY_XML)
def test_what_is_no_fhir_xml_is_refused_with_its_place(text: str, path: str, said: str) -> None:
    error = refused(from_xml, text.encode())
    assert error.path == path
    assert said in error.message


def test_the_line_and_the_column_are_those_of_the_fault() -> None:
    sent = f"<Patient {FHIR}>\n  <!-- 😀 漢 -->\n  <active value='true'/><nickname value='a'/>\n</Patient>"
    assert refused(from_xml, sent.encode()).message.startswith("Line 3, column 25: Patient has an element nickname")
    assert refused(from_xml, b"\n<!-- \xc3\xa9 --> <!DOCTYPE a>").message.startswith("Line 2, column 12:")


def test_every_fault_is_named_at_once_with_its_place() -> None:
    sent = f"""<Patient {FHIR}>
<id value="1"/><id value="2"/>
<nickname value="a"><deep><er/></deep></nickname>
<contained><Citation><x/></Citation></contained>
<contained><Group/><Group/></contained>
<active value="yes">text<x/></active>
<name x="1"><given/><family value="a"/></name>
<deceasedBoolean value="true"/><deceasedDateTime value="2000"/>
<multipleBirthInteger value="two"/>
<gender value="male"/>
</Patient>"""
    error = refused(from_xml, sent.encode())
    assert error.message.startswith("Line 2, column 16: Patient.id may not repeat")
    assert [(issue.line, issue.expression) for issue in error.issues] == [
        (2, "Patient.id"), (3, "Patient"), (4, "Patient.contained[0]"), (5, "Patient.contained[1]"),
        (6, "Patient.active"), (6, "Patient.active"), (6, "Patient.active"), (7, "Patient.name[0]"),
        (7, "Patient.name[0].given[0]"), (7, "Patient.name[0].family"), (8, "Patient.deceased"),
        (9, "Patient.multipleBirth"), (10, "Patient.gender"),
    ]  # fmt: skip
    assert len(refused(from_xml, xml("<x/>" * 5000).encode()).issues) == 1001


def test_what_ends_the_reading_comes_last() -> None:
    error = refused(from_xml, xml("<x/><y/><?a b?><z/>").encode())
    assert [issue.diagnostics.split()[2:4] for issue in error.issues[-1:]] == [["not", "have"]]
    assert len(error.issues) == 3
    assert len(refused(from_xml, (xml("<x/>")[:-3]).encode()).issues) == 2


def test_only_utf_8_is_read() -> None:
    sent = xml("<name><text value='é 😀'/></name>")
    assert '"é 😀"' in from_xml(b"\xef\xbb\xbf" + sent.encode())
    assert '"é 😀"' in from_xml(sent.removeprefix(HEAD).encode())
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        assert "UTF-16" in refused(from_xml, sent.encode(encoding)).message
    for wrong in (b"\xe9", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\0"):
        assert "Line 1" in refused(from_xml, xml("<id value='X'/>").encode().replace(b"X", wrong)).message


def test_comments_and_the_place_of_a_schema_are_left_out() -> None:
    sent = (
        f"<!-- a --><Patient {FHIR} xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' "
        "xsi:schemaLocation='http://hl7.org/fhir ../fhir-all.xsd'><!-- b --><id value='1'/></Patient><!-- c -->"
    )
    assert from_xml(sent.encode()) == '{"resourceType":"Patient","id":"1"}'


def test_a_value_never_stands_in_a_refusal() -> None:
    for text in (xml("<active value='Smith'/>"), xml("Smith"), xml("<Smi-th/>"), f"<!DOCTYPE Smith><Patient {FHIR}/>"):
        assert "Smi" not in refused(from_xml, text.encode()).message
    for members in (
        {"active": "Smith"},
        {"Smi th": 1},
        {"text": {"div": "<Smith>"}},
        {"name": [{"text": "Smith\x01"}]},
    ):
        assert "Smi" not in refused(to_xml, {"resourceType": "Patient", **members}).message


def test_what_the_page_shows_is_so() -> None:
    page = (Path(__file__).parents[2] / "docs/xml.md").read_text("utf-8")
    shown: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], shown)
    assert shown["json"] == '{"resourceType":"Observation","valueQuantity":{"value":1.10}}'


# --- a large Bundle ---------------------------------------------------------------------------------------------


def entries(number: int) -> Iterator[str]:
    for n in range(number):
        coding = [{"system": "http://loinc.org", "code": str(code)} for code in range(20)]
        one = {"resourceType": "Observation", "id": str(n), "status": "final", "code": {"coding": coding}}
        yield written({"resource": one, "search": {"mode": "match"}})


HEADS: list[dict[str, Any]] = [
    {"resourceType": "Bundle", "type": "searchset", "total": 7, "link": [{"relation": "self", "url": "urn:x"}]},
    {"resourceType": "Bundle", "type": "batch-response"},
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: str(head["type"]))
@pytest.mark.parametrize("number", [0, 1, 7])
def test_a_bundle_in_parts_is_the_same_as_at_once(head: dict[str, Any], number: int) -> None:
    texts = list(entries(number))
    whole = to_xml({**head, **({"entry": [codec.parse(text) for text in texts]} if texts else {})})
    for part_bytes in (1, 2000, 10**9):
        parts = list(bundle_to_xml(head, texts, part_bytes))
        assert b"".join(parts) == whole
        assert len(parts) == (number + 1 if part_bytes == 1 else len(parts))


def test_of_a_bundle_in_parts_one_entry_is_held_parsed() -> None:
    def peak(number: int) -> int:
        tracemalloc.start()
        try:
            size = sum(map(len, bundle_to_xml(HEADS[0], entries(number), 10_000)))
            assert size > 1000 * number
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(20)  # makes what is kept of R4's tables
    assert peak(600) < 1.5 * peak(60)


def test_what_can_not_be_said_of_an_entry_has_its_place() -> None:
    texts = [*entries(2), '{"resource":{"resourceType":"Patient","colour":"red"}}']
    told = refused(list, bundle_to_xml(HEADS[1], texts, 10**9))
    assert told.issues[0].expression == "Bundle.entry[2].resource.colour"
