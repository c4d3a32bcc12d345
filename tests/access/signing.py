"""Tokens signed by hand: any bytes as header and claims, so that what no library would write can be sent too."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

Plain = dict[str, Any]


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Plain | str, claims: Plain | str, key: RSAKey | ECKey | None, alg: str = "") -> str:
    """A compact JWS over just these parts; text stands as it is. Without a key its signature is empty."""
    text = _text(header, claims)
    if key is None:
        return text + "."
    alg = alg or (header["alg"] if isinstance(header, dict) else "ES384")
    return f"{text}.{b64(jws.JWSRegistry.algorithms[alg].sign(text.encode(), key))}"


def hmac_signed(header: Plain, claims: Plain, secret: bytes, digest: str) -> str:
    """The same, by a shared secret; a public key's bytes, say, which libraries refuse to take for one."""
    text = _text(header, claims)
    return f"{text}.{b64(hmac.digest(secret, text.encode(), digest))}"


def _text(header: Plain | str, claims: Plain | str) -> str:
    parts = [part if isinstance(part, str) else json.dumps(part) for part in (header, claims)]
    return ".".join(b64(part.encode("utf-8", "surrogatepass")) for part in parts)


def jwks(*keys: Any, **more: Any) -> Plain:
    """The public halves of keys as a JWKS; further members go into each."""
    return {"keys": [{**key.as_dict(private=False), **more} for key in keys]}
