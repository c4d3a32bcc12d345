"""The HTTP sessions towards one EHR: its proxy, the CA that it is checked against, our client certificate."""

from __future__ import annotations

import requests
from requests.adapters import HTTPAdapter

from fhir_secondop.model import Connection

POOL_SIZE = 16


def session(connection: Connection) -> requests.Session:
    """A session of this connection. Nothing of the environment: no netrc, no proxy that nobody configured here.

    A password of the operator's must not go to an EHR.
    """
    made = requests.Session()
    made.trust_env = False
    made.verify = connection.ca_bundle or True
    if connection.client_cert:
        made.cert = (connection.client_cert, connection.client_key) if connection.client_key else connection.client_cert
    if connection.proxy:
        made.proxies = {"http": connection.proxy, "https": connection.proxy}
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=POOL_SIZE)
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    return made


def timeout(connection: Connection) -> tuple[float, float]:
    """Seconds to connect, and between two bytes of an answer."""
    return min(10.0, connection.timeout_s), connection.timeout_s
