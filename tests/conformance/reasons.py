"""Why a verdict of ours differs from HL7's, where that is known and meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fhir_secondop.errors import Issue
from tests.conformance.cases import Case
from tests.conformance.verdicts import Verdict

Test = Callable[[Case, Verdict, Sequence[Issue]], bool]


@dataclass(frozen=True)
class Reason:
    """`side`: whose verdict we hold to be right, "ours" or "HL7's"; `text` says why, with the paragraph."""

    name: str
    side: str
    text: str
    holds: Test


def only_ours(said: str, *made: str) -> Test:
    """We alone refuse it, and each of our issues says so; `made`: how the case is made, if that matters."""

    def holds(case: Case, theirs: Verdict, issues: Sequence[Issue]) -> bool:
        return (
            theirs.valid
            and all(said in issue.diagnostics for issue in issues)
            and (not made or case.name.startswith(made))
        )

    return holds


def only_theirs(*errors: str, made: tuple[str, ...] = ()) -> Test:
    """HL7's validator alone refuses it, for no other errors than these."""

    def holds(case: Case, theirs: Verdict, issues: Sequence[Issue]) -> bool:
        return not issues and set(theirs.errors) <= set(errors) and (not made or case.name.startswith(made))

    return holds


R4 = "https://hl7.org/fhir/R4/"

REASONS = [
    Reason(
        "a modifier extension that is not known", "ours",
        f"It may turn the meaning of the rest around, and who doesn't understand it SHALL NOT process the element"
        f" ({R4}extensibility.html#modifierExtension). HL7's validator is told that example.org's are known.",
        only_ours("is a modifier extension that is not known here"),
    ),
    Reason(
        "a vertical tab, and half of a surrogate pair, in a text", "ours",
        f"Strings SHALL NOT contain characters below 32 other than tab, line feed and carriage return"
        f" ({R4}datatypes.html#string), which HL7's validator says of others; half of a surrogate pair is no Unicode.",
        only_ours("", "syntax: string", "syntax: markdown"),
    ),
    Reason(
        "a narrative that is not well-formed XML", "ours",
        f"The div SHALL be valid XHTML ({R4}narrative.html#xhtml). HL7's reader takes text after the div, a second div,"
        " an attribute twice or without quotes, and control characters.",
        only_ours("must be well-formed XML", "narrative / "),
    ),
    Reason(
        "a narrative with a DOCTYPE or a processing instruction", "ours",
        f"XHTML in FHIR has neither ({R4}narrative.html#xhtml); in XML they are how entities are smuggled in.",
        only_ours("must not have", "narrative / doctype", "narrative / entity",
                  "harmless: narrative / processing instruction"),
    ),
    Reason(
        "an empty array of primitives", "ours",
        f"Arrays can't be empty ({R4}json.html). HL7's validator says so of arrays of objects only.",
        only_ours("must not be an empty array"),
    ),
    Reason(
        "values and their extensions in arrays of different length", "ours",
        f"null fills out both arrays, so that they are aligned ({R4}json.html#primitive). HL7's validator reads what is"
        " not there as null.",
        only_ours("must be arrays of the same length", "test case / patient-name-extensions"),
    ),
    Reason(
        "a line end in a JSON string", "ours",
        "RFC 8259, section 7: control characters are escaped.",
        only_ours("Invalid control character", "JSON / line end"),
    ),
    Reason(
        "resourceType twice in one object", "ours",
        f"Names are unique in an object ({R4}json.html). HL7's validator finds others twice.",
        only_ours("stands twice in one JSON object"),
    ),
    Reason(
        "a date, code, URI or id of spaces alone", "ours",
        f"None of these types may be white space ({R4}datatypes.html#primitive); HL7's validator reads it as nothing.",
        only_ours("must be a", "harmless: other value / spaces"),
    ),
    Reason(
        "a short object identifier", "ours",
        f"urn:oid:1.2.3 and urn:oid:2.999 have the syntax of R4 ({R4}datatypes.html#oid); HL7's validator wants more.",
        only_theirs("Type_Specific_Checks_DT_OID_Valid"),
    ),
    Reason(
        "a time with a fraction of a second", "ours",
        f"R4's syntax has it ({R4}datatypes.html#time); HL7's validator refuses six digits.",
        only_theirs("Type_Specific_Checks_DT_Time_Valid", made=("harmless: other value / time",)),
    ),
    Reason(
        "base64 with spaces", "ours",
        f"R4's syntax has white space between the characters ({R4}datatypes.html#base64Binary).",
        only_theirs("TYPE_SPECIFIC_CHECKS_DT_ATT_B64_DECODE_FAIL"),
    ),
    Reason(
        "a range whose ends have units that can't be compared", "ours",
        f"rng-2 compares; what it can't compare it can't find wrong ({R4}datatypes.html#Range). HL7's validator throws"
        " an exception inside, and says that the rule is broken.",
        only_theirs("Range#rng-2", made=("harmless: near an invariant / range",)),
    ),
    Reason(
        "moments of different precision", "ours",
        f"The end of a Period includes any moment in it: 2024-02 is not before 2024-02-10 ({R4}datatypes.html#Period)."
        " FHIRPath compares neither, and HL7's validator takes that for a broken rule; R5 has mended the rule (per-1"
        " compares the first moment of the start with the last of the end).",
        only_theirs("Period#per-1", "Task#inv-1", made=("harmless: near an invariant / period, end less exact",
                    "harmless: near an invariant / period, start less exact",
                    "harmless: near an invariant / period, date and time",
                    "harmless: near an invariant / modified, less exact")),
    ),
    Reason(
        "a narrative whose text is in a CDATA section", "ours",
        "CDATA is text (XML 1.0, section 2.7); HL7's validator finds the div empty.",
        only_theirs("Narrative#txt-2", made=("harmless: narrative / cdata",)),
    ),
    Reason(
        "minus zero", "ours",
        "-0 = 0; HL7's validator compares the texts.",
        only_theirs("MolecularSequence#msq-3", made=("harmless: other value / integer -0",)),
    ),
    Reason(
        "a resource of nothing but its type in an entry", "ours",
        "It is there (bdl-5), and by itself HL7's validator finds it valid.",
        only_theirs("Bundle#bdl-5", made=("harmless: bundle / resource of a type alone",)),
    ),
    Reason(
        "the system of a code or identifier with another scheme", "ours",
        f"R4 wants an absolute URI ({R4}datatypes.html#Identifier), of whatever scheme; HL7's validator wants http,"
        " https or urn.",
        only_theirs("Type_Specific_Checks_DT_Identifier_System", "Terminology_TX_System_Relative",
                    made=("harmless: other value / uri mailto:",)),
    ),
    Reason(
        "a system without a scheme", "ours",
        f"It is no absolute URI ({R4}datatypes.html#Coding). HL7's validator refuses others; here the concept"
        " has another coding.",
        only_ours("must be an absolute URI", "harmless: other value / uri x"),
    ),
    Reason(
        "a link to the next page in a Bundle that is no search result", "ours",
        f"Bundle.link may have any relation of IANA's ({R4}bundle-definitions.html#Bundle.link); that these four are of"
        " searches alone is said in R5.",
        only_theirs("BUNDLE_LINK_SEARCH_PROHIBITED"),
    ),
    Reason(
        "a relative reference in an entry whose fullUrl is a urn:, and another entry of that type and id", "HL7's",
        f"It can't be resolved from there ({R4}bundle.html#references). We say so of what a Composition and a"
        " MessageHeader refer to, not yet of the other entries.",
        only_theirs("BUNDLE_BUNDLE_ENTRY_NOTFOUND_CANNOT"),
    ),
    Reason(
        "a code that R4's copy of a system at terminology.hl7.org does not have", "ours",
        f"A code is one of its system ({R4}datatypes.html#Coding), but R4's copies are of 2019, and the systems grow:"
        " we warn, and refuse it where another one is there that differs in case alone. HL7's validator knows nothing"
        " newer here either.",
        only_theirs("Terminology_PassThrough_TX_Message", made=("code: of its system / ", "medicationdispense0301",
                                                               "test case / examples/medicationdispense0301")),
    ),
    Reason(
        "a language that is not among the common ones", "ours",
        f"fr-LU is a language by BCP-47, which Resource.language takes; the common ones are preferred"
        f" ({R4}resource-definitions.html#Resource.language).",
        only_theirs("Terminology_PassThrough_TX_Message", made=("ips-1.1.0 / Immunization-75680",)),
    ),
    Reason(
        "a link to a place that is not in the narrative", "ours",
        f"R4 says what a link in a narrative may be, not that it leads somewhere ({R4}narrative.html#xhtml). HL7's"
        " publisher itself makes such links, of resources cut from a page.",
        only_theirs("Type_Specific_Checks_DT_XHTML_Resolve"),
    ),
    Reason(
        "two codings, one of which is in the value set", "ours",
        f"One of the codings SHALL be from it ({R4}terminologies.html#required). HAPI refuses the concept when another"
        " coding is of a system that it does not have (LOINC).",
        only_theirs("Terminology_TX_NoValid_1_CC", made=("composed by us",)),
    ),
    Reason(
        "vital signs without what their profile wants", "HL7's",
        f"Who supports vital signs SHALL conform to R4's profile ({R4}observation-vitalsigns.html), and HL7's validator"
        " demands it of each Observation with one of some 100 codes of LOINC and SNOMED CT, most of which R4 doesn't"
        " name. We ship no codes of either, and refuse no record of another system for lack of a category. (In three"
        " cases it takes a text for a unit, and refuses that.)",
        only_theirs(
            "vitalsigns#vs-1", "vitalsigns#vs-2", "vitalsigns#vs-3", "Validation_VAL_Profile_Minimum",
            "Validation_VAL_Profile_Minimum_SLICE", "Terminology_TX_NoValid_16", "Terminology_PassThrough_TX_Message",
            made=("element left out / optional / observation-example", "harmless: other value / dateTime",
                  "harmless: near an invariant / component of", "code: of its system / "),
        ),
    ),
    Reason(
        "rules about definitions", "HL7's",
        "StructureDefinitions, CodeSystems and ValueSets have rules beyond R4's invariants; we read none but our own.",
        only_theirs("SD_CONSTRAINED_KIND_NO_MATCH", "SD_DERIVATION_KIND_MISMATCH",
                    "CODESYSTEM_CS_COUNT_SUPPLEMENT_WRONG",
                    "VALUESET_INCLUDE_SYSTEM_ABSOLUTE_FRAG"),
    ),
    Reason(
        "the hash of an attachment", "HL7's",
        f"It computes the SHA-1 of the data ({R4}datatypes.html#Attachment); in the one example it is written in"
        " hexadecimal.",
        only_theirs("TYPE_SPECIFIC_CHECKS_DT_ATT_HASH_MISMATCH"),
    ),
]  # fmt: skip


def reason_of(case: Case, theirs: Verdict, issues: Sequence[Issue]) -> Reason | None:
    """The first reason that holds."""
    return next((reason for reason in REASONS if reason.holds(case, theirs, issues)), None)
