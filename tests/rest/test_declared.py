"""What the CapabilityStatement of each shape declares is tried."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from fhir_secondop.access import rights
from fhir_secondop.fhir import codec, definitions, validate
from fhir_secondop.rest.app import blueprint
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.sandbox import ehr
from fhir_secondop.store.database import Database, now_ms
from tests.rest.served import (
    BINARY,
    PATIENT,
    bundle,
    created,
    posting,
    sender,
)
from tests.store.rows import BASE


@pytest.mark.parametrize("shape", ["full", "epic", "read-only"])
def test_what_is_declared_works_and_what_is_not_is_refused(shape: str, tmp_path: Any) -> None:
    database = Database(str(tmp_path / "one.sqlite"))
    database.migrate()
    send = sender(ehr.build(shape, database, BASE))
    writer = sender(ehr.build("full", database, BASE))
    statement = codec.parse(send("GET", "/metadata").get_data())
    assert validate.validate(statement) == []
    assert statement["fhirVersion"] == "4.0.1"
    [rest] = statement["rest"]
    declared = {r["type"]: r for r in rest["resource"]}
    basic = {"resourceType": "Basic", "code": {"text": "x"}}
    samples = {"Patient": PATIENT, "Basic": basic, "Binary": BINARY}
    for kind in definitions.resource_types():
        offered = {i["code"] for i in declared.get(kind, {}).get("interaction", [])}
        found = send("GET", f"/{kind}?_count=0")
        assert (found.status_code == 200) == ("search-type" in offered), kind
        assert (send("GET", f"/{kind}/x").status_code == 404) == ("read" in offered), kind
        assert (send("GET", f"/{kind}/x/_history").status_code == 404) == ("history-instance" in offered), kind
        assert (send("GET", f"/{kind}/x/_history/1").status_code == 404) == ("vread" in offered), kind
        assert (send("GET", f"/{kind}/_history").status_code == 200) == ("history-type" in offered), kind
        assert (send("DELETE", f"/{kind}/x").status_code == 404) == ("delete" in offered), kind
        parameters = declared.get(kind, {}).get("searchParam", [])
        for parameter in parameters[:: 8 if shape == "read-only" else 1]:  # the same two thousand as of "full"
            value = value_for(definitions.search_parameters(kind)[parameter["name"]])
            answer = send("GET", f"/{kind}?{parameter['name']}={value}&_count=1")
            assert answer.status_code == 200, (kind, parameter["name"], answer.text)
            known = definitions.search_parameters(kind)[parameter["name"]]
            assert (known.type, known.url) == (parameter["type"], parameter["definition"])
    for kind, resource in samples.items():
        offered = {i["code"] for i in declared.get(kind, {}).get("interaction", [])}
        name = created(writer, resource)
        posted = send("POST", f"/{kind}", resource)
        assert (posted.status_code == 201) == ("create" in offered), posted.text
        updated = send("PUT", f"/{kind}/{name}", {**resource, "id": name})
        assert (updated.status_code == 200) == ("update" in offered), updated.text
        patched = send("PATCH", f"/{kind}/{name}", "[]", Content_Type="application/json-patch+json")
        assert (patched.status_code == 200) == ("patch" in offered), patched.text
        elsewhere = send("PUT", f"/{kind}?_id=nowhere", resource)
        assert (elsewhere.status_code == 201) == declared.get(kind, {}).get("conditionalUpdate", False), elsewhere.text
        absent = send("DELETE", f"/{kind}?_id=nowhere").status_code
        assert (absent == 404) == (declared.get(kind, {}).get("conditionalDelete") == "single")
        assert (send("GET", f"/{kind}/{name}").status_code == 200) == ("read" in offered)
        assert (send("GET", f"/{kind}/{name}/_history").status_code == 200) == ("history-instance" in offered)
        assert (send("GET", f"/{kind}/{name}/_history/1").status_code == 200) == ("vread" in offered)
    assert statement.get("patchFormat") == (["application/json-patch+json"] if shape == "full" else None)
    for kind in ("transaction", "batch"):
        is_offered = {"code": kind} in rest.get("interaction", [])
        assert (send("POST", "/", bundle(posting(basic), kind=kind)).status_code == 200) == is_offered
    for entry in declared.values():
        codes = {i["code"] for i in entry["interaction"]}
        assert entry["versioning"] == "versioned", "If-Match is not demanded"
        assert entry["readHistory"] == ("vread" in codes)
        assert entry["conditionalCreate"] == (shape == "full" and "create" in codes)
        assert entry["updateCreate"] is False
        assert entry["conditionalRead"] == "full-support"
        assert entry["conditionalUpdate"] == (shape == "full" and "update" in codes)
        assert entry["conditionalDelete"] == ("single" if shape == "full" and "delete" in codes else "not-supported")
        assert bool(entry.get("searchInclude")) == (shape != "epic" and "search-type" in codes)
        for name in ("searchInclude", "searchRevInclude"):
            parameter = "_include" if name == "searchInclude" else "_revinclude"
            for value in entry.get(name, [])[::9]:
                assert send("GET", f"/{entry['type']}?_count=1&{parameter}={value}").status_code == 200, value
    database.dispose()


def value_for(parameter: definitions.SearchParameter) -> str:
    """A value that a parameter can take."""
    if parameter.type == "composite":
        return "$".join(value_for(part) for part, _ in definitions.components(parameter))
    return {"date": "2024-01-01", "number": "1", "quantity": "1"}.get(parameter.type, "x")


def test_a_transaction_does_not_offer_more_than_the_types_do(tmp_path: Any) -> None:
    database = Database(str(tmp_path / "one.sqlite"))
    database.migrate()
    endpoint = Endpoint(
        database=database, base_url=BASE, software="test", authenticate=lambda request: ehr.VISITOR,
        visibility=lambda caller: rights.visibility(caller, now_ms()), allows=rights.allows,
        by_type={"Patient": frozenset({"create", "read"})},
    )  # fmt: skip
    app = Flask("test", static_folder=None)
    app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
    send = sender(app)
    assert send("POST", "/", bundle(posting(PATIENT))).status_code == 200
    refused = (
        posting({"resourceType": "Basic", "code": {"text": "x"}}),
        {"resource": {**PATIENT, "id": "1"}, "request": {"method": "PUT", "url": "Patient/1"}},
        {"request": {"method": "DELETE", "url": "Patient/1"}},
    )
    for entry in refused:
        assert send("POST", "/", bundle(posting(PATIENT), entry)).status_code == 400
    assert send("GET", "/Patient").status_code == 400, "searching is not offered"
    database.dispose()
