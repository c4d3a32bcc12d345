"""Other people's keys: which are taken, how long they are kept, and when a place is asked again."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import trustme
from hypothesis import given, settings
from joserfc.jwk import ECKey, OctKey, RSAKey
from pytest_httpserver import HTTPServer
from werkzeug.wrappers import Request, Response

from fhir_secondop.access import keysets
from fhir_secondop.ehr import published
from fhir_secondop.errors import Invalid, Unavailable
from tests.access.signing import Plain, jwks

ALGS = ("RS384", "ES384")
RSA = RSAKey.generate_key(2048, {"kid": "r1"}, private=True)
EC = ECKey.generate_key("P-384", {"kid": "e1"}, private=True)
NEXT = ECKey.generate_key("P-384", {"kid": "e2"}, private=True)


def one(key: Any = EC, **more: Any) -> Plain:
    """One key of a JWKS; a member that is … is left out."""
    row = {**key.as_dict(private=False), **more}
    return {name: value for name, value in row.items() if value is not ...}


def taken(*rows: Any) -> set[tuple[str, str]]:
    return set(keysets.keys(json.dumps({"keys": rows}).encode(), ALGS))


@pytest.mark.parametrize(
    ("row", "places"),
    [
        (one(), {("e1", "ES384")}),
        (one(RSA), {("r1", "RS384")}),
        (one(use="sig", alg="ES384", key_ops=["verify"]), {("e1", "ES384")}),
        (one(x5t="abc", purpose="x"), {("e1", "ES384")}),
    ],
)
def test_a_public_key_that_is_strong_enough_is_taken(row: Plain, places: set[tuple[str, str]]) -> None:
    assert taken(row) == places


LEFT_OUT = {
    "without a kid": one(kid=...),
    "with a kid that is no text": one(kid=1),
    "for encryption": one(use="enc"),
    "for another algorithm": one(alg="ES512"),
    "RSA for PS384": one(RSA, alg="PS384"),
    "for signing only": one(key_ops=["sign"]),
    "with key_ops that are text": one(key_ops="verify"),
    "P-256": one(ECKey.generate_key("P-256", {"kid": "x"})),
    "P-521": one(ECKey.generate_key("P-521", {"kid": "x"})),
    "secp256k1": one(ECKey.generate_key("secp256k1", {"kid": "x"})),
    "a secret": {"kty": "oct", "kid": "e1", "k": "c2VjcmV0"},
    "a private EC key": EC.as_dict(private=True),
    "a private RSA key": RSA.as_dict(private=True),
    "RSA of 1024 bits": one(RSA, n=RSA.as_dict(private=False)["n"][:171]),
    "RSA with exponent 1": one(RSA, e="AQ"),
    "RSA without a modulus": one(RSA, n=...),
    "EC without y": one(y=...),
    "EC off the curve": one(y=EC.as_dict(private=False)["x"]),
    "EC with x a number": one(x=1),
    "no object": "e1",
    "null": None,
    "kty a list": one(kty=["EC"]),
}


@pytest.mark.parametrize("row", LEFT_OUT.values(), ids=LEFT_OUT)
def test_any_other_key_is_left_out_and_those_beside_it_stay(row: Any) -> None:
    assert taken(row, one(NEXT)) == {("e2", "ES384")}


def test_two_keys_of_one_kid_are_both_left_out() -> None:
    assert taken(one(), one(NEXT, kid="e1")) == set()
    assert taken(one(kid="k"), one(RSA, kid="k")) == {("k", "ES384"), ("k", "RS384")}  # another kind is another key


def test_a_private_key_in_a_jwks_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    taken(EC.as_dict(private=True))

    assert "private key" in caplog.text
    assert str(EC.as_dict(private=True)["d"]) not in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": {}}', '{"keys": null}', '{"keys": [], "keys": []}', '"keys"', "<html>",
             '{"keys": [' + ",".join(["{}"] * 51) + "]}", '{"keys":' + "[" * 3000 + "]" * 3000 + "}",
             '{"keys": [NaN]}'],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_no_jwks_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        keysets.keys(text.encode(), ALGS)


_LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
_JSON = st.recursive(_LEAVES, lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=3), i, max_size=3))
_ROWS = st.lists(st.dictionaries(st.sampled_from(["kty", "kid", "crv", "x", "y", "n", "e", "alg", "use", "key_ops"]),
                                 st.sampled_from(["RSA", "EC", "P-384", "AQAB", "sig"]) | _JSON))  # fmt: skip


@given(_ROWS)
@settings(max_examples=300, deadline=None)
def test_no_row_of_a_jwks_does_anything_but_be_left_out(rows: list[Any]) -> None:
    assert all(
        isinstance(key, ECKey | RSAKey) for key in keysets.keys(json.dumps({"keys": rows}).encode(), ALGS).values()
    )


@given(st.binary(max_size=80) | _JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    with contextlib.suppress(Invalid):
        assert keysets.keys(data, ALGS) == {}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 3600), ("max-age=600", 600), ("public, max-age=600", 600), ("MAX-AGE=600", 600), ("max-age=1", 60),
     ("max-age=0", 60), ("no-store", 60), ("no-cache, private", 60), ("max-age=99999999", 86_400), ("max-age=-5", 3600),
     ("max-age=soon", 3600), ("s-maxage=5", 3600), ("max-age=9999999999999", 86_400)],
)  # fmt: skip
def test_how_long_keys_are_kept(header: str, seconds: int) -> None:
    assert keysets.kept_s(header) == seconds


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://a.example/jwks", True), ("https://a.example:8443/jwks?x=1", True), ("http://127.0.0.1:1/j", True),
        ("http://[::1]:1/j", True), ("http://127.9.9.9/j", True), ("http://localhost/j", False),
        ("http://a.example/j", False), ("http://127.0.0.1.evil.example/j", False), ("http://0.0.0.0/j", False),
        ("http://2130706433/j", False), ("http://0x7f.1/j", False), ("ftp://127.0.0.1/j", False),
        ("file:///etc/passwd", False), ("https:///j", False), ("https://", False), ("", False),
        ("//a.example/j", False),
        ("https://user:pass@a.example/j", False), ("https://a.example/j#x", False), ("https://a.example/ j", False),
        ("https://a.example/j\n", False), ("https://[::1", False), ("HTTPS://a.example/j", True),
    ],
)  # fmt: skip
def test_keys_come_by_https_or_from_this_machine(url: str, may: bool) -> None:
    assert keysets.secure(url) is may


# --- at a URL: a real server that rotates its keys ----------------------------------------------------------------


@dataclass
class Place:
    """A client's JWKS endpoint, and the clock that its keys are kept by."""

    server: HTTPServer
    now_ms: int = 1_800_000_000_000
    asked: int = 0
    keys: Plain = field(default_factory=lambda: jwks(EC))
    answer: Callable[[], Response] | None = None
    cache: str = ""

    def __call__(self, request: Request) -> Response:
        self.asked += 1
        if self.answer is not None:
            return self.answer()
        headers = {"Cache-Control": self.cache} if self.cache else {}
        return Response(json.dumps(self.keys), headers=headers, mimetype="application/json")

    def later(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)

    def ring(self) -> keysets.FromUrl:
        url = self.server.url_for("/jwks").replace("localhost", "127.0.0.1")
        return keysets.FromUrl(lambda: url, published.fetch, ALGS, lambda: self.now_ms)


@pytest.fixture
def place() -> Iterator[Place]:
    with HTTPServer() as server:
        made = Place(server)
        server.expect_request("/jwks").respond_with_handler(made)
        yield made


def test_keys_are_fetched_once_and_kept(place: Place) -> None:
    ring = place.ring()

    assert all(ring.key("e1", "ES384") is not None for _ in range(5))
    assert place.asked == 1
    place.later(3599)
    ring.key("e1", "ES384")
    assert place.asked == 1
    place.later(1)
    ring.key("e1", "ES384")
    assert place.asked == 2


@pytest.mark.parametrize(("cache", "seconds"), [("max-age=600", 600), ("max-age=5", 60), ("max-age=9999999", 86_400)])
def test_the_servers_max_age_is_kept_within_bounds(place: Place, cache: str, seconds: int) -> None:
    place.cache = cache
    ring = place.ring()
    ring.key("e1", "ES384")
    place.later(seconds - 1)
    ring.key("e1", "ES384")
    assert place.asked == 1
    place.later(1)
    ring.key("e1", "ES384")
    assert place.asked == 2


def test_a_key_that_is_new_is_found_and_one_that_was_withdrawn_is_good_no_more(place: Place) -> None:
    ring = place.ring()
    ring.key("e1", "ES384")
    place.later(31)
    place.keys = jwks(NEXT)

    assert ring.key("e2", "ES384") is not None
    assert place.asked == 2
    place.later(31)
    assert ring.key("e1", "ES384") is None


def test_unknown_kids_do_not_make_us_ask_more_than_twice_a_minute(place: Place) -> None:
    ring = place.ring()

    assert [ring.key(f"made-up-{n}", "ES384") for n in range(50)] == [None] * 50
    assert place.asked == 1
    place.later(29.9)
    assert ring.key("made-up", "ES384") is None
    assert place.asked == 1
    place.later(0.1)
    assert ring.key("made-up", "ES384") is None
    assert place.asked == 2
    assert ring.key("e1", "ES384") is not None


def redirect(to: str) -> Response:
    return Response("", 302, headers={"Location": to})


FAILURES: dict[str, Callable[[], Response]] = {
    "500": lambda: Response("", 500),
    "404": lambda: Response("", 404),
    "no content": lambda: Response("", 204),
    "a redirect": lambda: redirect("/elsewhere"),
    "a page": lambda: Response("<html>"),
    "too large": lambda: Response(json.dumps({**jwks(EC), "more": "x" * 70_000})),
    "too large without a length": lambda: Response((b"x" * 8192 for _ in range(20)), direct_passthrough=True),
    "a compressed bomb": lambda: Response(bomb(), headers={"Content-Encoding": "gzip"}),
    "broken compression": lambda: Response(b"\x1f\x8bnothing", headers={"Content-Encoding": "gzip"}),
}


def bomb() -> bytes:
    import gzip

    return gzip.compress(json.dumps({**jwks(EC), "more": "x" * 5_000_000}).encode())


@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES)
def test_keys_that_can_not_be_read_let_nobody_in_and_are_asked_for_again_later(
    place: Place, answer: Callable[[], Response], caplog: pytest.LogCaptureFixture
) -> None:
    place.server.expect_request("/elsewhere").respond_with_json(jwks(EC))
    place.answer = answer
    ring = place.ring()
    for _ in range(3):
        with pytest.raises(Unavailable):
            ring.key("e1", "ES384")
    assert place.asked == 1
    assert any(r.levelno == logging.ERROR for r in caplog.records)

    place.answer = None
    place.later(30)
    assert ring.key("e1", "ES384") is not None


def test_keys_that_are_kept_serve_while_the_place_is_away_and_not_a_second_longer(place: Place) -> None:
    ring = place.ring()
    ring.key("e1", "ES384")
    place.answer = FAILURES["500"]
    place.later(3000)
    assert ring.key("made-up", "ES384") is None  # asked, in vain
    assert ring.key("e1", "ES384") is not None
    place.later(600)
    with pytest.raises(Unavailable):
        ring.key("e1", "ES384")


def test_a_place_that_is_not_secure_is_not_asked() -> None:
    def fetch(url: str) -> tuple[bytes, str]:
        raise AssertionError("asked")

    ring = keysets.FromUrl(lambda: "http://a.example/jwks", fetch, ALGS, lambda: 1_800_000_000_000)
    with pytest.raises(Unavailable):
        ring.key("e1", "ES384")


def test_while_one_asks_after_a_made_up_kid_nobody_waits_for_it(place: Place) -> None:
    ring = place.ring()
    ring.key("e1", "ES384")
    place.later(31)
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> Response:
        asked.set()
        go_on.wait(4)
        return Response(json.dumps(place.keys))

    place.answer = slow
    one_who_asks = threading.Thread(target=ring.key, args=("made-up", "ES384"))
    one_who_asks.start()
    try:
        assert asked.wait(4)
        assert ring.key("e1", "ES384") is not None
        assert not go_on.is_set()
        assert one_who_asks.is_alive()
    finally:
        go_on.set()
        one_who_asks.join()


def test_nothing_of_the_environment_goes_along(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    assert place.ring().key("e1", "ES384") is not None
    assert "Authorization" not in place.server.log[0][0].headers


def test_a_server_whose_certificate_nobody_vouches_for_gives_no_keys() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with HTTPServer(ssl_context=context) as server:
        server.expect_request("/jwks").respond_with_json(jwks(EC))
        with pytest.raises(Unavailable):
            published.fetch(server.url_for("/jwks").replace("localhost", "127.0.0.1"))


def test_nobody_listening_is_no_keys(place: Place) -> None:
    ring = place.ring()
    place.server.stop()
    with pytest.raises(Unavailable):
        ring.key("e1", "ES384")


# --- in a file ------------------------------------------------------------------------------------------------------


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(jwks(EC)))
    ring = keysets.FromFile(file, ALGS)
    assert ring.key("e1", "ES384") is not None

    file.write_text(json.dumps(jwks(RSA, NEXT)))

    assert ring.key("e1", "ES384") is None
    assert ring.key("e2", "ES384") is not None
    assert ring.key("e2", "RS384") is None


@pytest.mark.parametrize("text", ["", "{", '{"keys": 1}'])
def test_a_broken_file_of_keys_lets_nobody_in(tmp_path: Path, text: str) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(jwks(EC)))
    ring = keysets.FromFile(file, ALGS)
    ring.key("e1", "ES384")
    file.write_text(text)
    for _ in range(2):
        with pytest.raises(Unavailable):
            ring.key("e1", "ES384")
    file.unlink()
    with pytest.raises(Unavailable):
        ring.key("e1", "ES384")


def test_a_secret_is_never_a_key() -> None:
    assert taken(OctKey.generate_key(256, {"kid": "s"}).as_dict(private=True)) == set()
