"""HL7's verdicts: what it finds in each case, kept in a table so that Java need not run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.oracle import Finding

TABLE = Path(__file__).with_name("verdicts.tsv")
BASE = "http://hl7.org/fhir/StructureDefinition/"

# Message ids of HL7's validator that are not about R4's own rules, and why they do not count.
BEYOND = {
    "UCUM": "HAPI has the grammar of UCUM's units; R4 names UCUM, and its codes are not in R4's definitions",
    "IG_HL7_STANDARDS_STATUS_REQUIRED": "what HL7 asks of its own implementation guides",
    "IG_HL7_WG_REQUIRED": "what HL7 asks of its own implementation guides",
    "CODESYSTEM_CS_HL7_PRESENT_ELEMENT_SUPPL": "what HL7 asks of its own code systems",
    "CODESYSTEM_CS_HL7_PRESENT_ELEMENT_SUPPL_WRONG": "what HL7 asks of its own code systems",
    "ERROR_GENERATING_SNAPSHOT": "it wants to fetch HL7's package of R4 from the network",
    "MEASURE_M_CRITERIA_CQL_NO_LIB": "CQL libraries of Measures",
    "ED_SEARCH_EXPRESSION_ERROR": "it compiles the FHIRPath of SearchParameters",
    "SM_SOURCE_CONTEXT_UNKNOWN": "it runs the mapping language of StructureMaps",
    "SM_TARGET_CONTEXT_UNKNOWN": "it runs the mapping language of StructureMaps",
    "SM_TARGET_PATH_INVALID": "it runs the mapping language of StructureMaps",
}

# What it finds, and calls a warning or a hint unless told otherwise, where R4 says SHALL: these count as errors.
COUNTED = {
    "REFERENCE_REF_SUSPICIOUS": "a relative reference that is not [type]/[id], with or without a version: References"
    " SHALL be a reference to an actual FHIR resource",
    "UNICODE_XML_BAD_CHARS": "Strings SHALL NOT contain characters below 32 other than tab, line feed and return",
    "Extension_EXT_Unknown": "at modifierExtension alone: it is an error where unknown extensions are not all allowed",
}
_AT_MODIFIER = re.compile(r"modifierExtension\[\d+\]$")


@dataclass(frozen=True)
class Verdict:
    """What HL7's validator says of a case: the ids of its errors; or that it broke down and says nothing."""

    errors: tuple[str, ...]
    broke: bool = False

    @property
    def valid(self) -> bool:
        return not self.errors

    @property
    def word(self) -> str:
        return "broke" if self.broke else "valid" if self.valid else "invalid"


def of_findings(findings: Iterable[Finding]) -> Verdict:
    ids = dict.fromkeys(_id(finding) for finding in findings if finding.is_error or _is_counted(finding))
    # JSON that its parser refuses is a verdict, too; any other exception is none.
    broke = any(each.startswith("THROWN_") and each != "THROWN_JsonSyntaxException" for each in ids)
    return Verdict(tuple(sorted(each for each in ids if each not in BEYOND)), broke)


def _is_counted(finding: Finding) -> bool:
    is_extension = finding.id == "Extension_EXT_Unknown"
    return finding.id in COUNTED and (not is_extension or _AT_MODIFIER.search(finding.at) is not None)


def _id(finding: Finding) -> str:
    if finding.id == "Terminology_PassThrough_TX_Message" and finding.text.startswith("Error processing unit"):
        return "UCUM"
    # What it finds while it reads has a text alone.
    return finding.id.removeprefix(BASE) or "unnamed"


def read() -> tuple[str, dict[str, Verdict]]:
    """(version of the validator, hash of a case → verdict)."""
    first, *lines = TABLE.read_text("utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    found = {key: Verdict(tuple(ids.split(",")) if ids else (), word == "broke") for key, word, ids in rows}
    return first.removeprefix("# "), found


def write(version: str, verdicts: Mapping[str, Verdict]) -> None:
    lines = [f"{key}\t{verdict.word}\t{','.join(verdict.errors)}" for key, verdict in sorted(verdicts.items())]
    TABLE.write_text("\n".join([f"# {version}", *lines]) + "\n", "utf-8")
