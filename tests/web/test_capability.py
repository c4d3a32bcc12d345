"""The service's CapabilityStatement is read, and every claim of it is tried, on each type, with real resources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.fhir import definitions, validate
from fhir_secondop.model import Caller
from fhir_secondop.web.app import create
from tests.rest.samples import sample

JSON, XML = "application/fhir+json", "application/fhir+xml"
TAG = "urn:example:capability"
TYPES = sorted(definitions.resource_types())
WRITES = {"create", "update", "patch", "delete"}
tried: dict[str, int] = {}


class Asked:
    """The service in this process. `ask` counts what was tried."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.statement = client.get("/fhir/metadata").get_json()
        [self.rest] = self.statement["rest"]
        self.rows = {row["type"]: row for row in self.rest["resource"]}

    def ask(self, what: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        tried[what] = tried.get(what, 0) + 1
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named.setdefault("Content-Type", JSON)
        data = json.dumps(body) if body is not None else None
        return self.client.open(f"/fhir{path}", method=method, data=data, headers=named)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Asked]:
    """Every type may be written here, and the caller may delete."""
    folder = tmp_path_factory.mktemp("capability")
    (folder / "service.sqlite").write_bytes(sqlite_template.read_bytes())
    made = bootstrap.assembled(
        Settings(database=str(folder / "service.sqlite"), auth="none", link_secret_file=str(folder / "link"),
                 writable_types="all,AuditEvent,Subscription", document_keys_file=str(folder / "keys"))
    )  # fmt: skip
    caller = Caller("them", "Them", frozenset({"coordinator", "requester"}), ("system/*.cruds",))
    endpoint = replace(made.endpoint, authenticate=lambda request: caller)
    yield Asked(create(replace(made, endpoint=endpoint)).test_client())
    made.context.database.dispose()
    print("\ntried: " + ", ".join(f"{count} {what}" for what, count in sorted(tried.items())))


def tagged(kind: str) -> dict[str, Any]:
    return {**sample(kind), "meta": {"tag": [{"system": TAG, "code": kind}]}}


def test_every_sample_is_valid() -> None:
    assert [kind for kind in TYPES if any(i.severity == "error" for i in validate.validate(sample(kind)))] == []


def test_it_names_every_type_and_is_valid(asked: Asked) -> None:
    assert sorted(asked.rows) == TYPES
    assert [issue for issue in validate.validate(asked.statement) if issue.severity == "error"] == []


@pytest.mark.parametrize("kind", TYPES)
def test_every_interaction_of_a_type_is_as_it_says(asked: Asked, kind: str) -> None:
    row, ask = asked.rows[kind], asked.ask
    codes = {each["code"] for each in row["interaction"]}
    resource = tagged(kind)
    assert "create" in codes
    made = ask("create", "POST", f"/{kind}", resource)
    assert made.status_code == 201, made.text
    name = made.get_json()["id"]
    mine = f"/{kind}/{name}"
    found = f"_tag={TAG}|{kind}"
    again = ask("conditionalCreate", "POST", f"/{kind}", resource, If_None_Exist=found)
    assert (again.status_code == 200) == row["conditionalCreate"], again.text
    read = ask("read", "GET", mine)
    assert (read.status_code == 200) == ("read" in codes)
    assert row["conditionalRead"] == "full-support"
    assert ask("conditionalRead", "GET", mine, If_None_Match=read.headers["ETag"]).status_code == 304
    assert ask("conditionalRead", "GET", mine, If_Modified_Since=read.headers["Last-Modified"]).status_code == 304
    changed = {**resource, "id": name, "language": "en"}
    updated = ask("update", "PUT", mine, changed)
    assert (updated.status_code == 200) == ("update" in codes), updated.text
    assert row["versioning"] == "versioned"
    assert updated.headers["ETag"] == 'W/"2"'
    assert ask("versioning", "PUT", mine, changed, If_Match='W/"1"').status_code == 412
    elsewhere = ask("updateCreate", "PUT", f"/{kind}/elsewhere", {**resource, "id": "elsewhere"})
    assert (elsewhere.status_code == 201) == row["updateCreate"]
    by_search = ask("conditionalUpdate", "PUT", f"/{kind}?{found}", changed)
    assert (by_search.status_code == 200) == row["conditionalUpdate"], by_search.text
    patch = [{"op": "replace", "path": "/language", "value": "fr"}]
    [patch_format] = asked.statement["patchFormat"]
    patched = ask("patch", "PATCH", mine, patch, Content_Type=patch_format)
    assert (patched.status_code == 200) == ("patch" in codes), patched.text
    old = ask("vread", "GET", f"{mine}/_history/1")
    assert (old.status_code == 200) == ("vread" in codes) == row["readHistory"]
    assert "language" not in old.get_json()
    versions = ask("history-instance", "GET", f"{mine}/_history")
    assert (versions.status_code == 200) == ("history-instance" in codes)
    assert len(versions.get_json()["entry"]) >= 3
    of_type = ask("history-type", "GET", f"/{kind}/_history?_count=1")
    assert (of_type.status_code == 200) == ("history-type" in codes)
    for what in ask("search-type", "GET", f"/{kind}?_id={name}"), ask("search-type", "GET", f"/{kind}?{found}"):
        assert (what.status_code == 200) == ("search-type" in codes)
        assert [entry["resource"]["id"] for entry in what.get_json()["entry"]] == [name]
    for operation in row.get("operation", []):
        if operation["name"] == "validate":
            told = ask("$validate", "POST", f"/{kind}/$validate", {"resourceType": "Parameters", "parameter": [
                {"name": "resource", "resource": resource}]})  # fmt: skip
            assert told.status_code == 200, told.text
    assert row["conditionalDelete"] == "single"
    forgotten = ask("conditionalDelete", "DELETE", f"/{kind}?{found}")
    assert forgotten.status_code in (200, 204), forgotten.text
    assert ask("read", "GET", mine).status_code == 410
    made = ask("create", "POST", f"/{kind}", resource)
    gone = ask("delete", "DELETE", f"/{kind}/{made.get_json()['id']}")
    assert (gone.status_code in (200, 204)) == ("delete" in codes), gone.text
    # So that what is included next finds something.
    assert ask("create", "POST", f"/{kind}", sample(kind)).status_code == 201


def batched(them: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(them), size):
        yield them[start : start + size]


def value_for(parameter: definitions.SearchParameter) -> str:
    if parameter.type == "composite":
        return "$".join(value_for(part) for part, _ in definitions.components(parameter))
    return {"date": "2024-01-01", "number": "1", "quantity": "1"}.get(parameter.type, "x")


@pytest.mark.parametrize("kind", TYPES)
def test_every_search_parameter_and_include_of_a_type_is_taken(asked: Asked, kind: str) -> None:
    row = asked.rows[kind]
    known = definitions.search_parameters(kind)
    for some in batched(row["searchParam"], 10):
        for parameter in some:
            assert (known[parameter["name"]].type, known[parameter["name"]].url) == (
                parameter["type"], parameter["definition"])  # fmt: skip
        query = "&".join(f"{each['name']}={value_for(known[each['name']])}" for each in some)
        tried["searchParam"] = tried.get("searchParam", 0) + len(some)
        answer = asked.ask("search", "GET", f"/{kind}?{query}&_count=1")
        assert answer.status_code == 200, (query, answer.text)
    for name, asking in (("searchInclude", "_include"), ("searchRevInclude", "_revinclude")):
        for values in batched(row.get(name, []), 50):
            query = "&".join(f"{asking}={value}" for value in values)
            tried[name] = tried.get(name, 0) + len(values)
            answer = asked.ask("search", "GET", f"/{kind}?_count=1&{query}")
            assert answer.status_code == 200, (query, answer.text)
            assert answer.get_json()["entry"]
    # What it does not name is not taken.
    assert asked.ask("search", "GET", f"/{kind}?colour=red").status_code == 422
    assert asked.ask("search", "GET", f"/{kind}?_revinclude={kind}:colour").status_code == 422


def test_what_the_whole_system_offers_is_as_it_says(asked: Asked) -> None:
    codes = {each["code"] for each in asked.rest.get("interaction", [])}
    for kind in ("transaction", "batch"):
        entry = {"resource": sample("Basic"), "request": {"method": "POST", "url": "Basic"}}
        done = asked.ask(kind, "POST", "/", {"resourceType": "Bundle", "type": kind, "entry": [entry]})
        assert (done.status_code == 200) == (kind in codes), done.text
    assert (asked.ask("search-system", "GET", "/?_type=Basic").status_code == 200) == ("search-system" in codes)
    assert (asked.ask("history-system", "GET", "/_history").status_code == 200) == ("history-system" in codes)
    for place in asked.rest["compartment"]:
        owner = next(kind for kind in TYPES if kind.lower() == place.rpartition("/")[2])
        inside = next(kind for kind, codes in definitions.compartment(owner).items() if codes and kind != owner)
        assert asked.ask("compartment", "GET", f"/{owner}/x/{inside}").status_code == 200


def test_every_format_is_written_and_read_and_no_other(asked: Asked) -> None:
    assert asked.statement["format"] == [JSON, XML]
    for form in asked.statement["format"]:
        for headers, query in (({"Accept": form}, ""), ({}, f"?_format={form.replace('+', '%2B')}")):
            assert asked.ask("format", "GET", f"/metadata{query}", **headers).mimetype == form
        body = asked.client.get("/fhir/Patient?_count=1", headers={"Accept": form}).get_data()
        assert body.startswith(b"<" if form == XML else b"{")
    xml = f'<Basic xmlns="http://hl7.org/fhir"><code><text value="{TAG}"/></code></Basic>'
    assert asked.client.post("/fhir/Basic", data=xml, content_type=XML).status_code == 201
    assert asked.ask("format", "GET", "/metadata", Accept="text/turtle").status_code == 406
    assert asked.client.post("/fhir/Basic", data="x", content_type="text/turtle").status_code == 415
    [patch_format] = asked.statement["patchFormat"]
    assert asked.ask("patchFormat", "PATCH", "/Basic/x", [], Content_Type=JSON).status_code == 415
    assert asked.ask("patchFormat", "PATCH", "/Basic/x", [], Content_Type=patch_format).status_code == 404


def test_every_operation_is_there_and_no_other(asked: Asked) -> None:
    """An operation that is not there is not found by its name; one that is says what it lacks, or does it."""
    places = [("", operation) for operation in asked.rest.get("operation", [])]
    places += [(kind, operation) for kind, row in asked.rows.items() for operation in row.get("operation", [])]
    for kind, operation in places:
        answers = [
            asked.ask("operation", "POST", f"{path}/${operation['name']}", {"resourceType": "Parameters"})
            for path in ([f"/{kind}", f"/{kind}/nowhere"] if kind else [""])
        ]
        there = [each for each in answers if "There is no operation" not in each.text]
        assert there, (kind, operation)
        for answer in there:
            assert answer.status_code < 500, (kind, operation, answer.text)
            assert answer.status_code != 405
    assert "There is no operation" in asked.ask("operation", "POST", "/Patient/x/$colour", {}).text
