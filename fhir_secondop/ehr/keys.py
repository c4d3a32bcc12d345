"""Our signing keys: a private JWK set in one file, its public half published, new keys announced before they sign.

EHRs fetch our JWKS and keep it for a while: a key signs from `signs_from` on (seconds since 1970), and is published
from the start; one that is retired is published no more.
Source: https://hl7.org/fhir/smart-app-launch/client-confidential-asymmetric.html
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhir_secondop.errors import Invalid, NotFound

ALGORITHMS = ("ES384", "RS384")
Jwk = dict[str, Any]
_KINDS = {"ES384": "EC", "RS384": "RSA"}
# Members by kind. Whatever else stands in the file is nobody's to see.
PUBLIC = {"EC": ("kty", "crv", "x", "y"), "RSA": ("kty", "n", "e")}
_PRIMES = ("p", "q", "dp", "dq", "qi")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and the algorithm that it signs with."""

    kid: str
    alg: str
    key: ECKey | RSAKey


def add(file: Path, alg: str, *, now_s: int, signs_after_h: float) -> str:
    """Makes a key, writes it into the file (made with mode 600 where it is new); its kid."""
    if alg not in ALGORITHMS:
        raise Invalid(f"The algorithm {alg} is not offered; use one of {', '.join(ALGORITHMS)}.")
    held = read(file) if file.exists() else []
    # The first key of all may sign at once: nobody has an older set.
    jwk = made(alg, now_s + int(signs_after_h * 3600) if held else now_s)
    write(file, [*held, jwk])
    return str(jwk["kid"])


def made(alg: str, signs_from: int) -> Jwk:
    """A new entry of a file; its kid is the thumbprint of the key (RFC 7638)."""
    key: ECKey | RSAKey | None = None
    while key is None or str(key.kid).startswith("-"):  # which a command line would take for an option
        key = (
            ECKey.generate_key("P-384", private=True, auto_kid=True)
            if alg == "ES384"
            else RSAKey.generate_key(3072, private=True, auto_kid=True)
        )
    return {**key.as_dict(private=True), "alg": alg, "use": "sig", "signs_from": signs_from}


def retire(file: Path, kid: str, *, now_s: int) -> None:
    """Takes a key out of the file. Raises Invalid for the only one that may sign by now."""
    held = read(file)
    left = [jwk for jwk in held if jwk["kid"] != kid]
    if len(left) == len(held):
        raise NotFound(f"{file} has no key {kid}.")
    if not left:
        raise Invalid("This is the only key; make a new one first: fhir-secondop keys new.")
    if not any(jwk.get("signs_from", 0) <= now_s for jwk in left):
        raise Invalid("Retire it later: no other key may sign yet (signs_from).")
    write(file, left)


def listed(file: Path) -> list[dict[str, Any]]:
    """kid, alg and signs_from of each key, in the order of the file."""
    return [{"kid": j["kid"], "alg": j["alg"], "signs_from": j.get("signs_from", 0)} for j in read(file)]


def public(keys_files: Iterable[Path]) -> dict[str, Any]:
    """The JWK set to publish: the public half of every key of these files, each once."""
    found: dict[str, Jwk] = {}
    for file in keys_files:
        for jwk in read(file):
            imported(jwk, file)  # what is no key is not published as one
            members = {name: jwk[name] for name in PUBLIC[jwk["kty"]]}
            found[jwk["kid"]] = {**members, "kid": jwk["kid"], "alg": jwk["alg"], "use": "sig"}
    return {"keys": list(found.values())}


def signing(file: Path, offered: Iterable[str], now_s: int) -> SigningKey:
    """The newest key that may sign by now, with an algorithm that the server takes (any, when it names none)."""
    wanted = set(offered) & set(ALGORITHMS) or set(ALGORITHMS)
    usable = [jwk for jwk in read(file) if jwk["alg"] in wanted and jwk.get("signs_from", 0) <= now_s]
    if not usable:
        raise Invalid(f"{file} has no key that may sign with {' or '.join(sorted(wanted))} now; make one: keys new.")
    newest = max(usable, key=lambda jwk: jwk.get("signs_from", 0))
    return SigningKey(newest["kid"], newest["alg"], imported(newest, file))


def imported(jwk: Jwk, file: Path) -> ECKey | RSAKey:
    """The private key of an entry of the file. Raises Invalid when it is none."""
    kind = _KINDS[jwk["alg"]]
    try:
        members = {name: jwk[name] for name in (*PUBLIC[kind], "d")}
        members |= {name: jwk[name] for name in _PRIMES if kind == "RSA" and name in jwk}
        key = ECKey.import_key(members) if kind == "EC" else RSAKey.import_key(members)
        usable = members["kty"] == kind and members.get("crv", "P-384") == "P-384"
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{file}: the key {jwk['kid']} can't be used ({type(error).__name__}).") from None
    if not usable:
        raise Invalid(f"{file}: the key {jwk['kid']} is not one for {jwk['alg']}.")
    return key


def read(file: Path) -> list[Jwk]:
    """The entries of the file. Raises Invalid."""
    try:
        loaded = json.loads(file.read_text("utf-8"))
        keys: list[Jwk] = list(loaded["keys"])
        named = all(_is_named(jwk) for jwk in keys) and isinstance(loaded["keys"], list)
    except OSError as error:
        raise Invalid(f"{file} can't be read ({error.strerror}); make it with: fhir-secondop keys new.") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Invalid(f"{file} is no JWK set of private keys.") from None
    if not named:
        raise Invalid(
            f"{file}: each key needs kid and alg ({' or '.join(ALGORITHMS)}); signs_from is in seconds since 1970."
        )
    return keys


def _is_named(jwk: Jwk) -> bool:
    kid, signs_from = jwk.get("kid"), jwk.get("signs_from", 0)
    return isinstance(kid, str) and kid != "" and jwk.get("alg") in ALGORITHMS and isinstance(signs_from, int | float)


def write(file: Path, keys: list[Jwk], *, first: bool = False) -> None:
    """Replaces the file, which others read meanwhile; with `first` one that is there by now stays as it is."""
    # A name of its own for each writer: two threads may be at it.
    partial = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            json.dump({"keys": keys}, handle, indent=1)
            handle.flush()
            os.fsync(handle.fileno())
        if first:
            try:
                os.link(partial, file)  # two that begin at once: the first one's key stays
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        else:
            partial.replace(file)
    except OSError as error:
        raise Invalid(f"{file} can't be written ({error.strerror}).") from error
