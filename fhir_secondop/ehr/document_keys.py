"""The keys that sign documents: a file of its own beside keys.py's, because here nothing that was published goes away.

A report is verified for years: the public half of each key stays, with until when it signed (`exp`) or from when on it
counts for nothing (`revoked`, as OpenID Federation writes it). The private half of both is destroyed.
Source: https://openid.net/specs/openid-federation-1_0.html (Federation Historical Keys)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fhir_secondop.ehr import keys
from fhir_secondop.ehr.keys import Jwk, SigningKey
from fhir_secondop.errors import Conflict, Invalid, NotFound

REASONS = ("compromised", "superseded", "unspecified")
_SECRET = ("d", "p", "q", "dp", "dq", "qi")


def signing(file: Path, now_s: int) -> SigningKey:
    """The newest key that may sign by now; the first of all is made here. Raises Invalid when every one was ended."""
    if not file.exists():
        keys.write(file, [keys.made("ES384", now_s)], first=True)
    usable = [jwk for jwk in keys.read(file) if _signs(jwk, now_s)]
    if not usable:
        raise Invalid(f"{file} has no key that may sign documents now; make one: keys new --for documents.")
    newest = max(usable, key=lambda jwk: jwk.get("signs_from", 0))
    return SigningKey(newest["kid"], newest["alg"], keys.imported(newest, file))


def published(file: Path) -> dict[str, Any]:
    """The JWK set with which a document is verified: every key that ever signed, and what became of it."""
    return {"keys": [_public(jwk) for jwk in keys.read(file)] if file.exists() else []}


def listed(file: Path) -> list[dict[str, Any]]:
    """kid, alg and signs_from of each key, with what ended it."""
    ended = ("exp", "revoked")
    return [
        {**row, **{name: jwk[name] for name in ended if name in jwk}}
        for row, jwk in zip(keys.listed(file), keys.read(file), strict=True)
    ]


def retire(file: Path, kid: str, *, now_s: int) -> None:
    """Ends a key: what it has signed goes on to verify, its private half is destroyed.

    Raises NotFound, Conflict for one that was ended before, Invalid for the only one that may sign by now.
    """
    held = keys.read(file)
    ended = _find(held, kid, file)
    if "d" not in ended:
        raise Conflict(f"The key {kid} was retired or revoked before.")
    if not any(_signs(jwk, now_s) for jwk in held if jwk["kid"] != kid):
        raise Invalid("No other key may sign yet; make one first: fhir-secondop keys new --for documents.")
    _replace(file, held, {**_without_secret(ended), "exp": now_s})


def revoke(file: Path, kid: str, *, since_s: int, reason: str, now_s: int) -> None:
    """From `since_s` on nothing that this key signed holds; what it signed before does. Its private half is destroyed.

    Said again only an earlier time counts. Raises NotFound, Invalid on a time to come.
    """
    if reason not in REASONS:
        raise Invalid(f"The reason {reason} is unknown; use one of {', '.join(REASONS)}.")
    if since_s > now_s:
        raise Invalid("A key is revoked from now on, or from a time before; retire it instead.")
    held = keys.read(file)
    ended = _find(held, kid, file)
    before = ended.get("revoked", {}).get("revoked_at", since_s)
    revoked = {"revoked_at": min(since_s, before), "reason": reason}
    _replace(file, held, {**_without_secret(ended), "revoked": revoked})


def _signs(jwk: Jwk, now_s: int) -> bool:
    return "d" in jwk and "exp" not in jwk and "revoked" not in jwk and jwk.get("signs_from", 0) <= now_s


def _find(held: list[Jwk], kid: str, file: Path) -> Jwk:
    for jwk in held:
        if jwk["kid"] == kid:
            return jwk
    raise NotFound(f"{file} has no key {kid}.")


def _replace(file: Path, held: list[Jwk], changed: Jwk) -> None:
    keys.write(file, [changed if jwk["kid"] == changed["kid"] else jwk for jwk in held])


def _without_secret(jwk: Jwk) -> Jwk:
    return {name: value for name, value in jwk.items() if name not in _SECRET}


def _public(jwk: Jwk) -> Jwk:
    # Named one by one: whatever else stands in the file is nobody's to see.
    kept = (*keys.PUBLIC["EC" if jwk["alg"] == "ES384" else "RSA"], "kid", "alg", "exp", "revoked")
    return {**{name: jwk[name] for name in kept if name in jwk}, "use": "sig", "nbf": jwk.get("signs_from", 0)}
