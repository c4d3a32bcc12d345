"""Resources → the bytes of a FHIR package, which are the same for the same resources.

Source: https://confluence.hl7.org/display/FHIR/NPM+Package+Specification
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fhir_secondop.errors import Invalid

Resource = Mapping[str, Any]
CORE = {"hl7.fhir.r4.core": "4.0.1"}
_NAME = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9-]*)+")
_INDEXED = ("id", "url", "version", "kind", "type", "supplements", "content", "derivation")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What package.json says."""

    name: str
    version: str
    canonical: str
    title: str
    description: str
    author: str
    license: str

    def as_json(self) -> dict[str, Any]:
        """The file. Raises Invalid where the name is none that a registry or a loader takes."""
        if not _NAME.fullmatch(self.name):
            raise Invalid("A package's name has two parts or more, in small letters, with dots: org.example.profiles.")
        return {
            "name": self.name,
            "version": self.version,
            "type": "Conformance",
            "title": self.title,
            "description": self.description,
            "canonical": self.canonical,
            "author": self.author,
            "license": self.license,
            "fhirVersions": ["4.0.1"],
            "dependencies": CORE,
            "directories": {"lib": "package", "example": "example"},
        }


def build(manifest: Manifest, resources: Iterable[Resource], examples: Iterable[Resource]) -> bytes:
    """The .tgz: each resource under its type and id. Raises Invalid when two would have one name."""
    files = {"package/package.json": _text(manifest.as_json())}
    for folder, found in (("package", resources), ("package/example", examples)):
        by_name: dict[str, Resource] = {}
        for resource in found:
            name = f"{resource['resourceType']}-{resource['id']}.json"
            if name in by_name:
                raise Invalid(f"Two resources of the package are {resource['resourceType']}/{resource['id']}.")
            by_name[name] = resource
        files |= {f"{folder}/{name}": _text(resource) for name, resource in by_name.items()}
        files[f"{folder}/.index.json"] = _text(_index(by_name))
    return _packed(files)


def _index(by_name: Mapping[str, Resource]) -> dict[str, Any]:
    rows = [
        {"filename": name, "resourceType": each["resourceType"]}
        | {key: each[key] for key in _INDEXED if isinstance(each.get(key), str)}
        for name, each in sorted(by_name.items())
    ]
    return {"index-version": 2, "files": rows}


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _packed(files: Mapping[str, bytes]) -> bytes:
    """Sorted, without times, owners or the name of the archive: none of it belongs to what is packed."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        # The manifest stands first: a loader that streams knows what follows.
        for name in sorted(files, key=lambda each: (each != "package/package.json", each)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return packed.getvalue()
