"""A signed report: its bytes are kept, served and delivered as they were signed; what does not hold does not leave."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.ehr import document_keys, keys
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, times, validate
from fhir_secondop.model import Resource
from fhir_secondop.opinion import signature
from fhir_secondop.sandbox.traffic import Asked
from fhir_secondop.service import sealing, signing
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store import tables
from tests.service.world import World, opened, refusal

Plain = dict[str, Any]
Edit = Callable[[Plain], None]


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def verified(world: World, case_id: str, version: int = 0, who: str = "desk") -> Plain:
    answer = world.call("GET", f"/api/second-opinions/{case_id}/verify" + (f"?version={version}" if version else ""),
                        who=who)  # fmt: skip
    assert answer.status_code == 200, answer.get_data(as_text=True)
    plain: Plain = answer.get_json()
    return plain


def signed_bytes(world: World, said: Plain, who: str = "desk") -> bytes:
    asked = {"Authorization": f"Bearer {who}", "Accept": "application/octet-stream"}
    answer = world.client.get(f"/fhir/{said['document']['binary']}", headers=asked)
    assert (answer.status_code, answer.content_type) == (200, "application/fhir+json")
    data: bytes = answer.get_data()
    return data


def edit(world: World, kind: str, resource_id: str, change: Edit) -> None:
    """Somebody changes a row of the database, past the program: the newest version of a resource."""
    resource, version = tables.resource.c, tables.version.c
    with world.context.database.transaction(SERVICE) as tx:
        connection = tx.connection
        both = sa.join(tables.resource, tables.version, version.rid == resource.rid)
        newest = sa.select(version.body, version.rid, version.version).select_from(both).where(
            resource.type == kind, resource.id == resource_id, version.version == resource.version
        )  # fmt: skip
        found = connection.execute(newest).one()
        plain = json.loads(found.body)
        change(plain)
        body = codec.compose(plain)
        where = sa.and_(version.rid == found.rid, version.version == found.version)
        connection.execute(sa.update(tables.version).where(where).values(body=body.text, cut=body.cut))


def remove(world: World, kind: str, resource_id: str) -> None:
    resource = tables.resource.c
    which = sa.and_(resource.type == kind, resource.id == resource_id)
    rid = sa.select(resource.rid).where(which).scalar_subquery()
    with world.context.database.transaction(SERVICE) as tx:
        tx.connection.execute(sa.update(tables.version).where(tables.version.c.rid == rid).values(deleted=True))
        tx.connection.execute(sa.update(tables.resource).where(which).values(deleted=True))


def located(world: World, case_id: str) -> list[Plain]:
    """The deliveries whose copy is at an EHR."""
    found = [d for d in world.deliveries(case_id) if d["evidence"].get("location")]
    assert found
    return found


def now_s(world: World) -> int:
    return world.clock() // 1000


# ---- what is signed -------------------------------------------------------------------------------------------


def test_the_kept_bytes_are_the_bundle_but_for_its_meta(world: World) -> None:
    case_id = world.signed()
    said = verified(world, case_id)
    data = signed_bytes(world, said)
    document = json.loads(data)
    stored = world.call("GET", f"/fhir/{said['document']['bundle']}").get_json()
    assert {"versionId", "lastUpdated"} <= set(stored["meta"])
    assert set(document["meta"]) == {"profile"}
    assert document["id"] == stored["id"]
    assert document["identifier"] == stored["identifier"]
    assert document["identifier"]["value"].startswith("urn:uuid:")
    assert {**document, "meta": 0} == {**stored, "meta": 0}
    # And as text: a number's digits, the order of members and spaces are the same.
    whole = world.call("GET", f"/fhir/{said['document']['bundle']}").get_data(as_text=True)
    assert codec.body(data.decode()) == codec.body(whole)
    assert (said["document"]["size"], said["document"]["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_the_provenance_carries_the_signature_as_fhir_has_it(world: World) -> None:
    case_id = world.gathered()
    world.accept(case_id)
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    proved = replace(world.caller("reviewer"), auth_time="2026-03-04T05:06:07Z")
    signing.sign(world.context, proved, case_id, {})
    (made,) = [p for p in world.package(case_id, "Provenance") if "signature" in p]
    (mark,) = made["signature"]
    said = verified(world, case_id)
    assert mark["type"] == [{"system": "urn:iso-astm:E1762-95:2013", "code": "1.2.840.10065.1.12.1.1",
                             "display": "Author's Signature"}]  # fmt: skip
    assert (mark["targetFormat"], mark["sigFormat"]) == ("application/fhir+json", "application/jose")
    assert mark["who"]["reference"] == said["signer"]["reference"]
    assert times.interval(mark["when"]).low == times.interval(said["signedAt"]).low
    assert {said["document"]["binary"], said["document"]["bundle"]} < {t["reference"] for t in made["target"]}
    head, payload, value = base64.b64decode(mark["data"]).decode().split(".")
    assert payload == ""
    assert value
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    assert header == {
        "alg": "ES384", "kid": said["key"]["kid"], "cty": "fhir+json", "iss": world.context.public_url,
        "sub": f"{world.context.base_url}/{said['signer']['reference']}", "iat": header["iat"],
        "auth_time": 1772600767,
    }  # fmt: skip
    assert said["authenticatedAt"] == "2026-03-04T05:06:07.000Z"
    assert said["signer"]["name"] == "Dr. Clara Standin"
    assert [i for i in validate.validate(made) if i.severity == "error"] == []


def test_every_version_is_signed_and_goes_on_to_verify(world: World) -> None:
    case_id = world.signed()
    kinds = ["final"]
    for kind in ("amended", "corrected", "appended", "entered-in-error"):
        world.amend(case_id, kind)
        kinds.append(kind)
    seen = set()
    for version, kind in enumerate(kinds, 1):
        said = verified(world, case_id, version)
        assert (said["holds"], said["signature"], said["bytes"], said["faults"]) == (True, True, True, [])
        contents = [e["resource"] for e in json.loads(signed_bytes(world, said))["entry"]]
        assert [r["status"] for r in contents if r["resourceType"] == "DiagnosticReport"] == [kind]
        seen.add(said["document"]["sha256"])
    assert len(seen) == len(kinds)
    assert verified(world, case_id)["version"] == len(kinds)


def test_who_sees_the_report_sees_its_signature_and_nobody_else(world: World) -> None:
    case_id = world.signed()
    said = verified(world, case_id)
    for who in ("pcp", "surgeon", "reviewer"):
        assert verified(world, case_id, who=who) == said
        assert signed_bytes(world, said, who) == signed_bytes(world, said)
    assert world.call("GET", f"/api/second-opinions/{case_id}/verify", who="stranger").status_code == 404
    assert world.call("GET", f"/fhir/{said['document']['binary']}", who="stranger").status_code == 404


def test_what_is_not_signed_is_not_there_to_verify(world: World) -> None:
    case_id = world.gathered()
    assert world.call("GET", f"/api/second-opinions/{case_id}/verify").status_code == 404
    world.sign(case_id)
    assert world.call("GET", f"/api/second-opinions/{case_id}/verify?version=2").status_code == 404
    assert world.call("GET", f"/api/second-opinions/{case_id}/verify?version=0").status_code == 422


def test_it_is_an_operation_of_the_case_in_fhir_too(world: World) -> None:
    case_id = world.signed()
    answer = world.call("GET", f"/fhir/ServiceRequest/{case_id}/$verify?version=1")
    parameters = {p["name"]: p for p in answer.get_json()["parameter"]}
    assert parameters["holds"]["valueBoolean"] is True
    assert parameters["version"]["valueInteger"] == 1


# ---- the bytes, over HTTP -------------------------------------------------------------------------------------


def test_a_binary_is_its_bytes_only_for_who_asks_for_no_fhir(world: World) -> None:
    said = verified(world, world.signed())
    path = f"/fhir/{said['document']['binary']}"

    def got(accept: str) -> Any:
        return world.client.get(path, headers={"Authorization": "Bearer desk", "Accept": accept})

    raw = got("application/octet-stream")
    assert raw.headers["Content-Disposition"] == "attachment"
    assert raw.headers["X-Content-Type-Options"] == "nosniff"
    for accept in ("application/fhir+json", "*/*", ""):
        wrapped = got(accept).get_json()
        assert wrapped["resourceType"] == "Binary"
        assert wrapped["contentType"] == "application/fhir+json"
        assert wrapped["securityContext"]["reference"] == said["document"]["bundle"]
        assert base64.b64decode(wrapped["data"]) == raw.get_data()
    assert got("image/png").status_code == 406
    other = said["document"]["bundle"]
    asked = {"Authorization": "Bearer desk", "Accept": "application/octet-stream"}
    assert world.client.get(f"/fhir/{other}", headers=asked).status_code == 406
    assert world.client.get(f"{path}/_history", headers=asked).status_code == 406


def test_nobody_writes_over_what_was_signed(world: World) -> None:
    said = verified(world, world.signed())
    for name in (said["document"]["binary"], said["document"]["bundle"]):
        found = world.call("GET", f"/fhir/{name}").get_json()
        found["language"] = "de"
        assert world.call("PUT", f"/fhir/{name}", found).status_code == 403
        assert world.call("DELETE", f"/fhir/{name}").status_code == 403  # nothing is deleted


# ---- keys -----------------------------------------------------------------------------------------------------


def test_a_retired_key_stays_published_and_the_new_one_signs(world: World) -> None:
    file = world.context.document_keys
    first = world.signed()
    old = verified(world, first)["key"]["kid"]
    new = keys.add(file, "RS384", now_s=now_s(world), signs_after_h=0)
    document_keys.retire(file, old, now_s=now_s(world) + 1)
    world.clock.forward(5)
    world.amend(first)
    before, after = verified(world, first, 1), verified(world, first, 2)
    assert (before["holds"], before["key"]["kid"], bool(before["key"]["endedAt"])) == (True, old, True)
    assert (after["holds"], after["key"]["kid"], after["key"]["alg"]) == (True, new, "RS384")
    published = world.client.get("/.well-known/document-keys.json").get_json()
    assert {k["kid"] for k in published["keys"]} == {old, new}
    assert world.client.get("/.well-known/jwks.json").get_json() == {"keys": []}  # EHRs are not to take them for ours


def test_a_revocation_looks_forward(world: World) -> None:
    file = world.context.document_keys
    case_id = world.signed()
    kid = verified(world, case_id)["key"]["kid"]
    world.clock.forward(100)
    since = now_s(world)
    world.clock.forward(100)
    world.amend(case_id)
    # Stolen at `since`, as is found out later: what was signed before holds, what was signed after does not.
    world.clock.forward(100)
    document_keys.revoke(file, kid, since_s=since, reason="compromised", now_s=now_s(world))
    before, after = verified(world, case_id, 1), verified(world, case_id, 2)
    assert (before["holds"], bool(before["key"]["revokedAt"])) == (True, True)
    assert (after["holds"], after["signature"], after["bytes"]) == (False, True, True)
    assert "revoked" in after["faults"][0]
    # And nothing more is signed with it: a new key must be made.
    world.post(case_id, "amend-report", {"kind": "amended", "reason": "x", "changes": {"conclusion": "y"}}, "reviewer")
    refused = world.post(case_id, "sign", who="reviewer", status=422)
    assert "keys new --for documents" in json.dumps(refused)
    keys.add(file, "ES384", now_s=now_s(world), signs_after_h=0)
    world.post(case_id, "sign", who="reviewer")
    assert verified(world, case_id)["holds"] is True


def test_a_stolen_key_can_not_sign_for_the_past(world: World) -> None:
    case_id = world.signed()
    said = verified(world, case_id)
    key = document_keys.signing(world.context.document_keys, now_s(world))
    at = now_s(world)
    forged = signature.sign(
        signed_bytes(world, said), key.key, kid=key.kid, alg=key.alg, issuer=world.context.public_url,
        signer=f"{world.context.base_url}/{said['signer']['reference']}", at=at - 86_400,
    )  # fmt: skip
    when = "2026-01-01T00:00:00.000Z"

    def forge(provenance: Plain) -> None:
        mark = signature.fhir(forged, when, provenance["signature"][0]["who"])
        provenance["signature"] = [mark]

    edit(world, "Provenance", sealing.provenance_id(case_id, 1), forge)
    document_keys.revoke(world.context.document_keys, key.kid, since_s=at - 3600, reason="compromised", now_s=at)
    found = verified(world, case_id)
    assert found["holds"] is False
    assert any("revoked" in fault for fault in found["faults"])
    assert any("another signer or time" in fault for fault in found["faults"])


# ---- what does not hold does not leave ------------------------------------------------------------------------


def _unsign(provenance: Plain) -> None:
    del provenance["signature"]


def _flip(binary: Plain) -> None:
    data = bytearray(base64.b64decode(binary["data"]))
    data[len(data) // 2] ^= 1
    binary["data"] = base64.b64encode(data).decode()


def _other_status(report: Plain) -> None:
    report["conclusion"] += " Not."


def _other_bundle(bundle: Plain) -> None:
    bundle["timestamp"] = "2026-01-01T00:00:00Z"


def _another_signer(provenance: Plain) -> None:
    provenance["signature"][0]["who"] = {"reference": "PractitionerRole/somebody"}


TAMPERED: dict[str, tuple[str, Callable[[str], str], Edit | None, str]] = {
    "no signature": ("Provenance", lambda c: sealing.provenance_id(c, 1), _unsign, "it has no signature"),
    "no provenance": ("Provenance", lambda c: sealing.provenance_id(c, 1), None, "it has no signature"),
    "another signer": ("Provenance", lambda c: sealing.provenance_id(c, 1), _another_signer, "another signer or time"),
    "no bytes": ("Binary", lambda c: sealing.binary_id(c, 1), None, "the signed bytes are not there"),
    "another byte": ("Binary", lambda c: sealing.binary_id(c, 1), _flip, "not those that were signed"),
    "another bundle": ("Bundle", lambda c: sealing.derived_id(c, "bundle", 1), _other_bundle, "the Bundle is not"),
    "another report": ("DiagnosticReport", lambda c: sealing.derived_id(c, "report"), _other_status, "the report is"),
}


@pytest.mark.parametrize("name", list(TAMPERED))
def test_nothing_leaves_whose_signature_is_missing_or_does_not_hold(world: World, name: str) -> None:
    kind, id_of, change, said = TAMPERED[name]
    there = world.ehr("lakeside")
    case_id = world.signed()
    if change is None:
        remove(world, kind, id_of(case_id))
    else:
        edit(world, kind, id_of(case_id), change)
    world.work()
    assert there.documents == []
    assert there.written == []
    held = world.deliveries(case_id)
    assert held
    for one in held:  # to an EHR, and by link
        assert (one["status"], one["businessStatus"]) == ("on-hold", "failed")
        assert said in one["why"]
        assert one["evidence"].get("rung") is None
    found = verified(world, case_id)
    assert found["holds"] is False
    assert any(said in fault for fault in found["faults"])
    shown = world.post(case_id, "preview-delivery")["deliveries"]
    assert [row["requests"] for row in shown] == [[] for _ in shown]


def test_once_what_was_signed_is_back_a_replay_delivers_it(world: World) -> None:
    there = world.ehr("lakeside")
    case_id = world.signed()
    edit(world, "Binary", sealing.binary_id(case_id, 1), _flip)
    world.work()
    edit(world, "Binary", sealing.binary_id(case_id, 1), _flip)  # the same bit again: as it was
    held = [d for d in world.deliveries(case_id) if d["status"] == "on-hold"]
    for one in held:
        world.post(case_id, "replay", {"task": one["task"], "changed": "restored from the backup"})
    world.work()
    assert len(there.documents) == 1


def test_a_link_shows_nothing_that_does_not_hold(world: World) -> None:
    case_id = world.signed()
    world.work()
    link = next(d for d in world.deliveries(case_id) if d["evidence"].get("rung") == "10")
    sheet = world.post(case_id, "cover-sheet", {"task": link["task"]})
    path = sheet["url"][sheet["url"].index("/ack/") :]
    assert world.client.get(path).status_code == 200
    edit(world, "Binary", sealing.binary_id(case_id, 1), _flip)
    refused = world.client.get(path)
    assert refused.status_code == 409
    assert "does not hold" in refused.get_data(as_text=True)


def test_what_somebody_signs_with_our_key_that_is_no_document_is_none(world: World) -> None:
    case_id = world.signed()
    said = verified(world, case_id)
    key = document_keys.signing(world.context.document_keys, now_s(world))
    signer = f"{world.context.base_url}/{said['signer']['reference']}"
    for data in (b"x", b"{}", b'{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"Patient"}}]}', b"[]"):
        jws = signature.sign(data, key.key, kid=key.kid, alg=key.alg, issuer="x", signer=signer, at=now_s(world))
        mark = signature.fhir(jws, times.instant(now_s(world) * 1000), {"reference": said["signer"]["reference"]})
        edit(world, "Provenance", sealing.provenance_id(case_id, 1), lambda p, mark=mark: p.update(signature=[mark]))
        encoded = base64.b64encode(data).decode()
        edit(world, "Binary", sealing.binary_id(case_id, 1), lambda b, encoded=encoded: b.update(data=encoded))
        found = verified(world, case_id)
        assert (found["signature"], found["bytes"], found["holds"]) == (True, False, False)


def test_a_signature_of_one_version_is_none_of_another(world: World) -> None:
    case_id = world.signed()
    world.amend(case_id)
    first = world.call("GET", f"/fhir/Binary/{sealing.binary_id(case_id, 1)}").get_json()
    mark = world.call("GET", f"/fhir/Provenance/{sealing.provenance_id(case_id, 1)}").get_json()["signature"]
    edit(world, "Binary", sealing.binary_id(case_id, 2), lambda b: b.update(data=first["data"]))
    edit(world, "Provenance", sealing.provenance_id(case_id, 2), lambda p: p.update(signature=mark))
    found = verified(world, case_id, 2)
    assert (found["signature"], found["holds"]) == (True, False)
    assert any("another report or version" in fault for fault in found["faults"])


# ---- what is delivered ----------------------------------------------------------------------------------------


def test_an_ehr_gets_the_signed_bytes_and_the_signature_beside_the_pdf(world: World) -> None:
    there = world.ehr("lakeside")
    case_id = world.signed()
    world.work()
    said = verified(world, case_id)
    (document,) = there.documents
    forms = [c["attachment"] for c in document["content"]]
    assert [f["contentType"] for f in forms] == ["application/pdf", "application/fhir+json", "application/jose"]
    data, jws = base64.b64decode(forms[1]["data"]), base64.b64decode(forms[2]["data"]).decode()
    assert data == signed_bytes(world, said)
    keys_ = world.client.get("/.well-known/document-keys.json").get_json()
    assert signature.examine(data, jws, keys_).holds
    # What people read is in what was signed.
    report: Resource = next(e["resource"] for e in json.loads(data)["entry"]
                            if e["resource"]["resourceType"] == "DiagnosticReport")  # fmt: skip
    assert report["presentedForm"][0]["data"] == forms[0]["data"]
    for delivered in located(world, case_id):
        assert delivered["businessStatus"] == "verified"
        assert "signed document" not in delivered["evidence"].get("dropped", "")


def test_an_ehr_that_takes_one_attachment_gets_the_pdf_alone(world: World) -> None:
    there = world.ehr("lakeside", one_content=True)
    world.signed()
    world.work()
    (document,) = there.documents
    assert [c["attachment"]["contentType"] for c in document["content"]] == ["application/pdf"]


def test_an_ehr_that_refuses_the_signed_bytes_still_gets_the_pdf_the_same_way(world: World) -> None:
    there = world.ehr("lakeside")
    there.instead = lambda asked: (
        refusal(422, "invalid", element="DocumentReference.content[1]")
        if asked.writes and b"application/jose" in asked.body
        else None
    )
    case_id = world.signed()
    world.work()
    (document,) = there.documents
    assert [c["attachment"]["contentType"] for c in document["content"]] == ["application/pdf"]
    for delivered in located(world, case_id):
        assert (delivered["businessStatus"], delivered["evidence"]["rung"]) == ("verified", "1")


def test_an_ehr_that_keeps_only_the_first_attachment_is_said_to_have_dropped_the_signed_bytes(world: World) -> None:
    there = world.ehr("lakeside")

    def keep_one(asked: Asked) -> None:
        if asked.writes and b"application/jose" in asked.body:
            bundle = json.loads(asked.body)
            for entry in bundle["entry"]:
                if "content" in entry["resource"]:
                    entry["resource"]["content"] = entry["resource"]["content"][:1]
            asked.put(json.dumps(bundle).encode())

    there.instead = keep_one
    case_id = world.signed()
    world.work()
    for delivered in located(world, case_id):
        assert delivered["businessStatus"] == "verified"
        assert "signed document" in delivered["evidence"]["dropped"]


# ---- and the key's file ---------------------------------------------------------------------------------------


def test_without_a_key_that_may_sign_nothing_is_signed_by_half(world: World) -> None:
    file = world.context.document_keys
    case_id = world.gathered()
    world.accept(case_id)
    world.draft(case_id, world.get(case_id, "completeness")["gaps"])
    kid = document_keys.signing(file, now_s(world)).kid
    document_keys.revoke(file, kid, since_s=now_s(world), reason="superseded", now_s=now_s(world))
    with pytest.raises(Invalid, match="keys new --for documents"):
        signing.sign(world.context, world.caller("reviewer"), case_id, {})
    assert world.get(case_id)["report"] is None
    assert world.deliveries(case_id) == []
