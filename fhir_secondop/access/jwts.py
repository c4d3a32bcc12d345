"""Signed tokens of others (JWS in compact form): read strictly, the signature checked by a key that we chose.

Reading is our own where JSON libraries are lenient: a member that stands twice, NaN, a number as text. The
cryptography is joserfc's.
Source: https://www.rfc-editor.org/rfc/rfc7515 and https://www.rfc-editor.org/rfc/rfc8725
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhir_secondop.errors import Unauthenticated

SKEW_S = 60  # how far another clock may differ from ours
_LONGEST = 16_384
Key = ECKey | RSAKey
Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token as it says it is; nothing of it is true yet."""

    text: str
    alg: str
    kid: str
    header: Claims
    claims: Claims


def opened(text: str, algorithms: Collection[str], types: Collection[str]) -> Unverified:
    """The parts of a token whose header names one of these algorithms and a kid, and one of these types if any.

    Raises Unauthenticated, with what is wrong; never with a part of the token.
    """
    parts = text.split(".")
    if len(text) > _LONGEST or len(parts) != 3 or not text.isascii():
        raise Unauthenticated("It is no signed JWT in compact form.")
    header, claims = _object(_decoded(parts[0])), _object(_decoded(parts[1]))
    alg, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(alg, str) or alg not in algorithms:
        raise Unauthenticated(f"Its alg is not one of {', '.join(algorithms)}.")
    if not isinstance(kid, str) or not 0 < len(kid) <= 256:
        raise Unauthenticated("Its header has no kid.")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in types:
        raise Unauthenticated(f"Its typ is not one of {', '.join(types)}.")
    if "crit" in header or "b64" in header:
        raise Unauthenticated("Its header demands extensions that we have not.")
    return Unverified(text, alg, kid, header, claims)


def verify(token: Unverified, key: Key) -> Claims:
    """The claims, true as far as this key's holder says them. Raises Unauthenticated when the signature fails."""
    try:
        # Whatever the header offers as a key (jwk, x5c, jku) is not looked at. Strict about the header's members.
        jws.deserialize_compact(token.text, key, algorithms=[token.alg])
    except (JoseError, ValueError) as error:
        raise Unauthenticated("Its signature does not hold.") from error
    return token.claims


def moment(claims: Claims, name: str) -> float | None:
    """A NumericDate, in seconds since 1970; None where it is not there. Raises Unauthenticated on anything else."""
    value = claims.get(name)
    if name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11 or math.isnan(value):
        raise Unauthenticated(f"Its {name} is no number of seconds.")
    return float(value)


def check_times(claims: Claims, now_s: float) -> float:
    """When it ends, in seconds since 1970. Raises Unauthenticated when it has ended, or not begun."""
    ends = moment(claims, "exp")
    if ends is None:
        raise Unauthenticated("It has no exp.")
    if ends <= now_s - SKEW_S:
        raise Unauthenticated("It has expired.")
    for name in ("iat", "nbf"):
        begins = moment(claims, name)
        if begins is not None and begins > now_s + SKEW_S:
            raise Unauthenticated(f"Its {name} is in the future.")
    return ends


def audiences(claims: Claims) -> tuple[str, ...]:
    """The aud claim, which may be one or several; empty where it is neither."""
    said = claims.get("aud")
    many: list[Any] = said if isinstance(said, list) else [said]
    return tuple(many) if all(isinstance(one, str) for one in many) else ()


def text_of(claims: Claims, name: str, longest: int = 256) -> str:
    """A claim that is text. Raises Unauthenticated when it is missing, empty, too long or anything else."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise Unauthenticated(f"Its {name} is missing, or no text of at most {longest} characters.")
    return value


def loads(data: bytes) -> Any:
    """JSON, strictly: no member twice, no NaN. Raises ValueError."""
    try:
        return json.loads(data, object_pairs_hook=_members, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _members(pairs: list[tuple[str, Any]]) -> Claims:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _decoded(part: str) -> bytes:
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unauthenticated("It is no signed JWT in compact form.") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise Unauthenticated("It is no signed JWT in compact form.")  # one token, one spelling
    return data


def _object(data: bytes) -> Claims:
    try:
        found = loads(data)
    except ValueError as error:
        raise Unauthenticated("It holds JSON that is none, or a member twice.") from error
    if not isinstance(found, dict):
        raise Unauthenticated("It holds no JSON object.")
    return found
