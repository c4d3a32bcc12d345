"""Starts HL7's validator in its own HTTP mode (Java, from its published artifacts; see oracle/README.md).

It listens on every interface of this machine, and asks nobody: all that it reads is in a package cache made here.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from lxml import etree

from fhir_secondop.fhir.xml import from_xml
from tests.conftest import free_port
from tests.interop.hapi_server import classpath

PROJECT = Path(__file__).parent / "oracle"
MAIN = "secondop.interop.ValidatorServer"
_FHIR = "http://hl7.org/fhir"
JVM = ("-Xmx2g", "-Xss8m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CORE = ("structuredefinitions-4.0.1", "extension-definitions", "valuesets", "v2-tables", "v3-codesystems",
         "conceptmaps", "search-parameters", "compartmentdefinitions")  # fmt: skip
_EMPTY = {"hl7.terminology": "6.2.0", "hl7.terminology.r4": "6.2.0", "hl7.fhir.uv.extensions": "5.2.0",
          "hl7.fhir.uv.extensions.r4": "5.2.0", "hl7.fhir.xver-extensions": "0.1.0"}  # fmt: skip


def guide(data: Path, name: str, folder: Path) -> Path:
    """The definitions of a guide's package, in a folder: without the packages that it depends on, which aren't here."""
    with tarfile.open(data / "r4-definitions" / f"{name}.tgz") as archive:
        archive.extractall(folder / name, filter="data")
    for own in ("package.json", ".index.json"):  # else they would be taken for resources
        (folder / name / "package" / own).unlink(missing_ok=True)
    return folder / name / "package"


def vital_signs(folder: Path) -> Path:
    """R4's profiles of vital signs, in a folder: a jar of the validator has them, our definitions are without."""
    [jar] = [each for each in classpath(PROJECT).split(os.pathsep) if "hapi-fhir-validation-resources-r4-" in each]
    with zipfile.ZipFile(jar) as archive:
        root = etree.fromstring(archive.read("org/hl7/fhir/r4/model/profile/profiles-others.xml"))
    (folder / "vital-signs").mkdir()
    for found in root.iter(f"{{{_FHIR}}}StructureDefinition"):
        base = found.find(f"{{{_FHIR}}}baseDefinition")
        name = found.find(f"{{{_FHIR}}}id")
        assert name is not None
        if name.get("value") == "vitalsigns" or (base is not None and str(base.get("value")).endswith("/vitalsigns")):
            text = from_xml(etree.tostring(found))
            (folder / "vital-signs" / f"StructureDefinition-{name.get('value')}.json").write_text(text)
    return folder / "vital-signs"


@dataclass(frozen=True)
class Running:
    """The validator: its address, and its process, to be stopped or held up."""

    base: str
    process: subprocess.Popen[bytes]


@contextmanager
def hl7_server(data: Path, folder: Path, guides: list[Path]) -> Iterator[Running]:
    """The validator with R4 and those guides; skips where Java or Maven is missing."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HL7's validator needs Java 17 and Maven")
    home = folder / "home"
    _package_cache(data, home / ".fhir" / "packages")
    port = free_port()
    command = ["java", *JVM, f"-Duser.home={home}", "-cp", classpath(PROJECT), MAIN, str(port), *map(str, guides)]
    with open(folder / "hl7.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _wait(f"http://127.0.0.1:{port}/validateResource", process)
        yield Running(f"http://127.0.0.1:{port}", process)
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], timeout_s: float = 240.0) -> None:
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        assert process.poll() is None, f"HL7's validator ended with {process.returncode}"
        try:
            requests.post(url, json={"resourceType": "Basic", "code": {"text": "Question"}}, timeout=120)
        except requests.ConnectionError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(f"HL7's validator did not start in {timeout_s} s")


def definitions(data: Path, name: str) -> list[Any]:
    """The resources of one of R4's files of definitions."""
    text = lzma.decompress((data / "r4-definitions" / f"{name}.json.xz").read_bytes())
    return [entry["resource"] for entry in json.loads(text)["entry"]]


def _package_cache(data: Path, cache: Path) -> None:
    """What HL7's program fetches when it first starts: R4's definitions; the other packages are empty here."""
    resources: dict[str, Any] = {}
    for name in _CORE:
        for each in definitions(data, name):
            resources[f"{each['resourceType']}-{each['id']}.json"] = each
    _package(cache, "hl7.fhir.r4.core", "4.0.1", resources)
    for name, version in _EMPTY.items():
        _package(cache, name, version, {})
    (cache / "packages.ini").write_text("[cache]\nversion = 3\n")


def _package(cache: Path, name: str, version: str, resources: dict[str, Any]) -> None:
    folder = cache / f"{name}#{version}" / "package"
    folder.mkdir(parents=True)
    manifest = {"name": name, "version": version, "fhirVersions": ["4.0.1"], "type": "Core", "dependencies": {}}
    for file, content in {"package.json": manifest, **resources}.items():
        (folder / file).write_text(json.dumps(content))
