"""Links to further pages: nobody reads, changes or lends one, and they stay good when the service starts again."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop.model import EVERYTHING, Caller
from fhir_secondop.store import ordering, resources
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.store.rows import BASE, delete, named
from tests.web.limits.conftest import serving

KEY = b"k" * 32


def authenticate(request: Any) -> Caller:
    name, _, behalf = request.headers.get("As", "them").partition(" for ")
    return Caller(name, name, frozenset({"coordinator"}), ("system/*.rs",), on_behalf_of=behalf)


@pytest.fixture
def client(database: Database) -> Any:
    named(database, "Patient", [(f"p{number}", {"active": True}) for number in range(5)])
    return client_of(database, authenticate, page_key=KEY)


def ask(client: Any, path: str, status: int = 200, who: str = "them") -> dict[str, Any]:
    answer = client.get(f"/fhir/{path}", headers={"As": who})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = json.loads(answer.text)
    return found


def following(client: Any, path: str) -> tuple[str, str]:
    """The path of the next page without its `_page`, and that."""
    [link] = [each["url"] for each in ask(client, path)["link"] if each["relation"] == "next"]
    before, _, page = str(link).removeprefix(f"{BASE}/").removeprefix(BASE).rpartition("&_page=")
    return before, page


WAYS = ["Patient?_count=2&_sort=_id", "Patient?_count=2", "?_type=Patient,Task&_count=2", "Patient/_history?_count=2",
        "_history?_count=2"]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_link_is_refused(client: Any, way: str) -> None:
    path, page = following(client, way)
    assert ask(client, f"{path}&_page={page}")["entry"]
    raw = urlsafe_b64decode(page + "=" * (-len(page) % 4))
    bent = []
    for place in range(len(raw)):
        for bit in (1, 128) if place % 8 else (1, 2, 4, 8, 16, 32, 64, 128):
            changed = bytes([*raw[:place], raw[place] ^ bit, *raw[place + 1 :]])
            bent.append(urlsafe_b64encode(changed).decode().rstrip("="))
    # The same bytes in another spelling are another link, too.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    bent += [page[:-1] + other for other in last if other != page[-1]]
    bent += [page[:-1], page[:20], page + "A", page + "%3D", page + "%20", "x", "1", "~", "1~5", "%C3%A4", page * 2]
    for link in bent:
        told = ask(client, f"{path}&_page={link}", 400)
        assert told["issue"][0]["expression"] == ["_page"]
        assert "start again" in told["issue"][0]["diagnostics"]


@pytest.mark.parametrize("way", WAYS)
def test_a_link_of_another_caller_is_refused(client: Any, way: str) -> None:
    path, page = following(client, way)
    for who in ("others", "them for somebody"):
        ask(client, f"{path}&_page={page}", 400, who=who)


def test_a_link_of_another_search_is_refused(client: Any) -> None:
    ways = [*WAYS, "Patient?_count=2&active=true", "Patient?_count=2&_sort=-_id", "Observation?",
            "Patient/_history?_count=2&_since=2020"]  # fmt: skip
    pages = {way: following(client, way)[1] for way in ways if way != "Observation?"}
    for way in ways:
        for other, page in pages.items():
            ask(client, f"{way}&_page={page}", 200 if way == other else 400)
    # How many one wants, and what of them, may change on the way.
    for more in ("_count=1", "_elements=id", "_total=accurate"):
        found = ask(client, f"Patient?{more}&_page={pages['Patient?_count=2']}")
        assert found["entry"][0]["resource"]["id"] == "p2"


def test_a_link_tells_nothing_and_is_another_each_time(client: Any) -> None:
    links = [following(client, way)[1] for way in WAYS for _ in range(2)]
    assert len(set(links)) == len(links)
    assert len({len(link) for link in links}) == 1


def test_a_list_that_is_no_longer_kept_is_said_to_be_gone(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, page = following(client, "Patient?_count=2&_sort=_id")
    now = ordering.now_ms() + ordering.KEPT_MS + 1
    monkeypatch.setattr(ordering, "now_ms", lambda: now)
    assert "start" in ask(client, f"{path}&_page={page}", 410)["issue"][0]["diagnostics"]


def test_a_page_goes_on_after_what_is_no_longer_there(client: Any, database: Database) -> None:
    path, page = following(client, "Patient?_count=2")
    for name in ("p1", "p4"):  # the last of this page, and of all
        with database.reading() as connection:
            found = resources.read(connection, EVERYTHING, "Patient", name)
        delete(database, found)
    shown = ask(client, f"{path}&_page={page}")["entry"]
    assert [entry["resource"]["id"] for entry in shown] == ["p2", "p3"]


def test_links_stay_good_when_the_service_starts_again(tmp_path: Path) -> None:
    patient = {"resourceType": "Patient", "active": True}
    asked = ("Patient?_count=1", "Patient?_count=1&_sort=-_id", "_history?_count=1")
    with serving(tmp_path, auth="none", requests_per_s=0) as running:
        made = [requests.post(f"{running.url}/fhir/Patient", json=patient,
                              headers={"Content-Type": "application/fhir+json"}, timeout=30).json()["id"]
                for _ in range(2)]  # fmt: skip
        firsts = [requests.get(f"{running.url}/fhir/{each}", timeout=30).json() for each in asked]
        links = [link["url"].partition("/fhir/")[2] for each in firsts for link in each["link"][1:]]
    assert len(links) == 3
    with serving(tmp_path, auth="none", requests_per_s=0) as running:
        pages = [requests.get(f"{running.url}/fhir/{link}", timeout=30) for link in links]
        assert [page.status_code for page in pages] == [200] * 3
        seconds = [page.json()["entry"][0]["resource"]["id"] for page in pages]
    assert seconds == [made[1], min(made), made[0]]
    (tmp_path / "link-secret").unlink()
    with serving(tmp_path, auth="none", requests_per_s=0) as running:
        for link in links:
            assert requests.get(f"{running.url}/fhir/{link}", timeout=30).status_code == 400
