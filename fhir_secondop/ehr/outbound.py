"""One document from a configured URL, fetched safely: a client's public keys, what an issuer declares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import requests

from fhir_secondop.ehr import addresses, wire
from fhir_secondop.ehr.failures import EhrFailure, Refused, of_status
from fhir_secondop.ehr.origins import host_of, origin
from fhir_secondop.model import Connection


@dataclass(frozen=True, slots=True)
class Document:
    """What was fetched, and for how long it may be kept, as its server says."""

    body: bytes
    cache_control: str


def fetch(
    url: str, *, timeout_s: float, max_bytes: int, who: str = "", named_by: str = "", networks: Sequence[str] = (),
    proxy: str = "", ca_bundle: str = "", accept: str = "application/json",
) -> Document:  # fmt: skip
    """What stands at the URL, answered with 200.

    Over https, unless the host is a loopback address or "localhost"; no redirect is followed; no special address is
    asked (`addresses`), unless the operator wrote it in the URL himself, or `networks` has it. Where another server
    named the URL (a `jwks_uri` say), `named_by` is the configured URL of that one: then only what is written there
    counts as configured. `timeout_s` is for the whole answer, and again for connecting; `max_bytes` counts what was
    decoded. How deep JSON may be is the caller's to check.

    Raises EhrFailure: "policy" where it must not be asked, or is too large; what `of_status` says of other statuses;
    "unreachable" where no answer came in time. `who` stands in front of its message; else the configured host.
    Raises Invalid where the proxy or the CA file can't be used.
    """
    configured = named_by or url
    who = who or host_of(configured) or "a URL"
    try:
        asked = origin(url)
    except ValueError:
        raise Refused(f"{who}: what it should be fetched from is no plain http(s) URL.") from None
    if asked.scheme != "https" and not _is_loopback(asked.host):
        raise Refused(f"{who}: only https is fetched from another machine; not asked.")
    connection = Connection(who, configured, networks=tuple(networks), proxy=proxy, ca_bundle=ca_bundle,
                            timeout_s=timeout_s)  # fmt: skip
    try:
        with wire.session(connection, longest_s=timeout_s) as session, session.get(
            url, headers={"Accept": accept}, timeout=wire.timeout(connection), allow_redirects=False, stream=True
        ) as answer:  # fmt: skip
            if answer.status_code != 200:
                raise of_status(answer.status_code, who, writing=False)
            return Document(wire.whole(answer, max_bytes), answer.headers.get("Cache-Control", ""))
    except wire.TooMuch:
        raise EhrFailure("policy", f"{who}: an answer of over {max_bytes} bytes.") from None
    except requests.RequestException as error:
        raise EhrFailure("unreachable", f"{who}: no answer.") from error


def _is_loopback(host: str) -> bool:
    address = addresses.literal(host)
    return host == "localhost" or (address is not None and address.is_loopback)
