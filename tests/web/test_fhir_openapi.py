"""The OpenAPI document of the FHIR endpoint against a running service: each of its examples is answered as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator

from fhir_secondop.rest.app import ROUTES
from fhir_secondop.web import fhir_openapi
from tests.web.limits.conftest import Served, serving

KEEPER = {"Authorization": "Bearer keeper"}
# Operations stand for themselves, each under its own address.
OF_OPERATIONS = {(method, address) for method, address, _ in ROUTES if "$" in address}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("service"), requests_per_s=0) as running:
        yield running


@pytest.fixture(scope="module")
def document(service: Served) -> dict[str, Any]:
    answer = requests.get(f"{service.url}/fhir/openapi.json", timeout=30)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def asked(base: str, method: str, one: dict[str, Any], names: dict[str, str]) -> requests.Response:
    """Sends an example or a sample, with the ids of what samples have made in their places."""

    def filled(text: str) -> str:
        return re.sub(r"\{([a-z]+)\}", lambda match: names.get(match[1], match[0]), text)

    body = one.get("body")
    text = filled(body if isinstance(body, str) else json.dumps(body)) if body is not None else None
    headers = {"Content-Type": "application/fhir+json", **one.get("headers", {})} if text else one.get("headers", {})
    url = f"{base}{filled(one['url'])}"
    return requests.request(method, url, data=text, headers={**headers, **KEEPER}, timeout=60)


@pytest.fixture(scope="module")
def names(service: Served, document: dict[str, Any]) -> dict[str, str]:
    """The id of what each sample has made."""
    made: dict[str, str] = {}
    for name, sample in document["x-samples"].items():
        answer = asked(f"{service.url}/fhir", sample["method"], sample, made)
        assert answer.status_code in (200, 201), (name, answer.text)
        place = re.fullmatch(r".*/fhir/[A-Za-z]+/([^/]+)(/_history/1)?", answer.headers["Location"])
        assert place, answer.headers
        made[name] = place[1]
    return made


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"].startswith("3.1")
    ids = [call["operationId"] for calls in document["paths"].values() for call in calls.values()]
    assert len(ids) == len(set(ids))


def test_every_route_is_described_and_nothing_else() -> None:
    assert set(fhir_openapi.CALLS) | OF_OPERATIONS == {(method, address) for method, address, _ in ROUTES}


def test_every_example_is_answered_as_it_says(service: Served, document: dict[str, Any], names: dict[str, str]) -> None:
    """Those that delete come last."""
    run = 0
    calls = [(method, call) for calls in document["paths"].values() for method, call in calls.items()]
    for method, call in sorted(calls, key=lambda each: each[0] == "delete"):
        for example in call["x-examples"]:
            answer = asked(f"{service.url}/fhir", method, example, names)
            assert answer.status_code == example["status"], (method, example, answer.text[:1000])
            assert str(answer.status_code) in call["responses"], (method, example)
            run += 1
    print(f"\n{run} examples of {len(calls)} calls")
    assert run > 150


def test_every_interaction_has_an_example(document: dict[str, Any]) -> None:
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            if "$" not in path:
                assert call["x-examples"], (method, path)


def test_it_offers_what_the_capability_statement_does(service: Served, document: dict[str, Any]) -> None:
    stated = requests.get(f"{service.url}/fhir/metadata", timeout=30).json()["rest"][0]
    offered = {row["type"]: {each["code"] for each in row["interaction"]} for row in stated["resource"]}
    for path, method, interaction in [
        ("/{type}", "post", "create"), ("/{type}/{id}", "put", "update"), ("/{type}/{id}", "patch", "patch"),
        ("/{type}/{id}", "delete", "delete"), ("/{type}/{id}", "get", "read"), ("/{type}", "get", "search-type"),
        ("/{type}/_history", "get", "history-type"),
    ]:  # fmt: skip
        [kinds] = [p["schema"]["enum"] for p in document["paths"][path][method]["parameters"] if p["name"] == "type"]
        assert set(kinds) == {kind for kind, codes in offered.items() if interaction in codes}
    named = {f"/{row['type']}{id_}/${op['name']}" for row in stated["resource"] for op in row.get("operation", [])
             for id_ in ("", "/{id}")} | {f"/${op['name']}" for op in stated.get("operation", [])}  # fmt: skip
    told = {path for path in document["paths"] if "$" in path}
    assert told <= named
    assert {re.sub(r"/\{id\}", "", path) for path in named} == {re.sub(r"/\{id\}", "", path) for path in told}
