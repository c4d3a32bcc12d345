"""Who asks too often waits, and nobody else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, g
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import Client, EnvironBuilder

from fhir_secondop.config import Settings
from fhir_secondop.errors import Unauthenticated
from fhir_secondop.model import Caller
from fhir_secondop.store.audit import trail, verify
from fhir_secondop.store.database import Database
from fhir_secondop.web import inbound, throttle
from fhir_secondop.web.throttle import Buckets, Limit, Throttle
from tests.web.limits.conftest import NAME, serving

TEN = Limit(10, 20)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def drawn(buckets: Buckets, key: str, limit: Limit = TEN) -> int:
    """How many can be had at once."""
    count = 0
    while count < 1000 and not buckets.draw(key, limit):
        count += 1
    return count


def test_a_bucket_holds_a_burst_and_fills_at_its_rate() -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    assert drawn(buckets, "a") == 20
    assert buckets.draw("a", TEN) == pytest.approx(0.1)
    clock.now += 0.05
    assert buckets.draw("a", TEN) == pytest.approx(0.05)
    clock.now += 0.5
    assert drawn(buckets, "a") == 5
    clock.now += 3600
    assert drawn(buckets, "a") == 20
    assert drawn(buckets, "b") == 20


@given(st.lists(st.floats(0, 3), max_size=200), st.floats(0.5, 100), st.integers(1, 50))
def test_never_more_than_burst_and_rate_allow(pauses: list[float], per_s: float, burst: int) -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    limit = Limit(per_s, burst)
    granted = 0
    for pause in pauses:
        clock.now += pause
        wait_s = buckets.draw("a", limit)
        granted += not wait_s
        assert granted <= burst + per_s * (clock.now - 1000.0) + 1e-6
        if wait_s:  # who waits as told is served
            clock.now += wait_s + 1e-9
            assert buckets.draw("a", limit) == 0
            granted += 1


def test_the_table_of_buckets_has_an_end() -> None:
    buckets = Buckets(size=100, clock=Clock())
    drawn(buckets, "steady")
    for number in range(10_000):
        buckets.draw(f"address {number}", TEN)
        assert buckets.draw("steady", TEN) > 0, "who goes on asking must not be forgotten"
    assert drawn(buckets, "newcomer") == TEN.burst, "who is new is remembered at once"
    assert len(buckets) == 100


PATHS = {
    "/healthz": None,
    "/healthz/": throttle.Limit(7, 9),
    "/readyz": throttle.STRICT["/readyz"],
    "/auth/token": throttle.STRICT["/auth/token"],
    "/auth/token/": throttle.STRICT["/auth/token"],
    "//auth/token": throttle.STRICT["/auth/token"],
    "/auth/tokens": throttle.Limit(7, 9),
    "/auth/introspect": throttle.Limit(7, 9),
    "/authors": throttle.Limit(7, 9),
    "/sign-in": throttle.STRICT["/sign-in"],
    "/sign-in/callback": throttle.STRICT["/sign-in"],
    "/ack/some-token": throttle.STRICT["/ack"],
    "/upload/some-token": throttle.STRICT["/upload"],
    "/fhir/Patient": throttle.Limit(7, 9),
    "/": throttle.Limit(7, 9),
    "": throttle.Limit(7, 9),
}


@pytest.mark.parametrize(("path", "limit"), PATHS.items(), ids=PATHS.keys())
def test_each_path_has_its_limit(path: str, limit: Limit | None) -> None:
    assert throttle.limit_of(path, throttle.Limit(7, 9)) == limit


ADDRESSES = {
    "192.0.2.7": "192.0.2.7",
    "::ffff:192.0.2.7": "192.0.2.7",
    "2001:db8:1:2:3:4:5:6": "2001:0db8:0001:0002",
    "[2001:db8:1:2::9]": "2001:0db8:0001:0002",
    "2001:db8:1:3::9": "2001:0db8:0001:0003",
    "unknown": "unknown",
    "": "",
    "x" * 500: "x" * 64,
}


@pytest.mark.parametrize(("address", "network"), ADDRESSES.items())
def test_a_client_has_one_address_or_one_network_of_addresses(address: str, network: str) -> None:
    assert throttle._network(address) == network


class Parts:
    """What Throttle needs of a service; counts how often somebody was authenticated."""

    asked = 0

    def authenticate(self, request: Any) -> Caller:
        self.asked += 1
        name = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if name not in ("a", "b"):
            raise Unauthenticated("Who are you?")
        return Caller(name, name, frozenset(), ())


def client(parts: Parts, **settings: Any) -> tuple[Client, Clock]:
    """A small application behind everything, and the clock of its buckets."""
    app = Flask("small", static_folder=None)

    @app.route("/<path:rest>")
    def anything(rest: str) -> str:
        g.caller = "-"
        return "ok"

    clock = Clock()
    chosen = Settings(requests_per_s=1, burst=3, **settings)
    limits = Throttle(parts, chosen, Buckets(clock=clock))  # type: ignore[arg-type]
    return Client(inbound.complete(app.wsgi_app, limits, chosen.trusted_proxy)), clock


def statuses(client: Client, count: int, path: str = "/fhir/Patient", peer: str = "192.0.2.1", **headers: str) -> str:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = {"environ_base": {"REMOTE_ADDR": peer}, "headers": named, "buffered": True}
    return " ".join(str(client.open(path, **asked).status_code) for _ in range(count))


def test_callers_are_counted_by_themselves_wherever_they_come_from() -> None:
    clients, clock = client(Parts())
    assert statuses(clients, 2, peer="192.0.2.1", Authorization="Bearer a") == "200 200"
    assert statuses(clients, 2, peer="192.0.2.2", Authorization="Bearer a") == "200 429"
    assert statuses(clients, 4, peer="192.0.2.1", Authorization="Bearer b") == "200 200 200 429"
    clock.now += 1
    assert statuses(clients, 2, peer="192.0.2.3", Authorization="Bearer a") == "200 429"


def test_who_did_not_sign_in_is_counted_by_address() -> None:
    clients, _ = client(Parts())
    assert statuses(clients, 4) == "200 200 200 429"
    assert statuses(clients, 1, peer="192.0.2.2") == "200"


def test_a_flood_of_wrong_tokens_is_stopped_and_stops_no_right_one() -> None:
    clients, _ = client(Parts())
    floods = [statuses(clients, 1, Authorization=f"Bearer {NAME}{n}") for n in range(10)]
    assert floods == ["200"] * 3 + ["429"] * 7
    assert statuses(clients, 1, Authorization="Bearer a") == "200"


def test_what_breaks_while_somebody_is_recognised_is_left_to_the_handler() -> None:
    class Broken(Parts):
        def authenticate(self, request: Any) -> Caller:
            raise RuntimeError

    clients, _ = client(Broken())
    assert statuses(clients, 4, Authorization="Bearer a") == "200 200 200 429"


def test_the_limit_of_sign_in_is_the_addresss_whoever_asks() -> None:
    clients, _ = client(Parts())
    burst = throttle.STRICT["/sign-in"].burst
    tried = [statuses(clients, 1, path="/sign-in", Authorization="Bearer ab"[: 7 + n % 3]) for n in range(burst + 5)]
    assert tried == ["200"] * burst + ["429"] * 5
    assert statuses(clients, 1, path="/fhir/Patient", Authorization="Bearer a") == "200"
    assert statuses(clients, 1, path="/ack/x", peer="192.0.2.1") == "200"
    assert statuses(clients, 1, path="/sign-in", peer="192.0.2.2") == "200"


def test_health_is_never_limited() -> None:
    clients, _ = client(Parts())
    assert set(statuses(clients, 500, path="/healthz").split()) == {"200"}


@pytest.mark.parametrize(("settings", "limited"), [({"auth": "none"}, False), ({}, True)])
def test_without_sign_in_nobody_is_limited(settings: dict[str, Any], limited: bool) -> None:
    clients, _ = client(Parts(), **settings)
    assert ("429" in statuses(clients, 10)) is limited


def test_a_forwarded_address_is_believed_of_the_trusted_proxy_alone() -> None:
    for trusted, peer, believed in (
        ("", "192.0.2.1", False), ("192.0.2.1", "192.0.2.1", True), ("192.0.2.0/24", "192.0.2.77", True),
        ("192.0.2.0/24", "192.0.3.1", False), ("2001:db8::/32", "2001:db8::1", True), ("192.0.2.1", "::1", False),
    ):  # fmt: skip
        clients, _ = client(Parts(), trusted_proxy=trusted)
        seen = [statuses(clients, 1, peer=peer, X_Forwarded_For=f"198.51.100.{n}") for n in range(6)]
        assert (seen == ["200"] * 6) is believed, (trusted, peer)


def test_of_many_forwarded_addresses_the_one_that_the_proxy_saw_counts() -> None:
    clients, _ = client(Parts(), trusted_proxy="192.0.2.1")
    seen = [statuses(clients, 1, X_Forwarded_For=f"203.0.113.{n}, 198.51.100.1") for n in range(6)]
    assert seen == ["200"] * 3 + ["429"] * 3


def test_a_refusal_says_when_to_come_back() -> None:
    clients, _ = client(Parts())
    statuses(clients, 3)
    answer = clients.get("/fhir/Patient", environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.json
    assert answer.headers["Retry-After"] == "1"
    assert answer.json["issue"][0]["code"] == "throttled"
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_request_is_authenticated_once() -> None:
    parts = Parts()

    ask = throttle.once(parts.authenticate)
    good = EnvironBuilder(headers={"Authorization": "Bearer a"}).get_request()
    bad = EnvironBuilder(headers={"Authorization": "Bearer x"}).get_request()
    assert ask(good) is ask(good)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            ask(bad)
    assert parts.asked == 2


def test_a_real_service_limits_each_caller(tmp_path: Path) -> None:
    with serving(tmp_path, requests_per_s=0.5, burst=4) as served:

        def ask(token: str, path: str = "/fhir/Patient") -> int:
            headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": token}
            return requests.get(served.url + path, headers=headers, timeout=30).status_code

        assert [ask("desk") for _ in range(5)] == [200] * 4 + [429]
        assert ask("other") == 200
        assert ask("desk", "/healthz") == 200
        assert {ask(f"wrong-{n}") for n in range(12)} == {401, 429}
        assert ask("other", "/api/second-opinions") == 200
        assert requests.get(f"{served.url}/fhir/Patient?name={'a' * 9000}", timeout=30).status_code == 414
    # It has ended: what it refused at the door is in its audit, by caller and status, and no request has a row.
    database = Database(str(tmp_path / "secondop.sqlite"))
    try:
        with database.reading() as connection:
            assert verify.verify(connection).bad == ""
            found = {(r.caller, r.status): r.number for r in trail.since(connection, 0) if r.kind == "refused"}
    finally:
        database.dispose()
    assert found == {("desk", 429): 1, ("", 429): found["", 429], ("", 414): 1}
    assert found["", 429] >= 8
