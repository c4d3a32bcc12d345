"""The origin of a URL, read strictly: two programs must not see two hosts in one address.

Source: https://www.rfc-editor.org/rfc/rfc6454#section-4
"""

from __future__ import annotations

import re
from typing import NamedTuple

import idna

_DEFAULT_PORT = {"http": 80, "https": 443}
# A user name, a backslash, an escape or a blank in the authority is where parsers disagree.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[^\s\\/?#@:%\[\]<>^`{|}\"]+)(?::(?P<port>[0-9]{0,5}))?(?:[/?#].*)?",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # some parsers take them away, anywhere in a URL


class Origin(NamedTuple):
    """Scheme, host and port, as far as they must be the same. IPv6 stands without brackets, a name in ASCII."""

    scheme: str
    host: str
    port: int


def origin(url: str) -> Origin:
    """The origin of an http(s) URL. Raises ValueError (IDNAError is one) of anything that is not plainly one."""
    match = None if _CONTROL.search(url) else _URL.fullmatch(url)
    if match is None:
        raise ValueError("no plain http(s) URL")
    scheme, host = match["scheme"].lower(), match["host"].strip("[]").lower()
    if not host.isascii():
        # Only what stands in one form: look-alikes that would be mapped to another name are an error, as in urllib3.
        host = idna.encode(host).decode("ascii")
    return Origin(scheme, host, int(match["port"] or _DEFAULT_PORT[scheme]))


def host_of(url: str) -> str:
    """The host of a URL, or "" where it has none."""
    try:
        return origin(url).host
    except ValueError:
        return ""
