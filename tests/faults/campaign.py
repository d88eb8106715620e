"""A fault campaign: closes through three doors, convictions, forecasts and weight cycles, while parts of the stack are
killed, stopped and cut off at random; at its end everything on record is compared with an independent recomputation.

``make chaos`` runs it (``SECONDS=3600``, ``SEED=7``); a minute of it is a test. What an engine, an importer or an
operator was not told to have been accepted, they send again, as they must. Everything told is simulated.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import psutil
import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from tests.faults import recomputation
from tests.faults.campaign_data import ASSET, BEGIN, GOVERNED_DAYS, Message, Told, csv, only_named
from tests.faults.stack_process import RunningCommand, StackProcess, alive
from tests.faults.trades import assert_karma_steps_chain, close_id, jsonl, start_close
from tests.waiting import PATIENCE, eventually, until

LIVE, MIXED = "live", "mixed"
CANDLE_DAYS = 20
BATCH = 400  # closes of an import
PAUSE_SECONDS = 3.0  # mean time between two faults
# A worker that was killed again and again is started again after five minutes only, and a decision waits for it.
COMMAND_PATIENCE = PATIENCE + 300.0
FAULTS = {
    "worker killed": 4,
    "worker stood still": 1,
    "PostgreSQL killed": 2,
    "Temporal killed": 2,
    "everything killed": 1,
    "connections cut": 4,
}
_AWAY = (RPCError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, asyncio.TimeoutError)


@dataclass
class Figures:
    """What a campaign did and found."""

    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    closes: Counter[str] = field(default_factory=Counter)
    """By door: of each position, the first; ``again`` counts those sent once more."""
    late_convictions: int = 0
    """Closes whose conviction came after them."""
    refused_conflicts: int = 0
    commands: Counter[str] = field(default_factory=Counter)
    forecasts: int = 0
    cycles: Counter[str] = field(default_factory=Counter)
    worst_difference: float = 0.0

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


class Campaign:
    """One run on one stack."""

    def __init__(
        self, stack: StackProcess, seed: int, seconds: float, pause: float, say: Callable[[str], None]
    ) -> None:
        self._pause = pause
        self.stack, self.seconds, self.say = stack, seconds, say
        self.figures = Figures(seed, seconds)
        self._told = Told(seed)
        self._chance = random.Random(f"faults {seed}")
        self._over = asyncio.Event()
        self._accepted: dict[str, dict[str, Message]] = {LIVE: {}, MIXED: {}}
        self._told_apart: dict[str, Message] = {}  # convictions, by the position whose message only names its own
        self._untold: list[Message] = []  # of those, the ones that come after their close
        self._conflicts: set[str] = set()
        self._again: list[Message] = []
        self._forecasts: list[Message] = []
        self._candles = self._told.candles(CANDLE_DAYS)
        self._governed: dict[str, tuple[list[Message], dict[str, str]]] = {}

    async def run(self) -> Figures:
        """Faults for the time given, then peace, then the recomputation."""
        client = await self.stack.client()
        await self._begin()
        doors = [
            *(self._engine(client, LIVE) for _ in range(2)),
            *(self._engine(client, MIXED) for _ in range(2)),
            self._rows(client),
            self._imports(),
            self._convictions(),
            self._resolutions(),
            self._operator(client),
        ]
        async with asyncio.TaskGroup() as together:
            together.create_task(self._faults())
            for door in doors:
                together.create_task(door)
            together.create_task(self._clock())
        self.say("peace: everything told is waited for")
        await self._settle(client)
        await self._compare()
        return self.figures

    async def _clock(self) -> None:
        """The time given; where the machine is so busy that not every fault has had its turn, up to five times that."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < self.seconds or (
            passed < 5 * self.seconds and self.figures.faults.keys() != FAULTS.keys()
        ):
            await asyncio.sleep(min(60, max(1, self.seconds - passed)))
            self.say(
                f"{time.monotonic() - begun:.0f} s: {dict(self.figures.faults)}, closes {dict(self.figures.closes)}"
            )
        self._over.set()

    async def _begin(self) -> None:
        await self._command(
            "candles", "prices", "import", "-", "--asset", ASSET, "--interval", "5m", stdin=csv(self._candles)
        )

    # -- commands and doors --------------------------------------------------------------------------------------------

    async def _command(self, name: str, *arguments: str, stdin: str = "", killed: float = 0.0) -> Any:
        """Until it says that it was done; ``killed`` is how often it is killed in the middle, as a share."""
        while True:
            command = await self.stack.begin(*arguments, "--json", stdin=stdin)
            if self._chance.random() < killed and not self._over.is_set():
                await _end_soon(command, self._chance.uniform(0.5, 4))
            result = await command.result(COMMAND_PATIENCE)
            self.stack.forget(command)
            self.figures.commands[name] += 1
            if result.status == 0:
                return result.json()
            self.figures.commands[f"{name}, not done"] += 1
            assert "Traceback" not in result.err, result.err
            assert result.status in (1, -signal.SIGKILL), f"{arguments}: {result.status} {result.err[-500:]}"
            await asyncio.sleep(0.5)

    async def _again_until(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await attempt()
            except _AWAY:
                await asyncio.sleep(0.3)

    def _new(self, book: str, door: str) -> Message:
        row = self._told.trade(book)
        self._accepted[book][row["position_id"]] = row
        self.figures.closes[door] += 1
        return row

    def _sent(self, row: Message) -> Message:
        """The close as it is sent: some only name their conviction, which is told after them."""
        if self._chance.random() < 0.7:
            return row
        self._untold.append(self._tell_apart(row))
        return only_named(row)

    def _tell_apart(self, row: Message) -> Message:
        self._told_apart[row["position_id"]] = self._told.conviction(row)
        return self._told_apart[row["position_id"]]

    async def _convictions(self) -> None:
        """Those of closes that were sent a while ago: some come before their close is attributed, most after."""
        while not self._over.is_set():
            await _sleep(self._over, self._chance.uniform(1, 6))
            untold, self._untold = self._untold, []
            await self._tell(untold, killed=0.3)

    async def _tell(self, convictions: list[Message], killed: float = 0.0) -> None:
        if convictions:
            told = jsonl(convictions)
            await self._command("late convictions add", "convictions", "add", "-", stdin=told, killed=killed)

    async def _engine(self, client: Client, book: str) -> None:
        """Starts closes by name with JSON; some twice, some of them once more with other content."""
        chance = random.Random(f"engine {book} {self._chance.random()}")
        while not self._over.is_set():
            row = self._sent(self._new(book, "Temporal"))
            handle = await self._again_until(lambda row=row: start_close(client, row))
            if chance.random() < 0.1:
                self.figures.closes["again"] += 1
                await self._again_until(lambda row=row: start_close(client, row))
                if book == MIXED:
                    self._again.append(row)
            if chance.random() < 0.2:
                report = await self._again_until(handle.result)
                assert report["outcome"]["position_id"] == row["position_id"]
                if chance.random() < 0.2:
                    await self._contradict(client, row)
            await asyncio.sleep(0.03)

    async def _contradict(self, client: Client, row: Message) -> None:
        other = row | {"realized_pnl": "777"}
        # One that was started twice may run twice: whoever joins its second run gets the answer to that.
        newest = client.get_workflow_handle(close_id(row))
        await self._again_until(newest.result)
        handle: WorkflowHandle[Any, Any] = await self._again_until(lambda: start_close(client, other))
        self._conflicts.add(handle.id)
        with pytest.raises(WorkflowFailureError) as refused:
            await self._again_until(handle.result)
        assert isinstance(refused.value.cause, ApplicationError), refused.value.cause
        assert refused.value.cause.type == "PositionConflict", refused.value.cause
        self.figures.refused_conflicts += 1

    async def _rows(self, client: Client) -> None:
        """An engine that writes into ``positions`` and no more; what finds them runs more often here."""
        while not self._over.is_set():
            rows = [self._sent(self._new(MIXED, "positions")) for _ in range(20)]
            await self._again_until(lambda rows=rows: self._insert(rows))
            with contextlib.suppress(*_AWAY):
                await client.get_schedule_handle("closeloop/catch-up").trigger()
            await _sleep(self._over, 4)

    async def _insert(self, rows: list[Message]) -> None:
        columns = (
            "book_id, position_id, symbol, direction, opened_at, closed_at, entry_price, exit_price, size, "
            "realized_pnl, risk, max_drawdown_pct, max_favorable_pct, regime_at_entry, exit_reason, conviction, "
            "signals, entry_context, currency"
        )
        message = [{**row, "book_id": row["book"]} for row in rows]
        async with self.stack.database() as connection:
            await connection.execute(
                f"INSERT INTO positions ({columns}) SELECT {columns} FROM "
                "jsonb_populate_recordset(NULL::positions, $1) ON CONFLICT DO NOTHING",
                json.dumps(message),
            )

    async def _imports(self) -> None:
        """Batches, among which are closes that came through Temporal; their convictions were told before."""
        while not self._over.is_set():
            rows = [self._new(MIXED, "import") for _ in range(BATCH)]
            ahead = {row["position_id"] for row in rows if self._chance.random() < 0.3}
            told = [self._tell_apart(row) for row in rows if row["position_id"] in ahead]
            await self._command("convictions add", "convictions", "add", "-", stdin=jsonl(told))
            sent = [only_named(row) if row["position_id"] in ahead else self._sent(row) for row in rows]
            again, self._again = self._again, []
            self.figures.closes["again"] += len(again)
            report = await self._command("import", "import", "jsonl", "-", stdin=jsonl([*sent, *again]), killed=0.3)
            counts = report["books"][MIXED]
            assert counts["read"] == counts["attributed"] + counts["already_attributed"] == len(rows) + len(again)

    async def _resolutions(self) -> None:
        as_of = (BEGIN + timedelta(days=CANDLE_DAYS)).isoformat()
        while not self._over.is_set():
            new = self._told.forecasts(300, CANDLE_DAYS)
            await self._command("forecasts add", "forecasts", "add", "-", stdin=jsonl(new), killed=0.2)
            self._forecasts += new
            await self._command("resolve", "forecasts", "resolve", "--as-of", as_of, killed=0.2)
            self.figures.forecasts = len(self._forecasts)
            await _sleep(self._over, 1)

    # -- the operator --------------------------------------------------------------------------------------------------

    async def _operator(self, client: Client) -> None:
        """Weekly cycles of a book with a history, one after the other; approves, rejects, reverts, ends workflows,
        deletes overlay files. A new book when one's weeks are over."""
        decided = 0
        while not (self._over.is_set() and decided):
            book = f"governed-{len(self._governed)}"
            rows = self._told.history(book, 400)
            self._governed[book] = (rows, {})
            await self._command("history", "import", "jsonl", "-", stdin=jsonl(rows))
            for week in range(5, GOVERNED_DAYS // 7):
                as_of = (BEGIN + timedelta(days=7 * week)).isoformat()
                cycle = await self._command("weights cycle", "weights", "cycle", "--book", book, "--as-of", as_of)
                if cycle["state"] == "proposed":
                    await self._decide(client, book, cycle)
                    decided += 1
                if self._over.is_set() and decided:
                    return

    async def _decide(self, client: Client, book: str, cycle: Message) -> None:
        kept, name = self._governed[book][1], cycle["cycle_id"]
        if self._chance.random() < 0.2:
            self.figures.cycles["workflow terminated"] += 1
            with contextlib.suppress(*_AWAY):
                await client.get_workflow_handle(cycle["workflow_id"]).terminate("by the campaign")
        if self._chance.random() < 0.2:
            await self._say("reject", "rejected", book, name)
            kept[name] = "rejected"
            return
        await self._say("approve", "applied", book, name)
        kept[name] = "applied"
        if (undone := self._chance.random()) < 0.2:
            await self._say("revert", "reverted", book, name)
            kept[name] = "reverted"
        elif undone < 0.4:
            self.figures.cycles["overlay deleted"] += 1
            await self._delete_overlay(client, book, name)
            kept[name] = "reverted"

    async def _say(self, verb: str, state: str, book: str, cycle_id: str) -> None:
        """Until it is done: where an answer was lost, the record has it."""
        while True:
            command = await self.stack.begin("weights", verb, cycle_id, "--by", "ann", "--note", "campaign")
            result = await command.result(COMMAND_PATIENCE)
            self.stack.forget(command)
            if result.status == 0 or await self._state(book, cycle_id) == state:
                self.figures.cycles[verb] += 1
                return
            self.figures.cycles[f"{verb}, not done"] += 1
            assert "Traceback" not in result.err, result.err
            await asyncio.sleep(0.5)

    async def _delete_overlay(self, client: Client, book: str, cycle_id: str) -> None:
        """Where the worker died before it recorded that it wrote the file, the file comes back: it is deleted again."""
        overlay = self.stack.home / f"learned_weights.{book}.yaml"
        deadline = time.monotonic() + PATIENCE
        await until("overlay written", overlay.exists)
        while await self._state(book, cycle_id) != "reverted":
            assert time.monotonic() < deadline, f"{cycle_id} is not reverted"
            overlay.unlink(missing_ok=True)
            with contextlib.suppress(*_AWAY):
                await client.get_schedule_handle("closeloop/overlays").trigger()
            await _sleep(self._over, 1)

    async def _state(self, book: str, cycle_id: str) -> str:
        query = "SELECT state FROM weight_cycles WHERE book_id = $1 AND cycle_id = $2"
        [[state]] = await self._again_until(lambda: self.stack.sql(query, book, cycle_id))
        return str(state)

    # -- faults --------------------------------------------------------------------------------------------------------

    async def _faults(self) -> None:
        kinds, often = list(FAULTS), list(FAULTS.values())
        faults = {
            "worker killed": lambda: self._kill("worker"),
            "worker stood still": self._stand_still,
            "PostgreSQL killed": lambda: self._kill("postgres"),
            "Temporal killed": lambda: self._kill("temporal"),
            "everything killed": self._kill_everything,
            "connections cut": self._cut,
        }
        assert faults.keys() == FAULTS.keys()
        drawn: list[str] = []
        while not self._over.is_set():
            await _sleep(self._over, min(5 * self._pause, self._chance.expovariate(1 / self._pause)))
            if self._over.is_set():
                return
            # Each kind once before any comes again by its share: a minute sees them all.
            left = [kind for kind in kinds if kind not in drawn]
            kind = self._chance.choice(left) if left else self._chance.choices(kinds, often)[0]
            if await faults[kind]():
                self.figures.faults[kind] += 1
                drawn.append(kind)
            assert self.stack.running, f"the stack ended by itself: {self.stack.lines[-5:]} {self.stack.errors[-5:]}"

    def _child(self, name: str) -> psutil.Process | None:
        with contextlib.suppress(AssertionError, psutil.Error):
            return self.stack.child(name)
        return None  # it is being started again

    async def _kill(self, name: str) -> bool:
        if (child := self._child(name)) is None:
            return False
        with contextlib.suppress(psutil.Error):
            child.kill()
        await until(f"{name} gone", lambda: not alive(child))
        return True

    async def _stand_still(self) -> bool:
        """Long enough for Temporal to give its activities to another run, which finds the work half done."""
        if (child := self._child("worker")) is None:
            return False
        with contextlib.suppress(psutil.Error):
            child.suspend()
            await _sleep(self._over, self._chance.uniform(3, 12))
            child.resume()
        return True

    async def _kill_everything(self) -> bool:
        await self.stack.kill_everything()
        await self.stack.start()
        return True

    async def _cut(self) -> bool:
        """About half of all connections to the database."""
        cut = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"
        )
        try:
            [[count]] = await self.stack.sql(cut)
        except _AWAY:
            return False
        return bool(count)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _settle(self, client: Client) -> None:
        """Until everything accepted is attributed, no conviction waited for and nothing owed to a learner."""
        await self._tell(self._untold)
        wanted = {book: len(rows) for book, rows in self._books().items()}

        async def left() -> dict[str, int]:
            with contextlib.suppress(*_AWAY):
                await client.get_schedule_handle("closeloop/catch-up").trigger()
            await asyncio.sleep(2)
            rows = await self.stack.sql("SELECT book_id, count(*) FROM attributions GROUP BY 1")
            found = dict(map(tuple, rows))
            [[owed]] = await self.stack.sql("SELECT count(*) FROM unlearned")
            [[waits]] = await self.stack.sql("SELECT count(*) FROM attributions WHERE conviction_status = 'unknown'")
            missing = {book: count - found.get(book, 0) for book, count in wanted.items()}
            waiting = {"owed": owed, "without conviction": waits}
            return {name: count for name, count in (missing | waiting).items() if count}

        seen = await eventually(left, lambda found: not found, seconds=COMMAND_PATIENCE)
        assert not seen, f"not attributed, or doubled where negative: {seen}"
        as_of = (BEGIN + timedelta(days=CANDLE_DAYS)).isoformat()
        await self._command("resolve", "forecasts", "resolve", "--as-of", as_of)
        await self._only_known_workflows_are_left(client)

    async def _only_known_workflows_are_left(self, client: Client) -> None:
        """What runs still are cycles that are watched; what failed are the closes with other content."""

        async def strangers() -> list[str]:
            running = [w.id async for w in client.list_workflows("ExecutionStatus = 'Running'")]
            failed = [w.id async for w in client.list_workflows("ExecutionStatus = 'Failed'")]
            return sorted(
                [name for name in running if not name.startswith("weights/")]
                + [name for name in failed if name not in self._conflicts]
            )

        assert await eventually(strangers, lambda found: not found) == []

    def _books(self) -> dict[str, list[Message]]:
        books = {book: list(rows.values()) for book, rows in self._accepted.items()}
        return books | {book: rows for book, (rows, _) in self._governed.items()}

    async def _compare(self) -> None:
        worst = [await recomputation.forecasts(self.stack, self._forecasts, self._candles)]
        for book, rows in self._books().items():
            worst.append(await recomputation.attributions(self.stack, book, rows, self._told_apart))
            await recomputation.convictions(self.stack, book, rows, self._told_apart)
            await recomputation.karma_counts(self.stack, book, rows)
            if book == LIVE:
                await assert_karma_steps_chain(self.stack, book)
            await self.stack.json("karma", "rebuild", "--book", book)
            worst.append(await recomputation.karma(self.stack, book, rows))
            worst.append(await recomputation.coefficients(self.stack, book, rows))
        for book, (rows, kept) in self._governed.items():
            worst.append(await recomputation.governed(self.stack, book, rows, kept))
        [[late]] = await self.stack.sql("SELECT count(*) FROM attributions WHERE completed_at IS NOT NULL")
        self.figures.late_convictions = late
        self.figures.worst_difference = max(worst)


async def _sleep(over: asyncio.Event, seconds: float) -> None:
    """Or until it is over."""
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)


async def _end_soon(command: RunningCommand, seconds: float) -> None:
    await asyncio.wait((asyncio.ensure_future(command.process.wait()),), timeout=seconds)
    if command.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            command.process.kill()


async def campaign(
    seed: int, seconds: float, pause: float = PAUSE_SECONDS, say: Callable[[str], None] = lambda line: None
) -> Figures:
    """A campaign on a stack of its own, which is taken away at the end; ``pause`` is the mean time between two faults
    (seconds)."""
    stack = StackProcess()
    try:
        await stack.start()
        return await Campaign(stack, seed, seconds, pause, say).run()
    except BaseException:
        say("what the stack said: " + " | ".join(stack.lines[-40:] + stack.errors[-10:]))
        raise
    finally:
        await stack.close()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS, help="mean seconds between two faults")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2)))
    given = parser.parse_args()
    print(f"campaign of {given.seconds:.0f} s with the seed {given.seed}", file=sys.stderr)
    figures = asyncio.run(
        campaign(given.seed, given.seconds, given.pause, lambda line: print(line, file=sys.stderr, flush=True))
    )
    print(json.dumps(figures.told(), indent=1))


if __name__ == "__main__":
    main()
