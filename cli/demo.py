"""``closeloop demo``: a simulated engine through the real stack."""

import asyncio
import contextlib
import shutil
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from urllib.parse import quote

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from temporalio.client import Client

from closeloop import store
from closeloop.cli import simulated_forecasts as simulated
from closeloop.cli.connections import database, database_sessions, temporal
from closeloop.cli.console import err, number, out, run, settings, table
from closeloop.cli.demo_market import market
from closeloop.cli.imports import run_import
from closeloop.cli.simulated_engine import (
    BOOKS,
    DAYS,
    FADING,
    FIRST_DAY,
    LASTING,
    PATTERN,
    PATTERN_BOOK,
    PATTERN_DAYS,
    SimulatedBook,
    pattern_trades,
    positions,
)
from closeloop.cli.simulated_market import BOOK as MARKET_BOOK
from closeloop.learning.intervals import wilson_interval
from closeloop.models.lessons import LessonRequest, LessonStatus
from closeloop.models.overrides import OverrideMatchRequest, OverrideRequest
from closeloop.models.positions import ClosedPosition, KarmaRebuildRequest
from closeloop.models.sentences import signed
from closeloop.models.weights import CycleState, CycleView, WeightsVerdict
from closeloop.services import forecasts, meta, weights
from closeloop.services.books import preset_named
from closeloop.services.imports import jsonl_source
from closeloop.services.karma import listing as list_karma
from closeloop.services.karma import rebuild as rebuild_karma
from closeloop.services.lessons import build as build_lessons
from closeloop.services.meta_decisions import record_sentence
from closeloop.services.outcomes import summary as summarise
from closeloop.services.overrides import match
from closeloop.services.overrides import materialize as materialize_overrides
from closeloop.services.positions import CLOSES_AT_ONCE, close
from closeloop.workers.addresses import ui_url
from closeloop.workers.stack.home import Home, StackError
from closeloop.workers.stack.supervisor import LocalStack, Ports


def demo() -> None:
    """Play a simulated engine through the real stack (the running one, or its own); show what was learned."""
    run(_demo())


async def _demo() -> None:
    demo_task = asyncio.current_task()
    assert demo_task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, demo_task.cancel)  # so that the stack is stopped
    async with _stack() as started_here:
        out.print(
            f"\nA simulated engine closes {sum(b.positions for b in BOOKS)} positions over {DAYS} "
            "simulated days in two books.\nNo market is involved: which domains and producers are right is planted, "
            "so that you can see whether it is found.\n"
        )
        async with temporal() as client:
            newly_attributed = await _play(client)
            async with database() as session:
                for book in BOOKS:
                    await rebuild_karma(client, session, KarmaRebuildRequest(book=book.name))
            cycles = {book.name: await _weekly_cycles(client, book) for book in BOOKS}
            await _forecast(client)
        for book in BOOKS:
            await _show(book)
            await _show_weights(book, cycles[book.name])
        await _show_forecasters()
        await _patterns()
        await market()
        if not newly_attributed:
            out.print("Nothing was attributed twice: these positions were all on record from an earlier demo.\n")
        _what_next(started_here, [view for views in cycles.values() for view in views])


@asynccontextmanager
async def _stack() -> AsyncIterator[bool]:
    """The running stack, or one that lives as long as the demo; True if it was started here."""
    configured = settings()
    if Home(configured.home).is_claimed() or (configured.database_url and configured.temporal().get("target_host")):
        yield False
        return
    out.print(f"Starting PostgreSQL, Temporal and a worker; their data stays in {configured.home}")
    stack = LocalStack(configured, _ports(), lambda line: out.print(f"  {line}"), with_api=False)
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(stack.run(stop, ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        running.result()
    try:
        if stack.worker_ends:
            raise StackError(f"The demo needs a worker: it {stack.worker_ends.sentence}.")
        yield True
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def _ports() -> Ports:
    """The usual ports, or free ones where something else has them: a demo starts anyway."""
    chosen = []
    for port in (Ports.temporal, Ports.ui, Ports.postgres):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                probe.bind(("127.0.0.1", 0))
            chosen.append(int(probe.getsockname()[1]))
    return Ports(*chosen)


async def _play(client: Client) -> int:
    """Close every simulated position through its workflow; how many were new."""
    closes = sorted((p for book in BOOKS for p in positions(book)), key=lambda p: p.closed_at)
    slots = asyncio.Semaphore(CLOSES_AT_ONCE)
    columns = (TextColumn("closing"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("", total=len(closes))

        async def one(position: ClosedPosition) -> bool:
            async with slots:
                report = await close(client, position)
            bar.advance(task)
            return not report.already_attributed

        return sum(await asyncio.gather(*(one(position) for position in closes)))


async def _weekly_cycles(client: Client, book: SimulatedBook) -> list[CycleView]:
    """The weekly cycles of the simulated days, as they would have run then; all proposals approved but the last one."""
    views: list[CycleView] = []
    weeks = DAYS // 7
    for week in range(1, weeks + 1):
        err.print(f"weekly cycle {week} of {weeks}, book {book.name}", end="\r" if err.is_terminal else "\n")
        async with database_sessions() as sessions:
            view = await weights.run_cycle(client, sessions, book.name, FIRST_DAY + timedelta(weeks=week))
            keep_pending = week == weeks and book is BOOKS[0]
            if view.state == CycleState.proposed and not keep_pending:
                why = "approved by the demo, without looking"
                await weights.send_decision(client, sessions, view.cycle_id, WeightsVerdict.approve, "demo script", why)
                async with sessions() as session:
                    view = await weights.find(session, view.cycle_id)
        views.append(view)
    return views


async def _forecast(client: Client) -> None:
    """Simulated prices, forecasts of three producers, and their resolution as of the simulation's end."""
    err.print("forecasts of simulated prices", end="\r" if err.is_terminal else "\n")
    async with database() as session:
        rows = list(simulated.candles())
        issued = list(simulated.forecasts())
        async with session.begin():
            for start in range(0, len(rows), 5_000):
                await store.prices.add(session, rows[start : start + 5_000])
            await store.forecasts.record(session, sorted(issued, key=lambda f: f.key))
    for as_of in simulated.resolutions():
        await forecasts.resolve(client, as_of)


async def _show_forecasters() -> None:
    async with database() as session:
        rows = {r.producer_id: r.scores for r in await store.producers.listing(session, simulated.BOOK)}
        maps = {m.producer_id: m for m in await store.recalibration.latest(session, simulated.BOOK)}
    out.print(
        f"Forecasts over 1h of two simulated prices, {simulated.DAYS} days; how well each knows the future is planted:"
    )
    numbers = ("forecasts", "right (95 %)", "planted", "says", "Brier")
    shown = table("producer", *numbers, "recalibration", numbers=numbers)
    for producer in simulated.PRODUCERS:
        row = rows.get(producer.name)
        if row is None or row.hit_rate is None:
            continue
        found = maps.get(producer.name)
        shown.add_row(
            producer.name,
            str(row.outcomes),
            f"{row.hit_rate:.1%} ({row.hit_low:.1%} to {row.hit_high:.1%})",
            f"{producer.right:.0%}",
            f"{row.mean_confidence:.1%}",
            f"{row.brier:.3f}",
            "-" if found is None else "adopted" if found.adopted else "not needed: no better out of sample",
        )
    out.print(shown)
    out.print("A Brier score below 0.25 is better than always saying 50 %; what is said too boldly is recalibrated.")
    async with database() as session:
        record = await meta.track_record(session, settings().learning_policy(), simulated.BOOK, simulated.UNTIL)
    out.print(f"The meta-producer listens to them: {record_sentence(record.model_dump())}.\n", soft_wrap=True)


async def _show_weights(book: SimulatedBook, cycles: Sequence[CycleView]) -> None:
    counted = Counter(view.reason if view.state == CycleState.no_adjustment else str(view.state) for view in cycles)
    counts = ", ".join(f"{number} {(what or '').replace('_', ' ')}" for what, number in counted.items())
    out.print(f"Weekly weight cycles of {book.name}, computed as of each simulated week: {counts}.")
    policy = settings().learning_policy()
    async with database() as session:
        preset = preset_named(policy.weights.default_preset)
        active = await weights.in_force(session, policy, preset, book.name)
    pending = next((view for view in cycles if view.state == CycleState.proposed), None)
    columns = ["domain", "at first", "now", "planted: how far its score leans to what comes true"]
    shown = table(*columns, *(["pending proposal"] if pending else []), numbers=("at first", "now", "pending proposal"))
    first = cycles[0].old
    for domain in sorted(first, key=lambda d: (-book.domains.get(d, 0.0), d)):
        lean = book.domains.get(domain, 0.0)
        truth = f"{lean:.2f}" if lean else "not at all (noise)"
        proposed = [f"{pending.new[domain]:.4f}"] if pending and pending.new else []
        shown.add_row(domain, f"{first[domain]:.4f}", f"{active.weights[domain]:.4f}", truth, *proposed)
    out.print(shown)
    if pending and pending.new:
        right = sorted(d for d in book.domains if pending.new[d] > pending.old[d])
        wrong = sorted(d for d in pending.new if d not in book.domains and pending.new[d] > pending.old[d])
        out.print(
            f"The pending proposal raises {', '.join(right) or 'none'} of the domains that are planted to be right, "
            f"and {', '.join(wrong) or 'none'} of those that are noise.",
            soft_wrap=True,
        )
    out.print()


async def _show(book: SimulatedBook) -> None:
    async with database() as session:
        summary = await summarise(session, book.name)
        karma = await list_karma(session, book.name)
    out.print(
        f"Book {book.name}: {summary.count} positions attributed, hit rate {summary.hit_rate:.0%} "
        f"(95 % interval {summary.hit_rate_low:.0%} to {summary.hit_rate_high:.0%}), "
        f"PnL {signed(summary.realized_pnl)}, {summary.avg_rr:+.2f} R on average."
    )
    shown = table(
        "producer", "karma", "trades", "hit rate", "planted hit rate", "karma to expect", numbers=_KARMA_NUMBERS
    )
    for row in karma:
        interval = wilson_interval(row.wins, row.trades)
        rate = f"{row.wins / row.trades:.0%} ({interval[0]:.0%} to {interval[1]:.0%})" if interval else "-"
        truth = book.producers[row.producer_id]
        shown.add_row(
            row.producer_id,
            f"{row.karma:+.2f}",
            str(row.trades),
            rate,
            f"{truth:.0%}",
            f"{2 * truth - 1:+.2f}",
        )
    out.print(shown)
    out.print("Karma follows about the last 20 trades, so it wanders around the value to expect.\n")


_KARMA_NUMBERS: Sequence[str] = ("karma", "trades", "hit rate", "planted hit rate", "karma to expect")


async def _patterns() -> None:
    """Two planted edges: found, sized, matched; and the one that fades expires."""
    trades = list(pattern_trades())
    half_life = FADING.half_life_hours or 0.0
    out.print(
        f"Book {PATTERN_BOOK} (simulated): {len(trades)} trades of {PATTERN}, imported, in {PATTERN_DAYS} days.\n"
        f"Planted, to be found:\n  {_conditions(LASTING.scope)} earns {LASTING.lift:.1f} R more, all the time;\n"
        f"  {_conditions(FADING.scope)} earned {FADING.lift:.1f} R more on the first day, "
        f"half of it {half_life:.0f} h later."
    )
    lines = [(index, trade.model_dump_json().encode()) for index, trade in enumerate(trades)]
    await run_import(jsonl_source(lines, "of the demo"))
    last_close = max(trade.closed_at for trade in trades)
    later = last_close + timedelta(days=29)
    async with temporal() as client:
        async with database() as session:
            built = await store.lessons.last_run(session, PATTERN_BOOK)
        if built is None:
            await build_lessons(client, LessonRequest(book=PATTERN_BOOK, as_of=last_close))
        await _show_lessons()
        for as_of in (last_close, later):
            await _materialize(client, as_of)
            await _show_overrides(as_of)
    out.print()


async def _materialize(client: Client, as_of: datetime) -> None:
    """Unless an earlier demo, or the schedule, has been there: overrides never go back in time."""
    async with database() as session:
        built = await store.lessons.last_run(session, PATTERN_BOOK)
        newest = await store.overrides.newest_as_of(session, PATTERN_BOOK)
    if built is not None and built.as_of <= as_of and (newest is None or newest <= as_of):
        await materialize_overrides(client, OverrideRequest(book=PATTERN_BOOK, as_of=as_of))


async def _show_lessons() -> None:
    async with database() as session:
        lessons = await store.lessons.listing(session, PATTERN_BOOK)
    found = [lesson for lesson in lessons if lesson.status is LessonStatus.active]
    shadows = sum(lesson.status is LessonStatus.shadow for lesson in lessons)
    shown = table("lesson", "found", "trades", "effect R (95 %)", "q", "half-life h", numbers=_LESSON_NUMBERS)
    for lesson in found:
        interval = f"{lesson.effect or 0:+.2f} ({lesson.effect_low or 0:+.2f} to {lesson.effect_high or 0:+.2f})"
        fades = number(lesson.half_life_hours, 0) if lesson.half_life_hours else "none seen"
        shown.add_row(lesson.lesson_id, _conditions(lesson.scope), str(lesson.n), interval, f"{lesson.q:.1e}", fades)
    out.print(shown)
    out.print(f"{shadows} other conditions looked significant at first, and are explained by these.")


async def _show_overrides(as_of: datetime) -> None:
    """What sizes a trade in both circumstances, as of a day."""
    async with database() as session:
        overrides = await store.overrides.listing(session, PATTERN_BOOK, closed=True)
    scope = LASTING.scope | FADING.scope
    request = OverrideMatchRequest.model_validate(
        {"book": PATTERN_BOOK, "pattern_key": PATTERN, "action_category": "entry", "scope": scope}
    )
    policy = settings().learning_policy()
    async with database() as session:
        found = await match(session, request, as_of, policy)
    spoke = {voice.override_id for voice in found.spoke}
    out.print(f"As of {as_of:%Y-%m-%d}, an entry in {_conditions(scope)} is sized x {found.size_multiplier:.3f}:")
    for override in sorted(overrides, key=lambda o: sorted(o.scope)):
        if override.override_id in spoke:
            effect = f"x {override.size_multiplier:.3f}, speaks until {override.expires_at:%Y-%m-%d}"
        else:
            effect = override.reason or ("expired" if override.expires_at <= as_of else str(override.status))
        out.print(f"  {_conditions(override.scope)}: {effect}")


def _conditions(scope: Mapping[str, str]) -> str:
    return " and ".join(f"{dimension}={value}" for dimension, value in sorted(scope.items()))


_LESSON_NUMBERS: Sequence[str] = ("trades", "effect R (95 %)", "q", "half-life h")


def _what_next(started_here: bool, cycles: Sequence[CycleView]) -> None:
    until = f"{simulated.UNTIL:%Y-%m-%dT%H:%M:%SZ}"
    command = "closeloop" if shutil.which("closeloop") else sys.argv[0]
    steps = [(f"{command} dev", "start the stack again; everything above is kept")] if started_here else []
    if ui := ui_url(settings()):
        query = quote(f'Book = "{BOOKS[0].name}"')
        trail = "the audit trail: a workflow for each closed position"
        steps.append((f"{ui}/namespaces/default/workflows?query={query}", trail))
    pending = [view for view in cycles if view.state == CycleState.proposed]
    for view in pending:
        steps.append((f"{command} weights proposals", f"the proposal {view.cycle_id} waits for you; its evidence"))
        words = f"{command} weights approve {view.cycle_id} --by YOU --note WHY"
        steps.append((words, "decide (or reject), or in the UI:"))
        if ui:
            page = f"{ui}/namespaces/default/workflows/{quote(view.workflow_id, safe='')}"
            steps.append((page, 'More Actions, Send a Signal "approve" with {"operator": "YOU", "note": "WHY"}'))
    steps += [
        (f"{command} outcomes --book {BOOKS[0].name} --last 10", "what became of the last positions"),
        (f"{command} karma", "trust in each producer"),
        (f"{command} producers --book {simulated.BOOK} --as-of {until}", "scores of the producers' forecasts"),
        (
            f"{command} meta status --book {simulated.BOOK}",
            "what the meta-producer would have said",
        ),
        (
            f"{command} producers calibration boaster --book {simulated.BOOK} --as-of {until} --plot boaster.svg",
            "stated confidence against what came true, as a picture",
        ),
        (f"{command} lessons list --book {PATTERN_BOOK}", "lessons; 'lessons show ID' explains one"),
        (f"{command} market contexts --book {MARKET_BOOK}", "the market at the opening of each trade"),
        (f"{command} import freqtrade FILE", "attribute your own trades"),
    ]
    out.print("What next", style="bold")
    for step, meaning in steps:
        out.print(f"  {step}\n      {meaning}", soft_wrap=True)
