"""Connections that go only where they may.

A name is resolved once, each address is checked, and the socket is connected to that very address: what the name
leads to a moment later changes nothing. TLS still asks for the name, and so does the Host header.
"""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.poolmanager import PoolManager

from fhir_secondop.ehr.addresses import Reach
from fhir_secondop.ehr.bounded import BoundedAnswer
from fhir_secondop.ehr.failures import Refused
from fhir_secondop.ehr.origins import host_of

Option = tuple[int, int, int | bytes]


def connect(
    host: str, port: int, reach: Reach, *, timeout_s: float | None, options: Sequence[Option] = (), proxy: bool = False
) -> socket.socket:
    """A socket that is connected to an allowed address of the host; `timeout_s` is for all of its addresses together.

    Raises Refused where none of them is allowed, socket.gaierror where it has none, OSError where none answers.
    """
    host = host.strip("[]")
    if not proxy:
        reach.check_written(host)
    found = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
    ends = None if timeout_s is None else time.monotonic() + timeout_s
    refused: Refused | None = None
    failed: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            reach.check(host, str(address[0]), proxy=proxy)
            made = _connected(socket.socket(family, kind, protocol), address, ends, options)
        except Refused as refusal:
            refused = refusal
        except OSError as error:
            failed = error
        else:
            made.settimeout(timeout_s)  # a handshake has as long again, whatever was left
            return made
    # What became of an allowed address tells more than that another one is not allowed.
    raise failed or refused or socket.gaierror(socket.EAI_NONAME, "it has no address")


def _connected(made: socket.socket, address: Any, ends: float | None, options: Sequence[Option]) -> socket.socket:
    try:
        for option in options:
            made.setsockopt(*option)
        made.settimeout(None if ends is None else max(0.001, ends - time.monotonic()))
        made.connect(address)
    except OSError:
        made.close()
        raise
    return made


class _Guarded(HTTPConnection):
    """What both kinds of connection do alike."""

    reach: Reach

    def _new_conn(self) -> socket.socket:
        try:
            return connect(self._dns_host, self.port, self.reach, timeout_s=self.timeout,
                           options=self.socket_options or (), proxy=self.proxy is not None)  # fmt: skip
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no connection in time") from error
        except OSError as error:
            raise NewConnectionError(self, "no connection") from error


class _Connection(_Guarded, HTTPConnection):
    """A guarded connection in the clear."""


class _SecuredConnection(_Guarded, HTTPSConnection):
    """A guarded connection over TLS."""


class _Pool(HTTPConnectionPool):
    reach: Reach
    ConnectionCls = _Connection

    def _new_conn(self) -> Any:
        return _reaching(super()._new_conn(), self.reach)


class _SecuredPool(HTTPSConnectionPool):
    reach: Reach
    ConnectionCls = _SecuredConnection

    def _new_conn(self) -> Any:
        return _reaching(super()._new_conn(), self.reach)


def _reaching(made: Any, reach: Reach) -> Any:
    made.reach = reach
    made.response_class = functools.partial(BoundedAnswer, longest_s=reach.longest_s)
    return made


class Adapter(HTTPAdapter):
    """Sends only where `reach` allows.

    Behind a proxy the proxy is what we connect to, and it resolves the names: of the target only an address that is
    written in the URL can be checked here. What names may lead to there, the proxy must know.
    """

    def __init__(self, reach: Reach, *, pool_size: int) -> None:
        self._reach = reach
        super().__init__(pool_connections=4, pool_maxsize=pool_size)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """See HTTPAdapter."""
        super().init_poolmanager(*args, **more)
        self._guard(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **more: Any) -> PoolManager:
        """See HTTPAdapter."""
        made: PoolManager = super().proxy_manager_for(proxy, **more)
        self._guard(made)
        return made

    def _guard(self, manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = {
            "http": type("Pool", (_Pool,), {"reach": self._reach}),
            "https": type("SecuredPool", (_SecuredPool,), {"reach": self._reach}),
        }

    def send(
        self, request: PreparedRequest, stream: bool = False, timeout: Any = None, verify: bool | str = True,
        cert: Any = None, proxies: Mapping[str, str] | None = None,
    ) -> Response:  # fmt: skip
        """See HTTPAdapter."""
        if select_proxy(str(request.url), proxies):
            self._reach.check_written(host_of(str(request.url)))
        return super().send(request, stream, timeout, verify, cert, proxies)
