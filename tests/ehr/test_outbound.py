"""Where the program may connect to: a table of what must not be asked, and proof that the table is what holds.

Only the resolver is faked, where DNS itself is the attack; the servers are real.
"""

from __future__ import annotations

import pickle
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from urllib3.util import parse_url
from werkzeug.wrappers import Response

from fhir_secondop.ehr import addresses, keys
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure, Refused
from fhir_secondop.ehr.origins import origin
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection
from tests.ehr.conftest import client_of
from tests.ehr.recording import recording
from tests.ehr.resolving import Plugs, Resolver

PATIENT = {"resourceType": "Patient", "birthDate": "1971-04-17"}
PUBLIC = "93.184.215.14"
HERE = "127.0.0.1"


def refused(act: Callable[[], Any]) -> Refused:
    """The refusal that comes; one that is never tried again."""
    with pytest.raises(Refused) as caught:
        act()
    assert (caught.value.kind, caught.value.retryable) == ("policy", False)
    return caught.value


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


@pytest.fixture
def plugs(monkeypatch: pytest.MonkeyPatch) -> Plugs:
    return Plugs(monkeypatch)


@pytest.fixture(scope="module")
def second() -> Iterator[HTTPServer]:
    with HTTPServer(host=HERE) as server:
        yield server


@pytest.fixture
def other(second: HTTPServer) -> HTTPServer:
    """A second server, to which nothing may go."""
    second.clear()
    return second


@pytest.fixture
def token(tmp_path: Path) -> dict[str, Any]:
    """Settings of a connection that has a secret to lose."""
    (tmp_path / "token").write_text("s3cret")
    return {"auth": "bearer", "secret_file": str(tmp_path / "token")}


# ---- the allow-list of origins --------------------------------------------------------------------------------

# {own}: our EHR's host and port, {host} and {port} alone; {other}: another server's, {elsewhere} its port
TRICKS = (
    # another host, plainly
    "http://{other}/x",
    "HTTP://{other}/x",
    "hTTp://{other}",
    "http://{host}:{elsewhere}/x",
    "http://{host}/x",
    "http://{host}:/x",
    "http://{host}:0/x",
    "http://{other}/{own}/fhir",
    "http://{other}/?{own}",
    # user names
    "http://{own}@{other}/x",
    "http://us:s3cret@{own}/x",
    "http://us@{own}/x",
    "http://@{own}/x",
    "http://:@{own}/x",
    "http://{own}:80@{other}/x",
    "http://{other}@{own}/x",
    "http://a@b@{own}/x",
    "http://{own}%40{other}/x",
    # fragments and queries in front of the name that is shown
    "http://{other}#@{own}/x",
    "http://{other}?@{own}/x",
    "http://{other}#{own}",
    "http://{other}/#@{own}",
    # backslashes
    "http://{other}\\@{own}/x",
    "http://{own}\\@{other}/x",
    "http://{other}\\{own}/x",
    "http://{own}\\.{other}/x",
    "http:\\\\{other}\\x://",
    "http://\\{other}/x",
    # other schemes
    "https://{own}/x",
    "ftp://{own}/x",
    "ws://{own}/x",
    "file:///etc/passwd",
    "file://{own}/etc/passwd",
    "gopher://{own}/_GET",
    "dict://{own}/stats",
    "ldap://{own}/",
    "jar:http://{own}!/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "javascript://{own}/%0aalert(1)",
    "view-source:http://{own}/",
    "://{own}/x",
    # escapes in the host
    "http://%6c%6f%63%61%6c%68%6f%73%74:{port}/x",
    "http://{host}%2e:{port}/x",
    "http://{host}%00.{other}/x",
    "http://{own}%2f@{other}/x",
    "http://{host}%23@{other}/x",
    "http://127%2e0%2e0%2e1:{port}/x",
    # blanks and control characters, which some parsers take away
    " http://{other}/x",
    "\thttp://{other}/x",
    "http://{own}\t@{other}/x",
    "http://{host}\n:{port}/x",
    "http://{own}\r\nHost: evil.example/x",
    "http://{own}/x\r\nX-Evil: 1",
    "http://{own}/x\x00",
    "http://{own} @{other}/x",
    "http://{other} {own}/x",
    "ht\ttp://{other}/x",
    # dots, look-alikes, another alphabet
    "http://{host}.:{port}/x",
    "http://{host}..:{port}/x",
    "http://.{host}:{port}/x",
    "http://{host}.evil.example:{port}/x",
    "http://evil.{host}:{port}/x",
    "http://l\u043ecalhost:{port}/x",
    "http://xn--lcalhost-54g:{port}/x",
    "http://localhost\u3002evil.example:{port}/x",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:{port}/x",
    "http://\uff11\uff12\uff17\u30020\u30020\u30021:{port}/x",
    # our own machine, spelt otherwise
    "http://127.0.0.1:{port}/x",
    "http://127.1:{port}/x",
    "http://2130706433:{port}/x",
    "http://0x7f000001:{port}/x",
    "http://0x7f.1:{port}/x",
    "http://017700000001:{port}/x",
    "http://0177.0.0.1:{port}/x",
    "http://0:{port}/x",
    "http://[::1]:{port}/x",
    "http://[::ffff:127.0.0.1]:{port}/x",
    "http://[::ffff:7f00:1]:{port}/x",
    "http://[0:0:0:0:0:0:0:1]:{port}/x",
    "http://[::1%25lo]:{port}/x",
    # no URLs
    "http://",
    "http:///{own}/x",
    "http://:{port}/x",
    "http://[::1/x",
    "http://]{own}/x",
    "http://[]:{port}/x",
    "http://[{host}]:{port}/x",
    "http://{host}:port/x",
    "http://{host}:-1/x",
    "http://{own}:{port}/x",
    "http://{host}:999999/x",
    "http://{own};{other}/x",
    "http://{own},{other}/x",
    "http://{own}<{other}/x",
    "http://{own}&@{other}/x",
    "http://" + "a" * 300 + "\u00e4.example/x",
)


def spelt(trick: str, own: HTTPServer, other: HTTPServer) -> str:
    assert own.host == "localhost"
    return trick.format(own=f"{own.host}:{own.port}", host=own.host, port=own.port,
                        other=f"{other.host}:{other.port}", elsewhere=other.port)  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_no_address_but_the_configured_ones_is_asked(
    httpserver: HTTPServer, other: HTTPServer, plugs: Plugs, token: dict[str, Any], trick: str
) -> None:
    there = client_of(httpserver.url_for("/fhir"), **token)
    message = refused(lambda: there.get(spelt(trick, httpserver, other))).message
    assert plugs.addresses == []
    assert message.startswith("there: GET page: it")
    assert "evil" not in message


@pytest.mark.parametrize("trick", [*TRICKS, "//{other}/x", "//us@{own}/x", "//{own}\\@{other}", "//[::1/x"])
def test_no_next_page_leads_elsewhere(
    httpserver: HTTPServer, other: HTTPServer, plugs: Plugs, token: dict[str, Any], trick: str
) -> None:
    page = {"resourceType": "Bundle", "link": [{"relation": "next", "url": spelt(trick, httpserver, other)}]}
    httpserver.expect_request("/fhir/Condition").respond_with_json(page)
    there = client_of(httpserver.url_for("/fhir"), **token)
    with pytest.raises(EhrFailure) as caught:
        there.search("Condition", {})
    if trick not in ELSE:
        assert isinstance(caught.value, Refused)
        assert [r.path for r, _ in httpserver.log] == ["/fhir/Condition"]
    assert other.log == []
    assert {port for _, port in plugs.to} == {httpserver.port}


# What is a path when it stands behind another page's address, on our own EHR, which has no such page; and what is no
# JSON that we take.
ELSE = ("http:\\\\{other}\\x://", "://{own}/x", "http:///{own}/x", "http://", "http://{own}/x\x00")


@pytest.mark.parametrize(
    "spelling",
    ["http://{own}/fhir/Patient/1", "HTTP://{OWN}/fhir/Patient/1", "http://{own}/fhir/Patient/1?a=b c&d=http://x@y",
     "http://{own}/fhir/Patient/1#@evil.example"],
)  # fmt: skip
def test_the_same_origin_in_another_spelling_is_asked(httpserver: HTTPServer, spelling: str) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    own = f"{httpserver.host}:{httpserver.port}"
    url = spelling.format(own=own, OWN=own.upper(), port=httpserver.port)
    assert client_of(httpserver.url_for("/fhir")).read(url) == PATIENT


def test_an_umlaut_and_its_ascii_form_are_one_host() -> None:
    assert origin("https://klinik-m\u00fcnchen.example/x") == origin("https://XN--klinik-mnchen-3ob.example:443")


@pytest.mark.parametrize(
    "base",
    [
        "http://us:s3cret@{own}/fhir",
        "http://us@{own}/fhir",
        "http://{host}\\x:1/fhir",
        "{own}/fhir",
        "ftp://{own}/fhir",
    ],
)
def test_a_base_that_is_no_plain_url_is_named_and_not_quoted(httpserver: HTTPServer, base: str) -> None:
    url = base.format(own=f"{httpserver.host}:{httpserver.port}", host=httpserver.host)
    with pytest.raises(Invalid, match="there: base and origins must be plain") as caught:
        client_of(url)
    assert "s3cret" not in str(caught.value)


# What URLs are made of, and what confuses their readers.
PIECES = st.sampled_from(
    ["http", "https", "HTTP", ":", "/", "//", "://", "\\", "@", "#", "?", "%40", "%2e", "%00", ".", "..", "[", "]",
     "::1", "127.0.0.1", "127.1", "0x7f", "2130706433", "ehr.example", "EVIL.example", "localhost", "80", "443", "8443",
     " ", "\t", "\r\n", "\x00", "\u3002", "\u00ad", "\u212a", "\u00e4", "\u043e", "\uff0f", "\ufe0f",
     "xn--", "a", ";", "&", "_"]
)  # fmt: skip


@settings(max_examples=2000, deadline=None)
@given(st.one_of(st.just("http://"), st.just("https://"), st.just("")), st.lists(PIECES, max_size=9))
def test_who_sends_reads_the_same_host_as_who_checks(begin: str, pieces: list[str]) -> None:
    url = begin + "".join(pieces)
    try:
        seen = origin(url)
    except ValueError:
        return
    try:
        sent = parse_url(str(requests.Request("GET", url).prepare().url))
    except (requests.RequestException, ValueError):
        return  # it is not sent then
    port = sent.port if sent.port is not None else {"http": 80, "https": 443}[str(sent.scheme)]
    assert (sent.scheme, str(sent.host).strip("[]").lower(), port, sent.auth) == (*seen, None)


# ---- what a name may lead to ----------------------------------------------------------------------------------

SPECIAL = (
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "CGNAT"),
    ("100.127.255.254", "CGNAT"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.1.1", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.8", "reserved"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "tunnel"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "measurements"),
    ("198.19.255.255", "measurements"),
    ("198.51.100.7", "documentation"),
    ("203.0.113.7", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "reserved"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::2", "reserved"),
    ("::7f00:1", "reserved"),  # IPv4-compatible, long gone
    ("100::1", "reserved"),  # discarded
    ("fc00::1", "private"),
    ("fd12:3456:789a::1", "private"),
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "private"),
    ("ff02::1", "multicast"),
    ("ff0e::1", "multicast"),
    ("2001:db8::1", "documentation"),
    ("3fff::1", "documentation"),
    ("2001:2::1", "reserved"),
    ("2001:20::1", "reserved"),
    ("4000::1", "reserved"),
    ("5f00::1", "reserved"),
    ("::ffff:127.0.0.1", "loopback"),
    ("::ffff:10.0.0.1", "private"),
    ("::ffff:192.168.0.1", "private"),
    ("::ffff:0:127.0.0.1", "reserved"),  # translated, RFC 2765
    ("64:ff9b::127.0.0.1", "loopback"),  # NAT64
    ("64:ff9b::10.0.0.1", "private"),
    ("64:ff9b:1::10.0.0.1", "reserved"),
    ("2002:7f00:1::1", "tunnel"),  # 6to4 of 127.0.0.1
    ("2002:a00:1::1", "tunnel"),
    ("2001:0:7f00:1::1", "tunnel"),  # Teredo
    ("2001:0:4136:e378:8000:63bf:80ff:fffe", "tunnel"),
    ("2620:0:1::5efe:10.0.0.1", "reserved"),  # ISATAP behind a public prefix
    ("2620:0:1::200:5efe:10.0.0.1", "reserved"),
)
SECRETS = (
    "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "fd00:ec2::254",
    "fd00:ec2::254%eth0", "fd20:ce::254", "fe80::a9fe:a9fe", "169.254.170.2", "169.254.170.23", "100.100.100.200",
    "192.0.0.192", "168.63.129.16", "169.254.42.42", "2001:0:102:304:8000:63bf:5601:5601",
)  # fmt: skip


@pytest.mark.parametrize(("address", "words"), SPECIAL)
def test_a_name_that_leads_to_a_special_address_is_refused(
    resolver: Resolver, plugs: Plugs, address: str, words: str
) -> None:
    resolver.answers["ehr.example"] = [[address]]
    there = client_of("http://ehr.example/fhir")
    for act in (lambda: there.get("Patient", {"family": "Sampleton"}), lambda: there.write("POST", "Patient", PATIENT)):
        message = refused(act).message
        assert words in message
        assert "networks" in message
        assert message.startswith("there: ")
        for told in ("Sampleton", address, "ehr.example", "Patient"):
            assert told not in message
    assert plugs.addresses == []


@pytest.mark.parametrize("address", SECRETS)
def test_where_clouds_keep_secrets_is_refused_even_in_an_allowed_network(
    resolver: Resolver, plugs: Plugs, address: str
) -> None:
    resolver.answers["ehr.example"] = [[address]]
    wide = ("169.254.0.0/16", "100.64.0.0/10", "192.0.0.0/8", "168.63.0.0/16", "fc00::/7", "fe80::/10", "2001::/16",
            "2002::/16", "64:ff9b::/96", "169.254.169.254/31")  # fmt: skip
    message = refused(lambda: client_of("http://ehr.example/fhir", networks=wide).get("metadata")).message
    assert "/32" in message
    assert plugs.addresses == []


@pytest.mark.parametrize("written", ["169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "[::ffff:169.254.169.254]"])
def test_where_clouds_keep_secrets_is_refused_even_as_a_base(plugs: Plugs, written: str) -> None:
    refused(lambda: client_of(f"http://{written}/latest").get("meta-data"))
    with recording() as proxy:
        refused(lambda: client_of(f"http://{written}/latest", proxy=proxy.url).get("meta-data"))
        assert proxy.passed == []
    assert plugs.addresses == []


def test_one_very_address_of_a_cloud_can_be_allowed(resolver: Resolver, plugs: Plugs, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/Patient/1").respond_with_json(PATIENT)
    resolver.answers["ehr.example"] = [["169.254.169.254"]]
    plugs.instead["169.254.169.254"] = HERE
    there = client_of(f"http://ehr.example:{httpserver.port}", networks=("169.254.169.254/32",))
    assert there.read("Patient/1") == PATIENT


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.3", "10.1.2.3"),
        ("100.64.7.7", "100.64.0.0/10"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("64:ff9b::10.1.2.3", "10.0.0.0/8"),
        ("fd12::1", "fd00::/8"),
        ("2002:a00:1::1", "2002::/16"),
    ],
)
def test_a_configured_network_allows_what_is_in_it(address: str, network: str) -> None:
    there = Connection("there", "http://ehr.example/fhir", networks=(network,))
    addresses.reach_of(there, 1).check("ehr.example", address)
    elsewhere = Connection("there", "http://ehr.example/fhir", networks=("192.168.0.0/16", "fd99::/16"))
    refused(lambda: addresses.reach_of(elsewhere, 1).check("ehr.example", address))


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
     "172.15.255.255", "172.32.0.0", "192.0.1.0", "198.17.255.255", "223.255.255.255", "2606:4700::1111", "2a00::1",
     "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"],
)  # fmt: skip
def test_a_public_address_is_allowed(address: str) -> None:
    addresses.reach_of(Connection("there", "http://ehr.example"), 1).check("ehr.example", address)


def test_a_private_name_is_asked_once_its_network_is_configured(resolver: Resolver, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    resolver.answers["ehr.example"] = [[HERE]]
    base = f"http://ehr.example:{httpserver.port}/fhir"
    refused(lambda: client_of(base).read("Patient/1"))
    refused(lambda: client_of(base, networks=("10.0.0.0/8",)).read("Patient/1"))
    assert httpserver.log == []
    assert client_of(base, networks=("127.0.0.0/8",)).read("Patient/1") == PATIENT


@pytest.mark.parametrize("written", [HERE, "localhost", "LOCALHOST"])
def test_a_literal_that_the_operator_wrote_is_configured(httpserver: HTTPServer, written: str) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    assert client_of(f"http://{written}:{httpserver.port}/fhir").read("Patient/1") == PATIENT


def test_a_name_is_not_configured_by_the_literal_of_another_setting(resolver: Resolver, httpserver: HTTPServer) -> None:
    """base = 127.0.0.1 does not let the name of a further origin lead there."""
    resolver.answers["files.example"] = [[HERE]]
    origins = (f"http://files.example:{httpserver.port}",)
    there = client_of(f"http://{HERE}:{httpserver.port}/fhir", origins=origins)
    refused(lambda: there.file(f"http://files.example:{httpserver.port}/scan", ""))
    assert httpserver.log == []


def test_localhost_leads_to_loopback_alone(resolver: Resolver, plugs: Plugs) -> None:
    resolver.answers["localhost"] = [["10.0.0.1"]]
    refused(lambda: client_of("http://localhost/fhir").read("Patient/1"))
    assert plugs.addresses == []


def test_what_is_allowed_among_the_addresses_of_a_name_is_asked(
    resolver: Resolver, plugs: Plugs, httpserver: HTTPServer
) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    resolver.answers["ehr.example"] = [["10.0.0.1", PUBLIC, "::1"]]
    plugs.instead[PUBLIC] = HERE
    assert client_of(f"http://ehr.example:{httpserver.port}/fhir").read("Patient/1") == PATIENT
    assert plugs.addresses == [PUBLIC]


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0x0a000001", "10.1", "012.1.1.1",
                                  "134744072", "8.8", "0x08080808", "127.0.0.1.", "1.2.3.4.5", "0"])  # fmt: skip
@pytest.mark.parametrize("setting", ["base", "networks", "proxy"])
def test_a_number_in_an_unusual_form_is_never_asked(plugs: Plugs, host: str, setting: str) -> None:
    """Every resolver and every proxy reads them otherwise."""
    with recording() as proxy:
        more: dict[str, Any] = {"networks": {"networks": ("127.0.0.0/8", "10.0.0.0/8")}, "proxy": {"proxy": proxy.url}}
        there = client_of(f"http://{host}/fhir", **more.get(setting, {}))
        assert "unusual form" in refused(lambda: there.read("Patient/1")).message
        assert proxy.passed == []
    assert plugs.addresses == []


# ---- rebinding ------------------------------------------------------------------------------------------------


def test_a_name_that_turns_private_after_the_check_gains_nothing(
    resolver: Resolver, plugs: Plugs, httpserver: HTTPServer
) -> None:
    """Looked up once for each connection; what was checked is what is connected to."""
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT, headers={"Connection": "close"})
    resolver.answers["ehr.example"] = [[PUBLIC], [HERE]]
    plugs.instead[PUBLIC] = HERE
    there = client_of(f"http://ehr.example:{httpserver.port}/fhir")
    assert there.read("Patient/1") == PATIENT
    assert (resolver.asked, plugs.addresses) == (["ehr.example"], [PUBLIC])
    refused(lambda: there.read("Patient/1"))
    assert (resolver.asked, plugs.addresses) == (["ehr.example"] * 2, [PUBLIC])
    assert len(httpserver.log) == 1


def test_a_refusal_is_not_tried_again(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    resolver.answers["ehr.example"] = [["10.0.0.1"]]
    patient = Client(Connection("there", "http://ehr.example/fhir", rate_per_s=0.0), now=lambda: 0, tries=3)
    refused(lambda: patient.read("Patient/1"))
    assert resolver.asked == ["ehr.example"]


def test_a_write_to_a_name_without_address_was_not_sent(resolver: Resolver) -> None:
    resolver.answers["ehr.example"] = [[]]
    there = client_of("http://ehr.example/fhir")
    for act in (lambda: there.read("Patient/1"), lambda: there.write("POST", "Patient", PATIENT)):
        with pytest.raises(EhrFailure) as caught:
            act()
        assert (caught.value.kind, caught.value.retryable) == ("unreachable", True)


def test_a_refusal_survives_the_journal_of_a_workflow() -> None:
    after = pickle.loads(pickle.dumps(Refused("there: not asked.")))
    assert (type(after), after.kind, after.message, after.retryable) == (Refused, "policy", "there: not asked.", False)


def test_the_certificate_and_the_host_are_those_of_the_name(resolver: Resolver, plugs: Plugs, tmp_path: Path) -> None:
    ca = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("ehr.example").configure_cert(context)
    context.sni_callback = lambda plug, name, _: names.append(name)  # type: ignore[assignment]
    resolver.answers["ehr.example"] = resolver.answers["imposter.example"] = [[PUBLIC]]
    plugs.instead[PUBLIC] = HERE
    with HTTPServer(host=HERE, ssl_context=context) as server:
        server.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
        base = f"https://ehr.example:{server.port}/fhir"
        assert client_of(base, ca_bundle=str(tmp_path / "ca.pem")).read("Patient/1") == PATIENT
        ((request, _),) = server.log
        assert request.headers["Host"] == f"ehr.example:{server.port}"
        with pytest.raises(EhrFailure) as caught:
            client_of(base.replace("ehr", "imposter"), ca_bundle=str(tmp_path / "ca.pem")).read("Patient/1")
        assert caught.value.kind == "unreachable"
        assert names == ["ehr.example", "imposter.example"]
        assert len(server.log) == 1
    assert set(plugs.addresses) == {PUBLIC}


# ---- what an EHR names: its token endpoint ----------------------------------------------------------------------


@pytest.fixture
def smart(tmp_path: Path) -> dict[str, Any]:
    keys.add(tmp_path / "keys.json", "ES384", now_s=0, signs_after_h=0)
    return {"auth": "smart", "client_id": "us", "key_file": str(tmp_path / "keys.json")}


NAMED = (
    "http://{other}/token", "http://127.1:{port}/token", "http://2130706433:{port}/token", "http://0x7f.1:{port}/token",
    "http://0177.0.0.1:{port}/token", "http://[::1]:{port}/token", "http://[::ffff:127.0.0.1]:{port}/token",
    "http://0:{port}/token", "http://0.0.0.0:{port}/token", "http://10.0.0.1/token", "http://192.168.1.1/token",
    "http://169.254.169.254/latest/meta-data/iam", "http://[fd00:ec2::254]/latest", "http://100.100.100.200/latest",
    "http://[fe80::1]/token",
    "http://[64:ff9b::7f00:1]:{port}/token", "http://[2002:7f00:1::]:{port}/token", "http://evil.localhost:{port}/token",
)  # fmt: skip


# Behind a proxy a name is the proxy's to resolve.
NAMES = ("http://metadata.example/computeMetadata/v1", "http://inside.example/token")


@pytest.mark.parametrize(
    ("url", "behind_proxy"),
    [*((url, False) for url in NAMED + NAMES), *((url, True) for url in NAMED)],
)
def test_a_token_endpoint_inside_our_walls_is_not_asked(
    httpserver: HTTPServer, other: HTTPServer, resolver: Resolver, plugs: Plugs, smart: dict[str, Any], url: str,
    behind_proxy: bool,
) -> None:  # fmt: skip
    """The EHR writes that URL: an assertion that we signed must not go to wherever it likes."""
    resolver.answers["inside.example"] = [["10.0.0.1"]]
    resolver.answers["metadata.example"] = [["169.254.169.254"]]
    resolver.answers["evil.localhost"] = [[HERE]]
    named = url.format(other=f"{other.host}:{other.port}", port=other.port)
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_json({"token_endpoint": named})
    resolver.answers["ehr.example"] = [[PUBLIC]]
    plugs.instead[PUBLIC] = HERE
    base = f"http://ehr.example:{httpserver.port}/fhir"
    with recording() as proxy:
        there = client_of(base, **smart, **({"proxy": proxy.url} if behind_proxy else {}))
        refused(lambda: there.read("Patient/1"))
        refused(lambda: there.write("POST", "Patient", PATIENT))
        assert len(proxy.passed) == behind_proxy
    assert [r.path for r, _ in httpserver.log] == ["/fhir/.well-known/smart-configuration"]
    assert other.log == []


def test_a_base_that_is_refused_is_not_taken_for_one_without_smart(resolver: Resolver, smart: dict[str, Any]) -> None:
    resolver.answers["ehr.example"] = [["10.0.0.1"]]
    message = refused(lambda: client_of("http://ehr.example/fhir", **smart).read("Patient/1")).message
    assert "private address" in message


# ---- redirects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["configuration", "token", "file"])
def test_no_redirect_is_followed_anywhere(
    httpserver: HTTPServer, other: HTTPServer, smart: dict[str, Any], status: int, where: str
) -> None:
    other.expect_request("/stolen").respond_with_json({"access_token": "t", "token_endpoint": other.url_for("/stolen")})
    elsewhere = Response("", status, headers={"Location": other.url_for("/stolen")})
    away = {"configuration": "/fhir/.well-known/smart-configuration", "token": "/token", "file": "/scan"}[where]
    httpserver.expect_request(away).respond_with_response(elsewhere)
    httpserver.expect_request("/fhir/.well-known/smart-configuration").respond_with_json(
        {"token_endpoint": httpserver.url_for("/token")}
    )
    httpserver.expect_request("/token").respond_with_json({"access_token": "t"})
    # that place may be asked, by its own address: it is the redirect alone that is not followed
    there = client_of(httpserver.url_for("/fhir"), origins=(other.url_for(""),), **smart)
    with pytest.raises(EhrFailure):
        there.file(httpserver.url_for("/scan"), "")
    assert other.log == []
    assert away in [r.path for r, _ in httpserver.log]


# ---- behind a proxy ---------------------------------------------------------------------------------------------


def test_a_configured_proxy_may_be_inside_and_resolves_the_names(resolver: Resolver, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/fhir/Patient/1").respond_with_json(PATIENT)
    with recording() as proxy:
        resolver.answers["proxy.example"] = [[HERE]]
        there = client_of(httpserver.url_for("/fhir"), proxy=proxy.url.replace(HERE, "proxy.example"))
        assert there.read("Patient/1") == PATIENT
        assert len(proxy.passed) == 1
        resolver.answers["proxy.example"] = [["169.254.169.254"]]
        there = client_of(httpserver.url_for("/fhir"), proxy=proxy.url.replace(HERE, "proxy.example"))
        refused(lambda: there.read("Patient/1"))
