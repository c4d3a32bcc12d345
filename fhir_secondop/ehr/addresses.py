"""Which addresses may be connected to: those of the public internet, and what an operator allowed; pure.

Source: https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from fhir_secondop.ehr.failures import Refused
from fhir_secondop.ehr.origins import host_of
from fhir_secondop.model import Connection

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# First come, first told: more exact ranges stand above wider ones.
_SPECIAL: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "an unspecified address"),
    ("10.0.0.0/8", "a private address"),
    ("100.64.0.0/10", "a provider's shared address (CGNAT)"),
    ("127.0.0.0/8", "a loopback address"),
    ("169.254.0.0/16", "a link-local address"),
    ("172.16.0.0/12", "a private address"),
    ("192.0.0.0/24", "a reserved address"),
    ("192.0.2.0/24", "an address for documentation"),
    ("192.88.99.0/24", "a tunnel's address"),
    ("192.168.0.0/16", "a private address"),
    ("198.18.0.0/15", "an address for measurements"),
    ("198.51.100.0/24", "an address for documentation"),
    ("203.0.113.0/24", "an address for documentation"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "an unspecified address"),
    ("::1/128", "a loopback address"),
    ("fc00::/7", "a private address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a private address"),
    ("ff00::/8", "a multicast address"),
    ("2001::/32", "a tunnel's address"),  # Teredo: whoever is inside is named by the address itself
    ("2001::/23", "a reserved address"),
    ("2001:db8::/32", "an address for documentation"),
    ("2002::/16", "a tunnel's address"),  # 6to4, alike
    ("3fff::/20", "an address for documentation"),
)  # fmt: skip
_RANGES = tuple((ipaddress.ip_network(network), words) for network, words in _SPECIAL)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
# Their last 32 bits are the IPv4 address that is meant: mapped (RFC 4291), and NAT64 (RFC 6052), which is how a
# machine without IPv4 reaches the public internet.
_CARRIERS = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
# ISATAP (RFC 5214): behind any prefix the last 64 bits may name an IPv4 address inside a site.
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)

METADATA: frozenset[Address] = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "fe80::a9fe:a9fe",  # most; AWS, GCP, OpenStack
            "169.254.170.2", "169.254.170.23", "fd00:ec2::23",  # credentials of a container (AWS)
            "100.100.100.200", "192.0.0.192", "168.63.129.16",  # Alibaba, Oracle, Azure
            "169.254.0.23", "169.254.42.42", "fd00:42::42",  # Tencent, Scaleway
        ),
    )
)  # fmt: skip
"""Where clouds give a machine its credentials. One of them (Azure's) looks like a public address."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""This machine, in its three spellings: who writes one has configured them all."""

# What a resolver takes for an IPv4 address: https://url.spec.whatwg.org/#ends-in-a-number-checker
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


@dataclass(frozen=True, slots=True)
class Reach:
    """Where one connection may connect to, and how long its answers may take.

    `who` stands in front of a refusal. `hosts` are the addresses and the "localhost" that the operator wrote
    himself; `networks` what he allowed names to lead to. `longest_s` bounds a whole answer, from the request to
    its last byte.
    """

    who: str
    hosts: frozenset[str]
    networks: tuple[Network, ...]
    longest_s: float

    def check(self, host: str, address: str, *, proxy: bool = False) -> None:
        """Raises Refused where this address, to which the host's name led, is not to be connected to.

        The operator's own `proxy` may be anywhere but where a cloud keeps its secrets.
        """
        found = unscoped(address)
        forms = _forms(found)
        if not METADATA.isdisjoint(forms):
            if any(n.num_addresses == 1 and n.network_address in forms for n in self.networks):
                return
            raise Refused(f"{self.who}: the address is where a cloud keeps its machines' secrets; not asked. "
                          "Only networks with that very address (/32, /128) would allow it.")  # fmt: skip
        if proxy or (host in self.hosts and (host != "localhost" or found.is_loopback)):
            return
        if any(form in network for form in forms for network in self.networks):
            return
        words = kind(found)
        if words:
            raise Refused(f"{self.who}: the host is at {words}, and nobody allowed that; not asked. If it is meant, "
                          "name its network in the connection's setting networks.")  # fmt: skip

    def check_written(self, host: str) -> None:
        """Raises Refused where what is written for a host says by itself that it is not to be connected to.

        That is all that can be checked where a proxy resolves the name.
        """
        address = literal(host)
        if address is not None:
            self.check(host, str(address))
        elif host.rstrip(".").rpartition(".")[2] == "localhost":
            self.check(host, "127.0.0.1")
        elif _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise Refused(f"{self.who}: the host is a number in an unusual form; not asked. Write it like 192.0.2.1.")


def reach_of(connection: Connection, longest_s: float) -> Reach:
    """Where this connection may connect to. Its proxy is not among them: an EHR must not lead us to it."""
    messages = connection.hl7.replace("mllp", "http", 1)
    written = map(host_of, (connection.base, connection.token_url, messages, *connection.origins))
    hosts = frozenset(host for host in written if host == "localhost" or literal(host) is not None)
    return Reach(
        connection.name,
        hosts if hosts.isdisjoint(LOOPBACK) else hosts | LOOPBACK,
        tuple(map(ipaddress.ip_network, connection.networks)),
        longest_s,
    )


def literal(host: str) -> Address | None:
    """The address that a host in its usual form is; None of a name, and of 127.1, 0x7f000001 or 017700000001."""
    try:
        return unscoped(host)
    except ValueError:
        return None


def unscoped(text: str) -> Address:
    """The address without a zone ("fe80::1%eth0"), which would make it unlike itself. Raises ValueError."""
    return ipaddress.ip_address(text.partition("%")[0])


def kind(address: Address) -> str:
    """What a special address is, in words; "" of a public one."""
    carried = _carried(address)
    if carried is not None:
        return kind(carried)
    for network, words in _RANGES:
        if address in network:
            return words
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _GLOBAL_V6 or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP
    ):
        return "a reserved address"
    return ""


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    if any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _forms(address: Address) -> frozenset[Address]:
    """The address, and every IPv4 address that is inside of it: a network may name either."""
    inside = [_carried(address)]
    if isinstance(address, ipaddress.IPv6Address):
        inside += [address.sixtofour, *(address.teredo or ())]
    return frozenset([address, *(form for form in inside if form is not None)])
