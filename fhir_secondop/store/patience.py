"""How long we wait for a PostgreSQL server that says nothing, and it for us.

A machine that has lost its power or its network ends no connection: without these, a read would wait for the kernel's
quarter of an hour, and what such a machine had locked would stay locked for two hours.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import URL

CONNECT_S = 5
SILENT_S = 10  # after which the other side of a connection counts as gone
STALLED_S = 10  # for which a writer may leave its transaction alone; the others wait for it meanwhile
IDLE_S = 60  # the same of a reader, for whom nobody waits
_KEEPALIVES = {"idle": 4, "interval": 2, "count": 3}  # they say so within SILENT_S


def connect_args(url: URL) -> dict[str, Any]:
    """What libpq is told for a connection. What the URL says itself is left as it is there."""
    server = {
        **{f"tcp_keepalives_{name}": value for name, value in _KEEPALIVES.items()},
        "tcp_user_timeout": 1000 * SILENT_S,
        "idle_in_transaction_session_timeout": 1000 * IDLE_S,
    }
    ours = {
        "connect_timeout": CONNECT_S,
        **{f"keepalives_{name}": value for name, value in _KEEPALIVES.items()},
        "tcp_user_timeout": 1000 * SILENT_S,
        "options": " ".join(f"-c {name}={value}" for name, value in server.items()),
    }
    return {name: value for name, value in ours.items() if name not in url.query}
