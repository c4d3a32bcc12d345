"""Who asks for a token: the client's signed assertion (private_key_jwt), checked as SMART Backend Services asks.

Source: https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html and
https://www.rfc-editor.org/rfc/rfc7523#section-3
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fhir_secondop.access import jwts
from fhir_secondop.access.clients import Client
from fhir_secondop.access.jwts import SKEW_S
from fhir_secondop.errors import Unauthenticated

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS = ("RS384", "ES384")
LIFETIME_S = 300


@dataclass(frozen=True, slots=True)
class Assertion:
    """A client's word that held. It may be used once: `jti` is kept until `until_ms`,
    when it is too old by the clock of any worker."""

    client: Client
    jti: str
    until_ms: int


def check(text: str, find_client: Callable[[str], Client | None], token_url: str, now_ms: int) -> Assertion:
    """The assertion of a registered client, made for this token URL and for now.

    Raises Unauthenticated with what is wrong, for the log: the client gets one answer for all of it. Raises
    Unavailable where the client's keys can't be read.
    """
    now_s = now_ms / 1000
    token = jwts.opened(text, ALGORITHMS, ("jwt",))
    client = find_client(jwts.text_of(token.claims, "iss"))
    if client is None:
        raise Unauthenticated("Its iss is no registered client.")
    if "jku" in token.header and token.header["jku"] != client.jwks_url:
        raise Unauthenticated(f"{client.id}: its jku is not the registered JWKS URL.")
    key = client.keys.key(token.kid, token.alg)
    if key is None:
        raise Unauthenticated(f"{client.id}: its JWKS has no usable key with the kid and alg of the assertion.")
    claims = jwts.verify(token, key)
    ends = jwts.check_times(claims, now_s)
    if jwts.text_of(claims, "sub") != client.id:
        raise Unauthenticated(f"{client.id}: sub is not iss.")
    if jwts.audiences(claims) != (token_url,):
        raise Unauthenticated(f"{client.id}: aud is not {token_url}.")
    if ends > now_s + LIFETIME_S + SKEW_S:
        raise Unauthenticated(f"{client.id}: exp is more than five minutes ahead.")
    return Assertion(client, jwts.text_of(claims, "jti"), int((ends + 2 * SKEW_S) * 1000))
