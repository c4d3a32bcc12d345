"""A sign-in under way at the provider: kept in the browser, signed by us, good for ten minutes and one answer.

Nothing is stored for somebody who only asks to sign in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import asdict, dataclass

LASTS_S = 600
LEEWAY_S = 30  # by which a provider's clock may be off
_PLAIN = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
_TRICKS = re.compile(r"%(?:2f|5c|0|1|2e|7f)", re.IGNORECASE)
_LONGEST = 1000
_SIGN_IN = re.compile(r"/(?:sign-in|sign-out|case-link)(?:[/?]|$)")


@dataclass(frozen=True, slots=True)
class Pending:
    """What our callback must know of the sign-in that it answers. `at` is in ms since 1970.

    `again` is the cookie's hash of the session whose person is to prove itself again, or "".
    """

    state: str
    nonce: str
    verifier: str
    next: str
    at: int
    again: str = ""


def begun(next_path: str, now_ms: int, again: str = "") -> Pending:
    """A new one, with random values of 256 bits and a PKCE verifier of 64 characters."""
    return Pending(
        secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), next_path, now_ms, again
    )


def sealed(pending: Pending, key: bytes) -> str:
    """As it stands in the cookie."""
    text = base64.urlsafe_b64encode(json.dumps(asdict(pending)).encode()).decode()
    return f"{text}.{_seal(text, key)}"


def opened(cookie: str, key: bytes, now_ms: int) -> Pending | None:
    """What a cookie of ours says; None for any other, and for one that is too old."""
    text, _, seal = cookie.partition(".")
    if not cookie.isascii() or not hmac.compare_digest(_seal(text, key), seal):
        return None
    found = Pending(**json.loads(base64.urlsafe_b64decode(text)))
    return found if 0 <= now_ms - found.at <= 1000 * LASTS_S else None


def _seal(text: str, key: bytes) -> str:
    return hmac.new(key, b"sign-in" + text.encode(), hashlib.sha256).hexdigest()


def own_path(wanted: str) -> str:
    """The path to go to after signing in: one of ours, whatever was asked for; "/" in place of any other.

    Whatever a browser could take for another place ("//host", "/\\host", "https:…") is none of ours.
    """
    path = wanted.partition("?")[0]
    fits = len(wanted) <= _LONGEST and _PLAIN.fullmatch(wanted) and not _TRICKS.search(path)
    # No empty segment, for "//host"; none that begins with a dot, for "/../".
    fits = fits and not any(segment.startswith(".") or not segment for segment in path.split("/")[1:-1])
    return wanted if fits and not path.endswith(("/.", "/..")) and not _SIGN_IN.match(wanted) else "/"
