"""HAPI HL7v2 (Java) reads all that we write, by its own rules, and sends to us with its own client."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fhir_secondop.ehr.hl7_documents import outgoing
from fhir_secondop.ehr.vendors import site
from fhir_secondop.model import Connection
from tests.ehr.conftest import document
from tests.interop.hapi_server import JVM, classpath
from tests.service.conftest import Bench, Listen, bench, listen
from tests.service.test_hl7_intake import EXAMPLES

__all__ = ["bench", "listen"]
pytestmark = pytest.mark.shared
PROJECT = Path(__file__).parent / "hl7v2"
THERE = Connection(
    "there", "", hl7="mllp://127.0.0.1:1", hl7_receiver="LAB & CO|LAKE^SIDE", hl7_authority="LKMRN|1.2.3|ISO",
    patient_system="https://lakeside.example/mrn",
)  # fmt: skip
PATIENT = {
    "resourceType": "Patient", "birthDate": "1971-04-17", "gender": "female",
    "identifier": [{"system": "https://lakeside.example/mrn", "value": "LK|77^310\\F\\"}],
    "name": [{"family": "Sampleton & Söhne", "given": ["Maren~", "Elise", "張"]}],
}  # fmt: skip
# Not a literal \\.br\\: HAPI reads it rightly, and writes it as a line break.
LINES = ["SECOND OPINION", "", "a|b^c&d~e\\f \\F\\ \\E\\ 5 < 7", "  indented, µg and 10⁹", "Umlauts: äöü 張"]
Hapi = Callable[..., str]


@pytest.fixture(scope="session")
def hapi() -> Hapi:
    """hapi("read", IN, OUT) → what it printed."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HAPI needs Java 17 and Maven")
    command = ["java", *JVM, "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", classpath(PROJECT),
               "secondop.interop.HapiV2"]  # fmt: skip

    def run(*arguments: object) -> str:
        done = subprocess.run([*command, *map(str, arguments)], capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return done.stdout.decode()

    return run


def messages() -> Iterator[tuple[str, str, bytes]]:
    """Name, structure and bytes of one of each kind that we write."""
    case = "0f0c0f0c-0f0c-4f0c-8f0c-0f0c0f0c0f0c"
    first = replace(document(1, case=case), text="\n".join(LINES), signed=b"signed", signature="s")
    second = replace(document(2, case=case), text="\n".join(LINES))
    amended = replace(second, report={"status": "amended"})
    retracted = replace(second, doc_status="entered-in-error", labels=({"code": "R"},))
    held = (first.version_id,)
    for kind in ("mdm", "oru"):
        connection = replace(THERE, hl7_kind=kind)
        for name, made, carried in (
            ("first", first, ()), ("amended", amended, held), ("appended", second, held),
            ("retracted", retracted, held),
        ):  # fmt: skip
            found = outgoing(made, PATIENT, connection, site(connection), carried)
            structure = "ORU_R01" if kind == "oru" else "MDM_T01" if name == "retracted" else "MDM_T02"
            yield f"{kind}-{name}", structure, found.data


def test_it_reads_what_we_write_to_the_letter(hapi: Hapi, tmp_path: Path) -> None:
    sent, read = tmp_path / "sent", tmp_path / "read"
    sent.mkdir()
    read.mkdir()
    for name, _, data in messages():
        (sent / f"{name}.hl7").write_bytes(data)
    hapi("read", sent, read)
    for name, structure, data in messages():
        error = read / f"{name}.hl7.error"
        assert not error.exists(), f"{name}: {error.read_text()}"
        kind, _, text = (read / f"{name}.hl7.out").read_bytes().decode().partition("\r")
        assert kind == structure
        assert text.rstrip("\r") == data.decode().rstrip("\r")
    assert base64.b64decode(data.decode().split("^Base64^")[1].split("|")[0]).startswith(b"%PDF")


@pytest.mark.parametrize(
    ("name", "structure", "segment"),
    [("ref-i12", "RRI_I12", "RF1|P||||| RS-2026-0117"), ("omg-o19", "ORG_O20", "ORC|OK|RS-2026-0118")],
)
def test_its_client_sends_to_us_and_reads_our_answer(
    name: str, structure: str, segment: str, hapi: Hapi, bench: Bench, listen: Listen
) -> None:
    said = hapi("send", listen().port, EXAMPLES / f"{name}.hl7")
    kind, _, answer = said.partition("\r")
    assert kind == structure
    assert "\rMSA|AA|" in answer
    assert segment.replace(" ", "") in answer


def test_a_refusal_is_read_too(hapi: Hapi, bench: Bench, listen: Listen, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.hl7"
    wrong.write_text((EXAMPLES / "ref-i12.hl7").read_text("utf-8").replace("|19710417|", "||"), "utf-8")
    kind, _, answer = hapi("send", listen().port, wrong).partition("\r")
    assert kind == "ACK"
    assert "\rERR||PID^1^7|101^Required field missing^HL70357|E||||Send the date of birth." in answer
