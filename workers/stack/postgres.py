"""PostgreSQL of the local stack, started from the binaries of an installed wheel."""

import asyncio
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import asyncpg

from closeloop.gateways.postgres_tools import binaries, major
from closeloop.workers.stack.home import Home, StackError
from closeloop.workers.stack.process import Child, end_leftovers, is_running, until_up

USER = "closeloop"
# Where a server that runs as another user keeps its data if that user cannot reach the home, such as one below /root.
DATA_WITHOUT_HOME = Path("/var/lib/closeloop")


class LocalPostgres:
    """A PostgreSQL server on a loopback TCP port."""

    def __init__(self, home: Home, port: int) -> None:
        self._home = home
        self._port = port
        self._account = _unprivileged() if os.geteuid() == 0 else None
        place = home.path
        if self._account and not _can_enter(self._account, home.path):
            place = DATA_WITHOUT_HOME / hashlib.sha256(str(home.path).encode()).hexdigest()[:16]
        self.data = place / "postgres"
        self._place = place
        self._binaries = binaries()

    @property
    def dsn(self) -> str:
        """Where it listens, with its password."""
        return (
            f"postgresql://{USER}:{quote(self._home.password(), safe='')}@127.0.0.1:{self._port}/{USER}?sslmode=disable"
        )

    def end_leftovers(self) -> None:
        """End what a killed run left of this cluster, and take away its lock file.

        Server processes have the data folder as their working directory. Once there is none, the lock file names a
        process that has ended. It may still be listed as a zombie, which PostgreSQL would take for a running server:
        so the lock file is deleted.
        """
        end_leftovers(lambda process: process.name() == "postgres" and process.cwd() == str(self.data))
        lock = self.data / "postmaster.pid"
        if lock.exists() and not is_running(int(lock.read_text().split("\n", 1)[0]), "postgres"):
            lock.unlink()

    async def start(self) -> Child:
        """Start the server, on a new or an existing cluster, and wait until it answers. Raises StackError."""
        await asyncio.to_thread(self.end_leftovers)
        await asyncio.to_thread(self._prepare)
        log = self._place / "postgres.log" if self._account else self._home.logs / "postgres.log"
        child = await Child.spawn(
            "postgres",
            [
                str(self._binaries / "postgres"),
                "-D",
                str(self.data),
                "-p",
                str(self._port),
                *("-c", "listen_addresses=127.0.0.1"),
                *("-c", "unix_socket_directories="),
                *("-c", "max_connections=100"),
                *("-c", "shared_buffers=128MB"),
                *("-c", "max_wal_size=2GB"),
            ],
            log=log,
            stop_signal=signal.SIGINT,
            env=dict(os.environ, LC_ALL="C"),
            user=self._uid,
            group=self._gid,
        )
        return await until_up(child, self._answer(child))

    async def _answer(self, child: Child) -> None:
        for _ in range(600):
            if not child.running:
                raise StackError(f"PostgreSQL did not start ({child.end_of_log()}): see {child.log}.")
            try:
                connection = await asyncpg.connect(self.dsn.replace(f"/{USER}?", "/postgres?"), timeout=5)
            except asyncpg.InvalidPasswordError:
                raise StackError(
                    f"The data in {self.data} belongs to another password than {self._home.path}/postgres.password: "
                    "put the right file back, or delete the data."
                ) from None
            except (OSError, asyncpg.PostgresError, TimeoutError):
                await asyncio.sleep(0.1)
                continue
            try:
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", USER):
                    await connection.execute(f"CREATE DATABASE {USER}")
            finally:
                await connection.close()
            return
        raise StackError(f"PostgreSQL did not answer within a minute: see {child.log}.")

    def _prepare(self) -> None:
        """Make the cluster if there is none; check that the binaries can open the one there is."""
        if self._account:
            if self._place != self._home.path:
                for folder in (DATA_WITHOUT_HOME, self._place):
                    folder.mkdir(exist_ok=True)
                    folder.chmod(0o755)  # whatever the umask: the server's user must get through
            log = self._place / "postgres.log"
            log.touch(mode=0o600)
            os.chown(log, self._account.pw_uid, self._account.pw_gid)
            if not _can_enter(self._account, self._binaries):
                self._binaries = self._copy_binaries()
        version_file = self.data / "PG_VERSION"
        if not version_file.exists():
            self._initdb()
        version = version_file.read_text().strip()
        if (ours := major(self._binaries)) != version:
            raise StackError(
                f"The data in {self.data} is of PostgreSQL {version} and the installed one is {ours}: "
                f"move the data with pg_upgrade, or start with a new --home."
            )

    def _initdb(self) -> None:
        # Made under another name and renamed: a run that is killed meanwhile leaves no incomplete cluster in place.
        fresh = self.data.with_name("postgres.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        password_file = fresh.with_name("postgres.initial-password")
        password_file.touch(mode=0o600)
        password_file.write_text(self._home.password())
        if self._account:
            for path in (fresh, password_file):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        command = [
            str(self._binaries / "initdb"),
            *("-D", str(fresh), "-U", USER, "--pwfile", str(password_file)),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"),
        ]
        result = subprocess.run(
            command, capture_output=True, text=True, cwd="/", user=self._uid, group=self._gid, check=False
        )
        password_file.unlink()
        if result.returncode != 0:
            reason = (result.stderr or result.stdout).strip().splitlines()[-1:]
            raise StackError(f"PostgreSQL could not make its data folder {self.data}: {''.join(reason)}")
        fresh.rename(self.data)

    def _copy_binaries(self) -> Path:
        """The server's user cannot reach the installed package (below /root, say): give it a copy that it can."""
        installation = self._binaries.parent
        copy = DATA_WITHOUT_HOME / f"{installation.name}-{hashlib.sha256(str(installation).encode()).hexdigest()[:8]}"
        if not copy.exists():
            DATA_WITHOUT_HOME.mkdir(exist_ok=True)
            DATA_WITHOUT_HOME.chmod(0o755)
            partial = copy.with_name(f"{copy.name}.{os.getpid()}")
            shutil.copytree(installation, partial, symlinks=True)
            partial.chmod(0o755)
            partial.rename(copy)
        return copy / "bin"

    @property
    def _uid(self) -> int | None:
        return self._account.pw_uid if self._account else None

    @property
    def _gid(self) -> int | None:
        return self._account.pw_gid if self._account else None


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StackError("PostgreSQL does not run as root, and there is no user 'nobody': run closeloop as another user.")


def _can_enter(account: pwd.struct_passwd, folder: Path) -> bool:
    command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)]
    result = subprocess.run(
        command, user=account.pw_uid, group=account.pw_gid, extra_groups=[], capture_output=True, cwd="/", check=False
    )
    return result.returncode == 0
