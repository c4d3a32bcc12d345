"""XML and JSON of the same resources: HL7's examples there and back, its schema, and how others read what we write."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from lxml import etree

from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.validate import validate
from fhir_secondop.fhir.xml import from_xml, to_xml
from tests.fhir.made import TYPES, Maker, written
from tests.interop.hapi_server import JVM, PROJECT, classpath

pytestmark = pytest.mark.shared

FHIR = "{http://hl7.org/fhir}"
# Known to be wrong, and where: an element of STU3; an extension that does not stand first.
WRONG = {
    "official-r4-examples-xml/myconsent-ext.xml": "Line 13, column 2: StructureDefinition has an element contextType",
    "fhir-test-cases-r4/myconsent-ext.xml": "Line 13, column 2: StructureDefinition has an element contextType",
    "fhir-test-cases-r4/observation-example.xml": "Line 5, column 2: Observation.extension must stand before status",
}
NO_RESOURCE = "official-r4-examples-xml/manifest.xml"  # lists tests
# What HL7's JSON and XML of the same example say differently: their editions differ. First parts of paths.
EDITIONS = {
    "codesystem-example.xml": {"text", "description", "concept"},
    "observation-example.xml": {"extension"},
}

# The schema has one list of codes for the status of Medication and of MedicationStatement, whose lists are two.
SCHEMA_IS_WRONG = re.compile(r"status'.*\{'active', 'inactive', 'entered-in-error'\}")


def documents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in (*folder.glob("official-r4-examples-xml/*.xml"), *folder.glob("fhir-test-cases-r4/*.xml"),
                 *folder.glob("fhir-test-cases-r4/examples/*.xml")):  # fmt: skip
        yield str(path.relative_to(folder)), path.read_bytes()


def infoset(data: bytes) -> bytes:
    """Canonical XML without what FHIR gives no meaning: comments and space outside of narratives."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    root = etree.fromstring(data, parser)
    comments = [c for c in root.iter(etree.Comment) if str(c.getparent().tag).startswith(FHIR)]
    for comment in comments:
        comment.getparent().remove(comment)
    for element in root.iter(f"{FHIR}*"):
        element.text = (element.text or "").strip()
        for child in element:
            child.tail = (child.tail or "").strip()
    root.attrib.pop("{http://www.w3.org/2001/XMLSchema-instance}schemaLocation", None)
    etree.cleanup_namespaces(root)
    return etree.tostring(root, method="c14n")


@pytest.fixture(scope="module")
def schema(shared_data: Path) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(shared_data / "r4-xsd/fhir-single.xsd"))


def faults(schema: etree.XMLSchema, data: bytes) -> list[str]:
    schema.validate(etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True)))
    return [f"{error.line}: {error.message}" for error in schema.error_log]


def test_the_schema_sees_what_is_wrong(schema: etree.XMLSchema) -> None:
    assert not faults(schema, b'<Patient xmlns="http://hl7.org/fhir"><id value="1"/><active value="true"/></Patient>')
    assert faults(schema, b'<Patient xmlns="http://hl7.org/fhir"><active value="true"/><id value="1"/></Patient>')


def test_official_json_becomes_schema_valid_xml_and_the_same_json_again(
    shared_data: Path, schema: etree.XMLSchema
) -> None:
    paths = sorted((shared_data / "official-r4-examples-json").glob("*.json"))
    assert len(paths) == 745
    for path in paths:
        text = path.read_text("utf-8")
        there = to_xml(text)
        assert faults(schema, there) == [], path.name
        assert codec.parse_exact(from_xml(there)) == codec.parse_exact(text), path.name


def test_records_of_synthea_come_back_the_same(shared_data: Path, schema: etree.XMLSchema) -> None:
    paths = sorted((shared_data / "synthea-r4-bundles").glob("*.json.gz"))
    assert len(paths) > 15
    for path in paths:
        text = gzip.decompress(path.read_bytes())
        there = to_xml(text)
        assert codec.parse_exact(from_xml(there)) == codec.parse_exact(text), path.name
        assert faults(schema, there) == [], path.name


def test_official_xml_becomes_json_and_the_same_xml_again(shared_data: Path, schema: etree.XMLSchema) -> None:
    seen = 0
    for name, data in documents(shared_data):
        if name == NO_RESOURCE or name in WRONG:
            continue
        seen += 1
        there = from_xml(data)
        assert infoset(to_xml(there)) == infoset(data), name
        assert faults(schema, data) == faults(schema, to_xml(there)) == [], name
    assert seen == 39


def test_official_xml_that_is_wrong_is_refused_where_the_schema_refuses_it(
    shared_data: Path, schema: etree.XMLSchema
) -> None:
    for name, said in WRONG.items():
        data = (shared_data / name).read_bytes()
        with pytest.raises(Malformed) as refused:
            from_xml(data)
        assert refused.value.message.startswith(said)
        assert faults(schema, data)[0].startswith(said.split(",")[0].removeprefix("Line ") + ":")


def test_official_xml_says_what_the_official_json_of_the_same_example_says(shared_data: Path) -> None:
    compared = 0
    for path in sorted((shared_data / "official-r4-examples-xml").glob("*.xml")):
        beside = shared_data / "official-r4-examples-json" / f"{path.stem}.json"
        if beside.exists() and path.name != "myconsent-ext.xml":
            compared += 1
            ours, theirs = codec.parse(from_xml(path.read_bytes())), codec.parse(beside.read_bytes())
            for each in (ours, theirs):
                # HL7 puts this tag into its JSON alone; numbers are of equal value, written anew.
                tags = each.pop("meta", {}).get("tag", [])
                assert all(tag["code"] in ("HTEST", "ANON") or each is ours for tag in tags), path.name
                if "div" in each.get("text", {}):
                    each["text"]["div"] = etree.tostring(etree.fromstring(each["text"]["div"]), method="c14n")
            differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
            assert differing == EDITIONS.get(path.name, set()), path.name
    assert compared == 12


def test_valid_resources_made_at_random_are_schema_valid(schema: etree.XMLSchema) -> None:
    valid = 0
    for kind in TYPES:
        for seed in range(8):
            text = written(Maker(seed, 0.25).resource(kind, depth=2))
            if not validate(codec.parse(text)):
                valid += 1
                assert [f for f in faults(schema, to_xml(text)) if not SCHEMA_IS_WRONG.search(f)] == [], (kind, seed)
    assert valid > 3 * len(TYPES)


# --- others' parsers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hapi(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What HAPI reads in each official example and in our XML of it."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HAPI needs Java 17 and Maven")
    there, back = tmp_path_factory.mktemp("there"), tmp_path_factory.mktemp("back")
    for path in (shared_data / "official-r4-examples-json").glob("*.json"):
        shutil.copyfile(path, there / path.name)
        (there / f"{path.stem}.xml").write_bytes(to_xml(path.read_bytes()))
    command = ["java", *JVM, "-cp", classpath(PROJECT), "secondop.interop.HapiFormat", str(there), str(back)]
    subprocess.run(command, check=True, timeout=500)
    return back


def test_hapi_reads_in_our_xml_what_it_reads_in_the_json(by_hapi: Path) -> None:
    said = {path.name: path.read_text("utf-8") for path in by_hapi.glob("*.error")}
    # HAPI 8.8 does not read the `_event` of DataRequirement triggers in R4's own examples, in JSON only.
    assert all(name.endswith(".json.error") and "_event" in text for name, text in said.items())
    assert len(said) == 9
    differing = [
        path.name
        for path in sorted(by_hapi.glob("*.json.json"))
        if path.read_text("utf-8") != (by_hapi / path.name.replace(".json.json", ".xml.json")).read_text("utf-8")
    ]
    # In JSON it writes 1E-22 as 0.0000000000000000000001.
    assert differing == ["observation-decimal.json.json"]


def in_one_line(value: Any) -> Any:
    """Narratives as canonical XML with single spaces: HAPI writes them with less space in XML than in JSON."""
    if isinstance(value, dict):
        return {k: _one_line(infoset(v.encode())) if k == "div" else in_one_line(v) for k, v in value.items()}
    return [in_one_line(item) for item in value] if isinstance(value, list) else value


def _one_line(data: bytes) -> str:
    return " ".join(re.sub("[\\s\xa0]+", " ", re.sub("\\s*(<[^>]*>)\\s*", r" \1 ", data.decode())).split())


def test_we_read_in_the_xml_of_hapi_what_hapi_says_in_json(by_hapi: Path) -> None:
    paths = sorted(by_hapi.glob("*.xml.xml"))
    assert len(paths) == 745
    for path in paths:
        ours = from_xml(path.read_bytes())
        # Once more to XML and back: where only extensions repeat it writes an array of nulls beside them.
        theirs = from_xml(to_xml((by_hapi / path.name.replace(".xml.xml", ".xml.json")).read_bytes()))
        if path.name != "observation-decimal.xml.xml":
            assert in_one_line(codec.parse(ours)) == in_one_line(codec.parse(theirs)), path.name


def plain(value: Any, inside: bool = False) -> Any:
    """Without the ids of elements, which fhir.resources does not read in XML; narratives as canonical XML."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k != "id" or "resourceType" in value or not inside}
        return {k: plain(v, inside=True) if k != "div" else infoset(v.encode()) for k, v in kept.items()}
    return [plain(item, inside=True) for item in value] if isinstance(value, list) else value


def test_fhir_resources_reads_in_our_xml_what_it_reads_in_the_json(shared_data: Path) -> None:
    compared = 0
    for path in sorted((shared_data / "official-r4-examples-json").glob("*.json"))[::12]:
        text = path.read_text("utf-8")
        try:
            model = get_fhir_model_class(json.loads(text)["resourceType"])
            in_json = model.model_validate_json(text)
        except ValueError:  # what R4B has not, or has otherwise
            continue
        compared += 1
        in_xml = model.model_validate_xml(to_xml(text))
        assert plain(json.loads(in_xml.model_dump_json())) == plain(json.loads(in_json.model_dump_json())), path.name
    assert compared > 55
