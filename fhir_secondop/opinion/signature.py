"""A detached JWS over the exact bytes of a document: made, and looked at in every respect that a JWS has.

Nothing is canonicalised: the bytes that were signed are kept, and are what is verified.
Source: RFC 7515, appendix F; https://hl7.org/fhir/R4/signatures.html; `iat` in the header as JAdES has it (ETSI TS
119 182-1), `iss` and `sub` as RFC 7519 section 5.3 allows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes

ALGORITHMS = ("ES384", "RS384")
DOCUMENT = "application/fhir+json"
JWS = "application/jose"
_REGISTRY = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)  # iat and the like are ours
_AUTHOR = codes.coding("urn:iso-astm:E1762-95:2013", "1.2.840.10065.1.12.1.1", "Author's Signature")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a signature is worth. `faults` is empty when it holds; the rest is what its protected header says.

    `signature` is about the bytes alone: whether this key signed exactly these. `at` and `auth_time` are seconds since
    1970 (0: not said); `revoked` and `ended` are the key's, in the same way.
    """

    faults: tuple[str, ...]
    signature: bool = False
    kid: str = ""
    alg: str = ""
    issuer: str = ""
    signer: str = ""
    at: int = 0
    auth_time: int = 0
    revoked: int = 0
    ended: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.faults


def sign(data: bytes, key: ECKey | RSAKey, *, kid: str, alg: str, issuer: str, signer: str, at: int,
         auth_time: int = 0) -> str:  # fmt: skip
    """The detached compact JWS: HEADER..SIGNATURE. `signer` is the absolute reference of who signs."""
    header: dict[str, Any] = {"alg": alg, "kid": kid, "cty": "fhir+json", "iss": issuer, "sub": signer, "iat": at}
    if auth_time:
        header["auth_time"] = auth_time
    head, _, mark = jws.serialize_compact(header, data, key, registry=_REGISTRY).split(".")
    return f"{head}..{mark}"


def fhir(detached: str, when: str, who: Resource) -> Resource:
    """The Signature of a Provenance that carries a detached JWS."""
    return {
        "type": [_AUTHOR],
        "when": when,
        "who": who,
        "targetFormat": DOCUMENT,
        "sigFormat": JWS,
        "data": base64.b64encode(detached.encode()).decode(),
    }


def detached_of(provenance: Resource) -> str:
    """The detached JWS that a Provenance carries, "" of none. Raises Invalid when it carries something else."""
    for one in provenance.get("signature", []):
        if one.get("sigFormat") == JWS and "data" in one:
            try:
                return base64.b64decode(one["data"], validate=True).decode("ascii")
            except ValueError as error:
                raise Invalid("The signature is not base64.", path="Provenance.signature.data") from error
    return ""


def examine(data: bytes, detached: str, jwks: dict[str, Any], *, kept_at: int = 0) -> Finding:
    """What the signature of these bytes is worth, by the published keys.

    A key that was revoked, or has ended, at a time counts for what it signed before. When it signed says the signature
    itself; `kept_at`, where somebody else knows it, is when the signature was there at the latest: the later counts, so
    that a stolen key can't sign for the past.
    """
    try:
        header = _header(detached)
    except (ValueError, KeyError, TypeError):
        return Finding(("the signature is no detached JWS with kid, alg and iat",))
    kid, alg, at = header["kid"], header["alg"], header["iat"]
    said = {"kid": kid, "alg": alg, "at": at, "issuer": header["iss"], "signer": header["sub"],
            "auth_time": header.get("auth_time", 0)}  # fmt: skip
    if alg not in ALGORITHMS or "b64" in header:  # RFC 7797: another payload than ours; unknown `crit` is the library's
        return Finding((f"signatures of this kind ({alg}) are not taken",), **said)
    named = [jwk for jwk in _keys(jwks) if jwk.get("kid") == kid]
    if len(named) != 1 or named[0].get("alg") != alg:
        return Finding((f"the key {kid} is not published",), **said)
    jwk = named[0]
    if not _signed(data, detached, jwk, alg):
        return Finding(("the bytes are not those that were signed",), **said)
    revoked, ended = int(jwk.get("revoked", {}).get("revoked_at", 0)), int(jwk.get("exp", 0))
    return Finding(tuple(_late(jwk, at, max(at, kept_at), revoked, ended)), signature=True, revoked=revoked,
                   ended=ended, **said)  # fmt: skip


def _late(jwk: dict[str, Any], at: int, latest: int, revoked: int, ended: int) -> Iterable[str]:
    if revoked and latest >= revoked:
        yield f"the key was revoked as of {times.instant(revoked * 1000)}, before it signed this"
    if ended and at > ended:
        yield f"the key ended on {times.instant(ended * 1000)}, before it signed this"
    if at < int(jwk.get("nbf", 0)):
        yield "the key did not sign yet at that time"


def _header(detached: str) -> dict[str, Any]:
    head, payload, mark = detached.split(".")
    if payload or not mark:
        raise ValueError("not detached")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    said = {"iss": "", "sub": "", **header}
    texts = all(isinstance(said[name], str) for name in ("kid", "alg", "iss", "sub"))
    numbers = all(type(said.get(name, 0)) is int for name in ("iat", "auth_time"))
    if not texts or not numbers or said["iat"] <= 0:
        raise ValueError("not a header of ours")
    return said


def _keys(jwks: dict[str, Any]) -> list[dict[str, Any]]:
    found = jwks.get("keys")
    if not isinstance(found, list) or not all(isinstance(jwk, dict) and _is_dated(jwk) for jwk in found):
        raise Invalid("This is no JWK set: a list `keys`, with exp, nbf and revoked_at in seconds.", path="keys")
    return found


def _is_dated(jwk: dict[str, Any]) -> bool:
    revoked = jwk.get("revoked", {"revoked_at": 0})
    times_ = [jwk.get("exp", 0), jwk.get("nbf", 0), revoked.get("revoked_at") if isinstance(revoked, dict) else None]
    return all(isinstance(at, int | float) for at in times_)


def _signed(data: bytes, detached: str, jwk: dict[str, Any], alg: str) -> bool:
    try:
        key: ECKey | RSAKey = ECKey.import_key(jwk) if alg == "ES384" else RSAKey.import_key(jwk)
        jws.deserialize_compact(detached, key, registry=_REGISTRY, payload=data)
    except (JoseError, ValueError, KeyError, TypeError):
        return False
    return True
