"""The case's page says of each version whether its signature holds, and gives the signed bytes away as they are."""

from __future__ import annotations

import re

from fhir_secondop.opinion import signature
from fhir_secondop.service import sealing
from tests.service.test_sealing import edit
from tests.web.pages.conftest import Clinic, words_of


def test_the_page_says_who_signed_each_version_when_and_whether_it_holds(clinic: Clinic) -> None:
    case_id = clinic.world.signed()
    clinic.world.amend(case_id)
    for who in ("desk", "reviewer", "pcp", "surgeon"):
        page = clinic.get(f"/cases/{case_id}", who=who).get_data(as_text=True)
        part = page[page.index('id="signatures"') : page.index('id="deliveries"')]
        said = " ".join(re.sub(r"<[^>]+>", " ", part).split())
        assert said.index("Version 2") < said.index("Version 1")
        assert said.count("Dr. Clara Standin") == said.count("verified") == 2
        key = sealing.verify(clinic.world.context, clinic.world.caller("desk"), case_id, {})["key"]["kid"]
        assert key[:12] in said
    edit(clinic.world, "Provenance", sealing.provenance_id(case_id, 1), lambda p: p.pop("signature"))
    said = words_of(clinic.get(f"/cases/{case_id}", who="desk"))
    assert "does not hold" in said
    assert "it has no signature" in said


def test_a_case_without_a_signed_report_has_no_such_part(clinic: Clinic) -> None:
    case_id = clinic.world.gathered()
    assert 'id="signatures"' not in clinic.get(f"/cases/{case_id}", who="desk").get_data(as_text=True)


def test_what_the_page_links_to_verifies_elsewhere(clinic: Clinic) -> None:
    case_id = clinic.world.signed()
    page = clinic.get(f"/cases/{case_id}", who="pcp").get_data(as_text=True)
    links = re.findall(r'href="(/cases/[^"]+/report\.(?:json|jws)|/\.well-known/document-keys\.json)"', page)
    data, jws, keys = (clinic.get(link, who="pcp") for link in links)
    for file in (data, jws):
        assert file.headers["Content-Disposition"] == "attachment"
        assert "sandbox" in file.headers["Content-Security-Policy"]
        assert file.headers["Cache-Control"] == "no-store"
    assert signature.examine(data.get_data(), jws.get_data(as_text=True), keys.get_json()).holds
    for link in links[:2]:
        assert clinic.get(link, who="stranger").status_code == 404
        assert clinic.get(link.replace("/signed/1/", "/signed/2/"), who="pcp").status_code == 404


def test_who_gets_a_link_can_verify_too_until_it_is_used(clinic: Clinic) -> None:
    world = clinic.world
    case_id = world.signed()
    world.work()
    link = next(d for d in world.deliveries(case_id) if d["evidence"].get("rung") == "10")
    url = world.post(case_id, "cover-sheet", {"task": link["task"]})["url"]
    path = url[url.index("/ack/") :]
    shown = world.client.get(path).get_data(as_text=True)
    data, jws = (world.client.get(f"{path}/{name}") for name in ("report.json", "report.jws"))
    assert f'href="{path}/report.json"' in shown
    assert f'href="{path}/report.jws"' in shown
    keys = world.client.get("/.well-known/document-keys.json").get_json()
    assert signature.examine(data.get_data(), jws.get_data(as_text=True), keys).holds
    world.client.post(path, data={"name": "Pia Placeholder", "role": "Physiotherapist"})
    for name in ("report.json", "report.jws"):
        assert world.client.get(f"{path}/{name}").status_code == 409
