"""An OpenID provider, as we are its client: authorization code with PKCE, and an id_token that is believed last.

Source: https://openid.net/specs/openid-connect-core-1_0.html#CodeFlowAuth, RFC 7636 (PKCE), RFC 9207 (iss)
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, KeySet, import_key

from fhir_secondop.ehr import keys, outbound, wire
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.smart import ASSERTION
from fhir_secondop.errors import Unauthenticated, Unavailable
from fhir_secondop.model import Connection
from fhir_secondop.web.pending import LEEWAY_S

SCOPE = "openid profile email"
# Asymmetric only: none, and keys that are shared with us or made of public ones, never verify.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
_KEPT_MS = 3_600_000
_REFETCH_MS = 10_000
_TIMEOUT_S = 10.0
_MAX_BYTES = 1_000_000
_AGAIN = "The sign-in did not work; begin again."


@dataclass(frozen=True, slots=True)
class Proof:
    """What a provider has said of somebody, checked. `email` is "" unless the provider has verified it.

    `auth_time` is in seconds since 1970, 0 where the provider does not say it.
    """

    subject: str  # issuer|sub
    email: str
    auth_time: int


@dataclass(frozen=True, slots=True)
class _Kept:
    value: dict[str, Any]
    at_ms: int


@dataclass(slots=True)
class Provider:
    """One OpenID provider. Without `secret_file` and `keys_file` we are a public client; PKCE is used always.

    `keys_file` has the keys that sign our assertions (private_key_jwt). `now` gives ms since 1970.
    """

    issuer: str
    client_id: str
    redirect_uri: str
    now: Callable[[], int]
    secret_file: str = ""
    keys_file: str = ""
    _kept: dict[str, _Kept] = field(default_factory=dict)

    def start(self, state: str, nonce: str, verifier: str, *, again: bool) -> str:
        """The URL to send the browser to; with `again` the provider must ask who it is, whatever it remembers.

        Raises Unavailable.
        """
        more = {"max_age": "0", "prompt": "login"} if again else {}
        with self._session() as session:
            url, _ = session.create_authorization_url(
                self._endpoint("authorization_endpoint"), state=state, code_verifier=verifier, nonce=nonce, **more
            )
        return str(url)

    def finish(self, answer: Mapping[str, str], nonce: str, verifier: str, *, again: bool) -> Proof:
        """What the provider says of the one whom its answer (the query of our callback) sends back.

        Raises Unauthenticated when it says no, or anything about it is not as it must be; Unavailable.
        """
        self._check_issuer(answer)
        if "error" in answer or not answer.get("code"):
            raise Unauthenticated("The provider did not sign you in; begin again, or ask who runs it.")
        token = self._exchange(answer["code"], verifier)
        text = token.get("id_token")
        if not isinstance(text, str) or not text:
            raise Unauthenticated("The provider gave no id_token; begin again, or ask who runs it.")
        claims = self._claims(text, nonce, token.get("access_token"))
        auth_time = claims.get("auth_time", 0)
        if isinstance(auth_time, bool) or not isinstance(auth_time, int | float):
            raise Unauthenticated(_AGAIN)
        if again and not auth_time:
            raise Unauthenticated("The provider does not say when you signed in (auth_time); it can't be used to sign.")
        if auth_time > self.now() / 1000 + LEEWAY_S:
            raise Unauthenticated(_AGAIN)
        email = claims.get("email") if claims.get("email_verified") is True else ""
        return Proof(
            f"{self.issuer}|{claims['sub']}", email.casefold() if isinstance(email, str) else "", int(auth_time)
        )

    def _check_issuer(self, answer: Mapping[str, str]) -> None:
        # RFC 9207: an answer of another provider is not taken for this one's.
        said = answer.get("iss")
        wanted = self._configuration().get("authorization_response_iss_parameter_supported") is True
        if (said is None and wanted) or (said is not None and said != self.issuer):
            raise Unauthenticated("The answer is not from the provider that was asked; begin again.")

    def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        url = self._endpoint("token_endpoint")
        try:
            with self._session() as session:
                token: dict[str, Any] = session.fetch_token(
                    url, grant_type="authorization_code", code=code, code_verifier=verifier, timeout=_TIMEOUT_S,
                    allow_redirects=False, **self._assertion(url),
                )  # fmt: skip
        except OAuthError as error:
            raise Unauthenticated(_AGAIN) from error
        except (
            EhrFailure, requests.RequestException, wire.TooMuch, ValueError, TypeError, AttributeError, KeyError
        ) as error:  # fmt: skip
            raise Unavailable("The sign-in provider does not answer as it should; try again later.") from error
        if not isinstance(token, dict):
            raise Unavailable("The sign-in provider does not answer as it should; try again later.")
        return token

    def _session(self) -> OAuth2Session:
        secret = Path(self.secret_file).read_text("utf-8").strip() if self.secret_file else None
        offered = self._configuration().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        way = "client_secret_post" if offered == ["client_secret_post"] else "client_secret_basic"
        session = OAuth2Session(
            self.client_id, secret, scope=SCOPE, redirect_uri=self.redirect_uri, code_challenge_method="S256",
            token_endpoint_auth_method=way if secret else "none",
        )  # fmt: skip
        session.trust_env = False  # a .netrc would put its own password beside ours
        session.hooks["response"].append(_bounded)
        wire.guard(session, Connection("sign-in provider", self.issuer), longest_s=2 * _TIMEOUT_S)
        return session

    def _assertion(self, url: str) -> dict[str, str]:
        """private_key_jwt, where that is how we prove who we are. Source: RFC 7523, section 2.2"""
        if not self.keys_file:
            return {}
        now_s = self.now() // 1000
        key = keys.signing(Path(self.keys_file), (), now_s)
        claims = {"iss": self.client_id, "sub": self.client_id, "aud": url, "jti": str(uuid.uuid4()),
                  "iat": now_s, "exp": now_s + 60}  # fmt: skip
        header = {"alg": key.alg, "kid": key.kid, "typ": "JWT"}
        signed = jwt.encode(header, claims, key.key, algorithms=[key.alg])
        return {"client_assertion_type": ASSERTION, "client_assertion": signed}

    def _claims(self, text: str, nonce: str, access_token: Any) -> dict[str, Any]:
        try:
            token = self._verified(text)
            claims = CodeIDToken(
                token.claims,
                token.header,
                {"iss": {"essential": True, "value": self.issuer}, "aud": {"essential": True, "value": self.client_id},
                 "exp": {"essential": True}, "sub": {"essential": True}},
                {"nonce": nonce, "client_id": self.client_id, "access_token": access_token},
            )  # fmt: skip
            claims.validate(self.now() // 1000, LEEWAY_S)
        except (JoseError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise Unauthenticated(_AGAIN) from error
        sub = claims["sub"]
        if not isinstance(sub, str) or not 0 < len(sub) <= 255 or not sub.isprintable():
            raise Unauthenticated(_AGAIN)
        return dict(claims)

    def _verified(self, text: str) -> jwt.Token:
        held = self._keys()
        try:
            return jwt.decode(text, _usable(held.value), algorithms=list(ALGORITHMS))
        except (JoseError, ValueError):
            # The key may be newer than what we hold of them; a stranger's token does not make us ask all the time.
            if self.now() - held.at_ms < _REFETCH_MS:
                raise
            self._kept.pop("keys", None)
            return jwt.decode(text, _usable(self._keys().value), algorithms=list(ALGORITHMS))

    def _keys(self) -> _Kept:
        return self._fetched("keys", self._endpoint("jwks_uri"))

    def _configuration(self) -> dict[str, Any]:
        found = self._fetched("configuration", f"{self.issuer.rstrip('/')}/.well-known/openid-configuration").value
        if found.get("issuer") != self.issuer:
            self._kept.pop("configuration", None)
            raise Unavailable("The sign-in provider calls itself otherwise than oidc_issuer; tell the operator.")
        return found

    def _endpoint(self, name: str) -> str:
        url = self._configuration().get(name)
        scheme = urlsplit(url).scheme if isinstance(url, str) else ""
        if scheme != "https" and not (scheme == "http" and self.issuer.startswith("http://")):
            raise Unavailable(f"The sign-in provider publishes no {name} over https; tell the operator.")
        return str(url)

    def _fetched(self, name: str, url: str) -> _Kept:
        """A JSON document of the provider, kept for an hour."""
        held = self._kept.get(name)
        if held is not None and self.now() - held.at_ms < _KEPT_MS:
            return held
        held = _Kept(_get(url, self.issuer), self.now())
        self._kept[name] = held
        return held


def _bounded(answer: requests.Response, **_: Any) -> requests.Response:
    """The answer, read before anybody else does: authlib, and requests where it redirects, take whatever comes."""
    answer.raw = io.BytesIO(wire.whole(answer, _MAX_BYTES))
    return answer


def _usable(jwks: dict[str, Any]) -> KeySet:
    """The public keys of a JWK set that may sign; what we don't know of a key is no reason to refuse the others."""
    found: list[Key] = []
    for jwk in jwks.get("keys", []):
        try:
            if jwk["kty"] in ("RSA", "EC", "OKP") and jwk.get("use", "sig") == "sig":
                found.append(import_key(jwk))
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue
    return KeySet(found)


def _get(url: str, issuer: str) -> dict[str, Any]:
    failed = Unavailable("The sign-in provider does not answer as it should; try again later.")
    try:
        said = outbound.fetch(url, timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES, who="sign-in provider", named_by=issuer)
        found = json.loads(said.body)
    except (EhrFailure, ValueError, RecursionError) as error:
        raise failed from error
    if not isinstance(found, dict):
        raise failed
    return found
