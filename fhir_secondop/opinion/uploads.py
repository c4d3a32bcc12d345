"""A file that somebody sends: what it is by its content, and whom it is about, as far as it says.

Source: https://www.hl7.org/ccdasearch/ (recordTarget), and the signatures of each format
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Resource

MAX_BYTES = 50 * 1024 * 1024
CCDA = "application/hl7-cda+xml"
_SIGNATURES = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_HL7 = "{urn:hl7-org:v3}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a document says that it is about. Empty where it does not say."""

    family: str = ""
    given: str = ""
    birth_date: str = ""  # YYYY-MM-DD


def media_type(data: bytes) -> str:
    """The type of a file, by its first bytes: PDF, PNG, JPEG, TIFF or C-CDA. Raises Invalid of anything else."""
    if not data:
        raise Invalid("The file is empty.", path="file")
    if len(data) > MAX_BYTES:
        raise Invalid(f"The file has over {MAX_BYTES // 1024 // 1024} MB; send it in parts.", path="file")
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"<") and b"ClinicalDocument" in head:
        _document(data)
        return CCDA
    raise Invalid("This is no PDF, PNG, JPEG, TIFF or C-CDA document; send one of these.", path="file")


def identity(data: bytes, kind: str) -> Identity:
    """Whom a C-CDA document is about; other formats don't say it so that a machine could read it."""
    if kind != CCDA:
        return Identity()
    patient = _document(data).find(f".//{_HL7}recordTarget/{_HL7}patientRole/{_HL7}patient")
    if patient is None:
        raise Invalid("The C-CDA document names no patient (recordTarget).", path="file")
    born = patient.find(f"{_HL7}birthTime")
    digits = re.sub(r"\D", "", born.get("value", "") if born is not None else "")[:8]
    name = patient.find(f"{_HL7}name")
    return Identity(
        _text(name, "family"), _text(name, "given"),
        f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if len(digits) == 8 else "",
    )  # fmt: skip


def differs(found: Identity, patient: Resource) -> str:
    """In what a document's patient is not ours; "" when nothing says so."""
    if found.birth_date and patient.get("birthDate") and found.birth_date != patient["birthDate"]:
        return "date of birth"
    families = {n.get("family", "").casefold() for n in patient.get("name", [])}
    if found.family and families and found.family.casefold() not in families:
        return "family name"
    # Twins have the date of birth and the family name in common.
    given = {part for n in patient.get("name", []) for name in n.get("given", []) for part in _words(name)}
    if found.given and given and not given & set(_words(found.given)):
        return "given name"
    return ""


def _words(name: str) -> list[str]:
    return name.casefold().replace("-", " ").split()


def _text(parent: etree._Element | None, name: str) -> str:
    found = parent.find(f"{_HL7}{name}") if parent is not None else None
    return (found.text or "").strip() if found is not None else ""


def _document(data: bytes) -> etree._Element:
    """The root of an XML document without entities, DTD or network. Raises Invalid."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise Invalid(f"The document is not well-formed XML (line {error.lineno}).", path="file") from None
    if root.getroottree().docinfo.doctype:  # type: ignore[union-attr]
        raise Invalid("The document has a DOCTYPE; send it without.", path="file")
    if root.tag != f"{_HL7}ClinicalDocument":
        raise Invalid("The XML document is no C-CDA (ClinicalDocument).", path="file")
    return root
