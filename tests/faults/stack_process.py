"""``closeloop dev`` as a process of a test's own, on free ports and in a temporary home: a test may kill any of it."""

import asyncio
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Self

import asyncpg
import psutil
from temporalio.client import Client

from closeloop.cli.main import Commands
from tests.ports import reserve_ports
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).resolve().parents[2]
CLOSELOOP = (sys.executable, "-P", "-m", "closeloop")
_OURS = ("CLOSELOOP_", "TEMPORAL_", "OTEL_", "DATABASE_URL", "PYTEST_", "ANTHROPIC_")


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON document on stdout; fails if there is anything else."""
        assert "Traceback" not in self.err, self.err
        return json.loads(self.out)

    def sentence(self) -> str:
        """The one sentence with which a command failed: a line on stderr, no traceback, status 1."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert (self.status, len(lines)) == (1, 1), f"status {self.status}: {self.err[-2000:]}"
        assert lines[0].startswith("closeloop: "), lines[0]
        return lines[0]


class RunningCommand:
    """A ``closeloop`` command that is running."""

    def __init__(self, process: asyncio.subprocess.Process, stdin: bytes | None) -> None:
        self.process = process
        self._communicating = asyncio.create_task(process.communicate(stdin))

    async def result(self, patience: float = PATIENCE) -> Result:
        """Its result, once it has ended."""
        out, err = await asyncio.wait_for(asyncio.shield(self._communicating), patience)
        status = self.process.returncode
        assert status is not None
        return Result(status, out.decode(), err.decode())

    async def end(self) -> None:
        """Kill it if it runs still."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        await asyncio.wait((self._communicating,))


class StackProcess:
    """A home, a port for each part, and at most one ``closeloop dev`` on them; the API only where it is asked for."""

    def __init__(
        self,
        home: Path | None = None,
        program: Sequence[str] = CLOSELOOP,
        folder: Path = ROOT,
        *,
        with_api: bool = False,
        **env: str,
    ) -> None:
        """``program`` is started in ``folder``, with ``env`` beside the environment."""
        self._temporary = Path(tempfile.mkdtemp(prefix="closeloop-faults-"))
        self._temporary.chmod(0o755)
        self.home = home or self._temporary / "home"
        parts = ("temporal", "ui", "postgres", *(("api",) if with_api else ()))
        self.ports = dict(zip(parts, reserve_ports(len(parts)), strict=True))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self.env |= {"CLOSELOOP_HOME": str(self.home), "COLUMNS": "200"} | env
        self._program, self._folder = program, folder
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.places = [str(self.home)]
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._commands: list[RunningCommand] = []
        self._forks: list[ForkServerProcess] = []
        self._turnstile = asyncio.Semaphore(4)

    def move(self, name: str) -> None:
        """Give the home another name, before anything is started."""
        self.home = self.home.with_name(name)
        self.env["CLOSELOOP_HOME"] = str(self.home)
        self.places = [str(self.home)]

    # closeloop dev

    async def launch(self, env: Mapping[str, str] | None = None, umask: int = -1) -> None:
        """Start it, without waiting for anything."""
        assert not self.running, "one at a time"
        self.lines, self.errors = [], []
        ports = [text for name, port in self.ports.items() for text in (f"--{name}-port", str(port))]
        ports += [] if "api" in self.ports else ["--no-api"]
        self._process = await asyncio.create_subprocess_exec(
            *(*self._program, "dev", "--home", str(self.home), *ports),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.env | dict(env or {}),
            cwd=self._folder,
            start_new_session=True,
            umask=umask,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(_read(self._process.stdout, self.lines)),
            asyncio.create_task(_read(self._process.stderr, self.errors)),
        ]

    async def start(self, **env: str) -> Self:
        """Start it and wait until it is ready."""
        await self.launch(env)
        await self.until_line("ready")
        return self

    async def refused(self, **env: str) -> str:
        """Start it where it cannot start: its one sentence. It left no process behind."""
        await self.launch(env)
        result = await self.result()
        assert not any(line.startswith("ready") for line in self.lines)
        assert names(self.family()) == []
        return result.sentence()

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def until_line(self, beginning: str, count: int = 1) -> str:
        """Wait for its line (the ``count``-th) that begins so."""

        def found() -> list[str]:
            return [line for line in self.lines if line.startswith(beginning)]

        await until(f"line {beginning!r}", lambda: len(found()) >= count or not self.running)
        assert len(found()) >= count, f"it ended first: {self.lines} {self.errors[-20:]}"
        return found()[count - 1]

    async def result(self) -> Result:
        """Wait until it has ended by itself."""
        assert self._process is not None
        status = await asyncio.wait_for(self._process.wait(), PATIENCE)
        await asyncio.wait(self._readers)
        return Result(status, "\n".join(self.lines), "\n".join(self.errors))

    async def stop(self, number: signal.Signals = signal.SIGINT) -> Result:
        """Send it a signal and wait for its end."""
        os.kill(self.pid, number)
        return await self.result()

    # Its processes

    def family(self) -> list[psutil.Process]:
        """Every process of this home, whoever is its parent; commands of the test are not among them."""
        clients = {command.process.pid for command in self._commands}
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            if process.pid in clients or process.pid == os.getpid():
                continue
            with contextlib.suppress(psutil.Error):
                if alive(process) and self._is_ours(process):
                    found |= {member.pid: member for member in (process, *process.children(recursive=True))}
        return [process for process in found.values() if alive(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        texts = [*process.cmdline(), process.cwd(), *process.environ().values()]
        return any(place in text for place in self.places for text in texts)

    def child(self, name: str) -> psutil.Process:
        """The supervisor's own child: ``postgres``, ``temporal`` or ``worker``."""
        found = []
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.Error):
                if name in (child.name(), *child.cmdline()[1:5]):
                    found.append(child)
        assert len(found) == 1, f"{name}: {found}"
        return found[0]

    def listening(self) -> list[str]:
        """Which of its ports something listens on."""
        return [name for name, port in self.ports.items() if _answers(port)]

    async def kill_everything(self) -> None:
        """SIGKILL to the supervisor and every process of the home at once; commands of the test live on."""
        await until("all killed", lambda: not self._killed())
        await self.result()

    def _killed(self) -> list[psutil.Process]:
        """Kill what there is: also what was being started while the others were killed."""
        found = self.family()
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return found

    async def close(self) -> None:
        """End whatever is left, and take the temporary folder away."""
        try:
            for command in self._commands:
                await command.end()
            for fork in list(self._forks):
                fork.kill()
            if self.running:
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(self.pid, signal.SIGINT)
                with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                    await asyncio.wait_for(self.result(), PATIENCE)
        finally:
            for process in self.family():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            if self.running:
                await self.result()
            shutil.rmtree(self._temporary, ignore_errors=True)

    # Its doors

    async def begin(self, *arguments: object, stdin: str | bytes = b"", **env: str) -> RunningCommand:
        """A ``closeloop`` command that goes on while the test does something else."""
        return await self._spawn([*self._program, *map(str, arguments)], stdin, env)

    def forget(self, command: RunningCommand) -> None:
        """A command that has ended: a test that runs thousands keeps none of them."""
        self._commands.remove(command)

    async def cli(self, *arguments: object, stdin: str | bytes = b"", **env: str) -> Result:
        """A ``closeloop`` command, to its end: a process of its own, forked from one that has imported it already."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        async with self._turnstile:
            return await asyncio.to_thread(self._forked, list(map(str, arguments)), self.env | env, given)

    def _forked(self, arguments: list[str], env: dict[str, str], stdin: bytes) -> Result:
        with tempfile.TemporaryDirectory(prefix="closeloop-command-") as folder:
            (Path(folder) / "0").write_bytes(stdin)
            process = _forks.Process(target=_in_the_fork, args=(arguments, env, folder))
            with _FORKING:
                process.start()
            self._forks.append(process)
            if not multiprocessing.connection.wait([process.sentinel], PATIENCE):
                process.kill()
            with _FORKING:
                process.join()
                status = process.exitcode
                self._forks.remove(process)
                process.close()
            assert status is not None
            out, err = ((Path(folder) / name).read_text() for name in "12")
            return Result(status, out, err)

    async def shell(self, script: str) -> Result:
        """A bash script in which ``closeloop`` is this project's."""
        function = f'closeloop() {{ "{sys.executable}" -P -m closeloop "$@"; }}\n'
        return await (await self._spawn(["bash", "-c", function + script], b"", {})).result()

    async def _spawn(self, command: Sequence[str], stdin: str | bytes, env: dict[str, str]) -> RunningCommand:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.env | env,
            cwd=self._folder,
        )
        made = RunningCommand(process, stdin.encode() if isinstance(stdin, str) else stdin)
        self._commands.append(made)
        return made

    async def json(self, *arguments: object, stdin: str | bytes = b"") -> Any:
        """What a command prints with ``--json``; it must succeed."""
        result = await self.cli(*arguments, "--json", stdin=stdin)
        assert result.status == 0, result.err or result.out
        return result.json()

    @property
    def database_url(self) -> str:
        """Where its database is."""
        return str(json.loads((self.home / "stack.json").read_text())["database_url"])

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to its database."""
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            connection.terminate()

    async def sql(self, query: str, *values: object) -> list[asyncpg.Record]:
        """Rows of a query."""
        async with self.database() as connection:
            return list(await connection.fetch(query, *values))

    async def client(self) -> Client:
        """A plain Temporal client, as an engine has it."""
        return await Client.connect(f"127.0.0.1:{self.ports['temporal']}")


# A command spends most of its time on imports. The fork server has done them; what it forks is a real process.
# Each start looks at the exit statuses of all forks; two threads that read one at a time would each get half of it.
_FORKING = threading.Lock()
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*{command.place.split(":")[0] for command in Commands.table.values()}, __name__])


def _in_the_fork(arguments: list[str], env: dict[str, str], folder: str) -> None:
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(f"{folder}/{number}", flags, 0o600), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (for as long as the process lives)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    sys.argv = ["closeloop", *arguments]
    from closeloop.cli.main import main

    main()


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def names(processes: Sequence[psutil.Process]) -> list[str]:
    """What these processes are, for the message of a failing test."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return found


async def _read(stream: asyncio.StreamReader, into: list[str]) -> None:
    while line := await stream.readline():
        into.append(line.decode().rstrip("\n"))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
