"""The worker of the local stack: started again for as long as it takes, ever more slowly while it keeps ending."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from closeloop.models.sentences import DEFECT, short
from closeloop.models.status import WorkerEnds
from closeloop.workers.stack.home import Home, StackError
from closeloop.workers.stack.process import Child, end_leftovers, until_up
from closeloop.workers.worker import READY

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 300.0
RAN_WELL_SECONDS = 60.0
"""A worker that has run for so long runs well: the next time that it ends, the waits begin anew."""
READY_WITHIN_SECONDS = 60
ENDS_WITHIN_SECONDS = 10  # after it has closed its stdout

SENTENCE = "closeloop: "  # how a worker begins the sentence with which it refuses its settings


class WorkerEnded(StackError):
    """A worker ended, or was ended, before it polled. ``refused``: it said in a sentence why it cannot work."""

    def __init__(self, how: str, last_line: str, log: Path) -> None:
        self.how = how
        self.last_line = last_line
        in_a_sentence = how == "exit status 1" and last_line.startswith(SENTENCE)
        self.refused = in_a_sentence and not last_line.startswith(SENTENCE + DEFECT)
        super().__init__(f"The worker did not start ({last_line or how}): see {log}.")


class LocalWorker:
    """One worker of a home. ``ends`` tells of its last end, while it has not run well since."""

    def __init__(self, home: Home, say: Callable[[str], None], temporal_address: str | None) -> None:
        """``temporal_address``: of a local server; None: the environment names one."""
        self._home = home
        self._say = say
        self._temporal_address = temporal_address
        self._child: Child | None = None
        self.ends: WorkerEnds | None = None

    @property
    def log(self) -> Path:
        """Where it logs."""
        return self._home.logs / "worker.log"

    async def start(self) -> None:
        """Start it. Raises StackError where it refuses its settings; for what else ends it, ``keep`` goes on.

        A person who has just started the stack is told of a wrong setting at once; what broke later, or what ends a
        worker for another reason, must not take the other parts down.
        """
        self._home.save_worker_ends(None)
        try:
            self._child = await self._spawn()
        except WorkerEnded as ended:
            if ended.refused:
                raise
            self._note(ended.how, ended.last_line)
        else:
            self._say(f"worker    polling, logs in {self.log}")

    async def keep(self) -> None:
        """Start it again whenever it ends. Never returns."""
        while True:
            if self._child is not None:
                await self._until_it_ends(self._child)
            assert self.ends is not None, "it ended"
            await asyncio.sleep(self.ends.wait_seconds)
            try:
                self._child = await self._spawn()
            except StackError as error:
                self._child = None
                if isinstance(error, WorkerEnded):
                    self._note(error.how, error.last_line)
                else:
                    self._note("not started", str(error))
            else:
                self._say("worker    up again")
                self._put_on_record(self.ends.model_copy(update={"next_at": None}))

    async def stop(self) -> None:
        """Stop it."""
        if self._child is not None:
            await self._child.stop()
        self._home.save_worker_ends(None)

    def rotate_log(self) -> None:
        """See Child."""
        if self._child is not None:
            self._child.rotate_log()

    def end_leftovers(self) -> None:
        """End a worker that a killed run of this home left running."""
        command = _command(self._home)[1:]
        end_leftovers(lambda process: process.cmdline()[1:] == command)

    async def _until_it_ends(self, child: Child) -> None:
        if not await child.ended_within(RAN_WELL_SECONDS):
            self._put_on_record(None)
            await child.process.wait()
        self._note(child.how_it_ended, child.last_line())

    def _note(self, how: str, last_line: str) -> None:
        times = self.ends.times + 1 if self.ends else 1
        wait = min(FIRST_WAIT_SECONDS * 2 ** min(times - 1, 30), LONGEST_WAIT_SECONDS)
        now = datetime.now(UTC)
        self._put_on_record(
            WorkerEnds(
                times=times,
                how=how,
                last_line=short(_said(last_line), 400),
                log=self.log,
                ended_at=now,
                wait_seconds=wait,
                next_at=now + timedelta(seconds=wait),
            )
        )
        assert self.ends is not None, "it was just put on record"
        self._say(f"worker    {self.ends.sentence}; the other parts stay up")

    def _put_on_record(self, ends: WorkerEnds | None) -> None:
        self.ends = ends
        try:
            self._home.save_worker_ends(ends)
        except OSError as error:  # a full disk must not end what keeps the worker
            self._say(f"worker    its state could not be written ({error.strerror}): 'closeloop status' may be wrong")

    async def _spawn(self) -> Child:
        env = dict(os.environ, CLOSELOOP_HOME=str(self._home.path))
        if self._temporal_address:
            env["TEMPORAL_ADDRESS"] = self._temporal_address
        try:
            child = await Child.spawn(
                "worker",
                _command(self._home),
                log=self.log,
                stop_signal=signal.SIGTERM,
                env=env,
                folder=Path.cwd(),  # the settings may have paths relative to it
                pipe=True,
            )
        except OSError as error:  # no memory, no process left, a folder that is gone
            raise StackError(f"The worker cannot be started ({error.strerror}).") from None
        return await until_up(child, self._answer(child))

    async def _answer(self, worker: Child) -> None:
        assert worker.process.stdout is not None, "it was started with a pipe"
        try:
            line = await asyncio.wait_for(worker.process.stdout.readline(), READY_WITHIN_SECONDS)
        except TimeoutError:
            how = f"not ready within {READY_WITHIN_SECONDS} s"
            raise WorkerEnded(how, worker.last_line(), worker.log) from None
        if line.strip().decode(errors="replace") != READY:
            if not await worker.ended_within(ENDS_WITHIN_SECONDS):
                await worker.stop()
            raise WorkerEnded(worker.how_it_ended, worker.last_line(), worker.log)
        # Read on: once the pipe is full, a worker that prints would wait for ever.
        self._draining = asyncio.create_task(worker.process.stdout.read())


def _said(line: str) -> str:
    """What a line of a log says: of a JSON object, its event."""
    try:
        event = json.loads(line)["event"]
    except (ValueError, TypeError, KeyError):
        return line
    return str(event)


def _command(home: Home) -> list[str]:
    """How the worker of this home is started, and recognised among processes after its supervisor was killed."""
    return [sys.executable, "-P", "-m", "closeloop", "worker", f"--home={home.path}"]
