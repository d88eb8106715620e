"""Child processes of the local stack."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from closeloop.workers.stack.home import StackError

LOG_BYTES = 20 * 1024 * 1024
"""A log that is larger (bytes) is moved to ``.1`` beside it: of each part, twice as much is kept at most."""

END_OF_LOG_BYTES = 8_192  # of which the last line is read


class Child:
    """A child process that logs to a file and is stopped with its signal, then with SIGKILL."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, stop_signal: signal.Signals, log: Path, log_began: int
    ) -> None:
        self.name = name
        self.log = log
        self.process = process
        self._stop_signal = stop_signal
        self._log_began = log_began  # the size of the log before this process wrote to it, bytes

    @classmethod
    async def spawn(
        cls,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        env: dict[str, str] | None = None,
        user: int | None = None,
        group: int | None = None,
        folder: Path = Path("/"),
        pipe: bool = False,
    ) -> "Child":
        """Start it in a session of its own: Ctrl-C reaches only the supervisor, which stops all in order."""
        with open_log(log) as out:
            log_began = out.tell()
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if pipe else out,
                stderr=out,
                env=env,
                cwd=folder,
                umask=0o077,  # logs and data hold trades
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )
        return cls(name, process, stop_signal, log, log_began)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def rotate_log(self) -> None:
        """Move a log that has grown too large to a second file, in place of the one there.

        The process goes on writing to the same file: it was opened to append. What it writes in the instant between
        the copy and the cut is lost.
        """
        with contextlib.suppress(OSError):  # a full disk, say: the next look tries again
            if self.log.stat().st_size > LOG_BYTES:
                with self.log.open("rb") as log, open_log(self.log.with_name(f"{self.log.name}.1")) as former:
                    former.truncate(0)
                    shutil.copyfileobj(log, former)
                os.truncate(self.log, 0)
                self._log_began = 0

    def end_of_log(self) -> str:
        """The end of its log, on one line."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return " / ".join(line.strip() for line in lines[-3:])[-400:]
        return ""

    def last_line(self) -> str:
        """The last line that this very process wrote to its log; empty if it wrote none."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_began, size - END_OF_LOG_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return lines[-1].strip() if lines else ""
        return ""

    @property
    def how_it_ended(self) -> str:
        """Its exit status, or the signal that ended it."""
        return how_ended(self.process.returncode)

    async def ended_within(self, seconds: float) -> bool:
        """Wait for its end for so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), seconds)
        return not self.running

    async def stop(self, patience: float = 15.0) -> None:
        """Ask it to stop, wait, and kill what does not."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, self._stop_signal)  # Popen's own would take its exit status from asyncio
            try:
                await asyncio.wait_for(self.process.wait(), patience)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                await self.process.wait()


def how_ended(status: int | None) -> str:
    """An exit status in words: a negative one is that of a signal."""
    if status is None or status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def open_log(log: Path) -> BinaryIO:
    """Open a log to append to, which only its owner can read, also where it was made otherwise before."""
    out = open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")  # noqa: SIM115 (the caller's)
    os.fchmod(out.fileno(), 0o600)
    return out


async def until_up(child: Child, answers: Awaitable[None]) -> Child:
    """The child, once it answers; stopped again if it does not, or if the start is given up."""
    try:
        await answers
    except BaseException:
        await child.stop()
        raise
    return child


def check_port(port: int, option: str) -> None:
    """Raise StackError if this loopback port cannot be listened on; ``option`` sets another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise StackError(
                f"Port {port} needs more rights than this user has: choose another with {option}."
            ) from None
        except OSError:
            raise StackError(
                f"Port {port} is in use: stop what listens there, or choose another with {option}."
            ) from None


def end_leftovers(is_ours: Callable[[psutil.Process], bool]) -> None:
    """End the processes that a killed run of this same home left behind: SIGINT, then SIGKILL after ten seconds."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and _alive(process) and is_ours(process):
                found.append(process)
    for number in (signal.SIGINT, signal.SIGKILL):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        deadline = time.monotonic() + 10
        while (found := [process for process in found if _alive(process)]) and time.monotonic() < deadline:
            time.sleep(0.05)


def is_running(pid: int, name: str) -> bool:
    """Whether a process of this id and name runs (a zombie does not)."""
    try:
        process = psutil.Process(pid)
        return process.name() == name and _alive(process)
    except psutil.Error:
        return False


def _alive(process: psutil.Process) -> bool:
    """Whether a process runs. A killed one whose parent has not read its status is still listed, as a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
