"""Files that are two things at once, and forms that are none: taken for what their first bytes say, or refused."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import pytest

from fhir_secondop.errors import Invalid
from fhir_secondop.opinion import uploads
from fhir_secondop.web.inbound import MAX_FORM_BYTES, MAX_FORM_PARTS
from tests.service.test_asking import BORN, PDF, asked, ccda, documents, link_of, send, world
from tests.service.world import World

__all__ = ["world"]  # the fixture
HTML = b"<html><script>alert(1)</script></html>"


def zipped(before: bytes = b"") -> bytes:
    packed = io.BytesIO()
    packed.write(before)
    with zipfile.ZipFile(packed, "a") as file:
        file.writestr("a.txt", "a")
    return packed.getvalue()


# What it is → what it is taken for; "" where it is refused.
FILES: dict[str, tuple[bytes, str]] = {
    "PDF and HTML": (b"%PDF-1.7\n" + HTML, "application/pdf"),
    "PDF and a zip": (zipped(PDF), "application/pdf"),
    "PDF and C-CDA": (PDF + ccda(), "application/pdf"),
    "PNG and HTML": (b"\x89PNG\r\n\x1a\n" + HTML, "image/png"),
    "JPEG and PHP": (b"\xff\xd8\xff<?php echo 1; ?>", "image/jpeg"),
    "TIFF and a program": (b"II*\x00MZ\x90\x00", "image/tiff"),
    "HTML and PDF": (HTML + PDF, ""),
    "a zip and PDF": (zipped() + PDF, ""),
    "GIF and PDF": (b"GIF89a" + PDF, ""),
    "space before PDF": (b"\n" + PDF, ""),
    "byte order mark before PDF": (b"\xef\xbb\xbf" + PDF, ""),
    "PDF in small letters": (PDF.lower(), ""),
    "half a PNG": (b"\x89PNG\r\n", ""),
    "PNG through a text converter": (b"\x89PNG\n\x1a\n", ""),
    "SVG with a script": (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", ""),
    "SVG that names ClinicalDocument": (b"<svg xmlns='urn:hl7-org:v3'><ClinicalDocument/></svg>", ""),
    "XHTML in C-CDA's namespace": (b"<html xmlns='urn:hl7-org:v3'>ClinicalDocument</html>", ""),
    "C-CDA in UTF-16": (ccda().decode().replace("UTF-8", "UTF-16").encode("utf-16"), ""),
    "C-CDA with a stylesheet": (ccda(head="<?xml-stylesheet href='http://elsewhere.example/x.xsl'?>"), uploads.CCDA),
    "C-CDA with an external entity": (ccda(head="<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"), ""),
    "C-CDA with a remote DTD": (ccda(head="<!DOCTYPE x SYSTEM 'http://elsewhere.example/x.dtd'>"), ""),
    "C-CDA with a parameter entity": (ccda(head="<!DOCTYPE x [<!ENTITY % p SYSTEM 'http://e.example/'> %p;]>"), ""),
    "C-CDA of a billion laughs": (ccda(family="&z;", head="<!DOCTYPE x [<!ENTITY a 'ha'>" + "".join(
        f"<!ENTITY {c} '{f'&{p};' * 10}'>" for p, c in zip("abcdefgh", "bcdefghz", strict=True)) + "]>"), ""),
    "C-CDA of 100,000 levels": (ccda(family="<a>" * 100_000 + "</a>" * 100_000), ""),
    "C-CDA and HTML": (ccda() + HTML, ""),
    "C-CDA that begins late": (b" " * 5000 + ccda(), ""),
    "DICOM": (b"\0" * 128 + b"DICM", ""),
    "RTF": (b"{\\rtf1 hello}", ""),
    "Word": (zipped(), ""),
    "a program": (b"\x7fELF", ""),
    "gzip": (b"\x1f\x8b\x08\x00", ""),
    "JSON": (b'{"resourceType":"Patient"}', ""),
    "NUL": (b"\0", ""),
    "nothing": (b"", ""),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind"), FILES.values(), ids=FILES.keys())
def test_a_file_is_what_its_first_bytes_say(data: bytes, kind: str) -> None:
    if kind:
        assert uploads.media_type(data) == kind
    else:
        with pytest.raises(Invalid):
            uploads.media_type(data)


def test_what_the_sender_calls_it_changes_nothing(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    for name in ("x.html", "../../etc/passwd", "x.svg\0.pdf", "x" * 5000 + ".js"):
        form = {"file": (io.BytesIO(HTML), name, "application/pdf"), "birthDate": BORN, "name": "A. Clerk"}
        assert post(world, link, form).status_code == 422
    form = {"file": (io.BytesIO(PDF), "../x.html", "text/html"), "birthDate": BORN, "name": "A. Clerk"}
    assert post(world, link, form).status_code == 200
    (document,) = documents(world, case_id)
    assert document["content"][0]["attachment"]["contentType"] == "application/pdf"
    assert "x.html" not in str(document)


def post(world: World, link: str, form: Any, kind: str = "multipart/form-data") -> Any:
    return world.client.application.test_client().post(link, data=form, content_type=kind)


def fields(count: int, size: int = 1) -> dict[str, Any]:
    more = {f"field{n}": "x" * size for n in range(count)}
    return {**more, "file": (io.BytesIO(PDF), "x.pdf"), "birthDate": BORN, "name": "A. Clerk"}


FORMS: dict[str, tuple[Any, str, int]] = {
    "too many fields": (fields(MAX_FORM_PARTS - 2), "multipart/form-data", 413),
    "100,000 fields": (b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 100_000,
                       "multipart/form-data; boundary=b", 413),
    "a field too large": (fields(1, MAX_FORM_BYTES + 1), "multipart/form-data", 413),
    "a header too large": (b"--b\r\nX: " + b"x" * 500_000, "multipart/form-data; boundary=b", 413),
    "no boundary": (b"--b\r\n\r\n--b--", "multipart/form-data", 422),
    "a boundary that never comes": (b"x" * 200_000, "multipart/form-data; boundary=b", 422),
    "cut off": (b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.pdf"\r\n\r\n' + PDF,
                "multipart/form-data; boundary=b", 422),
    "a file as a field": ({"file": PDF.decode(), "birthDate": BORN, "name": "A"}, "multipart/form-data", 422),
    "the file of a form as JSON": (b'{"file":"x"}', "application/json", 422),
    "NUL in a name": ({"file": (io.BytesIO(PDF), "x.pdf"), "birthDate": BORN, "name": "A\0"},
                      "multipart/form-data", 400),
    "nothing": (b"", "multipart/form-data; boundary=b", 422),
}  # fmt: skip


def test_a_form_that_is_none_is_refused_and_the_link_stays_open(world: World) -> None:
    case_id = world.gathered()
    link = link_of(world, case_id)
    for name, (form, kind, status) in FORMS.items():
        answer = post(world, link, form, kind)
        assert (name, answer.status_code) == (name, status)
        assert answer.mimetype == "text/html"
    assert asked(world, case_id)["images"]["status"] == "requested"
    assert post(world, link, fields(MAX_FORM_PARTS - 3, MAX_FORM_BYTES)).status_code == 200


def test_a_stranger_sends_no_file(world: World) -> None:
    read = []

    class Body(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            read.append(size)
            return super().read(size)

    answer = world.client.application.test_client().post(
        "/upload/made-up",
        input_stream=Body(PDF),
        content_type="multipart/form-data; boundary=b",
        content_length=len(PDF),
    )
    assert answer.status_code == 404
    assert read == []
    assert send(world, "/upload/made-up", PDF).status_code == 404
