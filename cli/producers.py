"""What producers are worth by their forecasts."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.activities.producers import bins_of, health_row, performance_rows
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    Book,
    BookOption,
    at,
    fail,
    hinting,
    number,
    out,
    print_json,
    run,
    settings,
    table,
)
from closeloop.cli.reliability_diagram import draw
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.models.producers import Heartbeat, ProducerPerformance
from closeloop.models.refusals import describe
from closeloop.store.producers import Window

app = typer.Typer(help="What producers are worth by their forecasts.")

ProducerId = Annotated[str, typer.Argument(metavar="PRODUCER", help="The producer's id.")]
Asset = Annotated[str | None, typer.Option("--asset", help="Only of this asset. Default: all together.")]
Horizon = Annotated[str | None, typer.Option("--horizon", help="Only over this horizon. Default: all together.")]
Regime = Annotated[str | None, typer.Option("--regime", help="Only in this regime. Default: all together.")]


@app.callback(invoke_without_command=True)
def producers(
    context: typer.Context,
    book: BookOption = None,
    asset: Asset = None,
    horizon: Horizon = None,
    regime: Regime = None,
    as_of: AsOfOption = None,
    as_json: AsJson = False,
) -> None:
    """Each producer's forecasts over the rolling window: how often right, how well calibrated, and its health."""
    if context.invoked_subcommand is None:
        rows = run(_load(book, as_of, asset=asset, horizon=horizon, regime=regime))
        if as_json:
            return print_json(rows)
        if not rows:
            return out.print("No producers yet: they appear with their first resolved forecast, signal or heartbeat.")
        _print(rows)
    return None


async def _load(book: str | None, as_of: datetime | None = None, **slices: str | None) -> list[dict[str, Any]]:
    policy, now = settings().learning_policy(), datetime.now(UTC)
    async with database() as session:
        rows = [dict(row) for row in await store.producers.listing(session, book, **slices)]
        if as_of is not None:
            rows = await _as_of(session, rows, as_of, policy, **slices)
    loaded = []
    for row in rows:
        told = {k: v for k, v in row.items() if k not in _HEARTBEATS}
        counts = {"outcomes": 0, "correct": 0, "independent": 0, "abstentions": 0}
        told |= {name: told[name] or 0 for name in counts} | {"bins": bins_of(told.pop("sums"))}
        loaded.append(told | {"health": health_row(row, policy, now) | {name: row[name] for name in _HEARTBEATS}})
    return loaded


async def _as_of(
    session: AsyncSession, rows: list[dict[str, Any]], as_of: datetime, policy: LearningPolicy, **slices: str | None
) -> list[dict[str, Any]]:
    """The rows with the performance that they had at an instant, computed now."""
    window = Window(after=as_of - timedelta(days=policy.producers.window_days), until=as_of)
    wanted = tuple(slices.get(name) or "" for name in ("asset", "horizon", "regime"))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for book in sorted({row["book"] for row in rows}):
        sums = await store.producers.window_sums(session, book, window)
        abstained = await store.producers.abstentions(session, book, window)
        for scores in performance_rows(sums, abstained, policy.producers):
            if (scores.pop("asset"), scores.pop("horizon"), scores.pop("regime")) == wanted:
                found[book, scores.pop("producer_id")] = scores | {"as_of": as_of, "policy_hash": policy.policy_hash}
    nothing = dict.fromkeys(ProducerPerformance.model_fields.keys() - {"book_id", "producer_id", *_SLICES})
    return [row | found.get((row["book"], row["producer_id"]), nothing) for row in rows]


_SLICES = ("asset", "horizon", "regime")
_HEARTBEATS = ("successes", "failures", "last_success_at", "last_failure_at", "last_error")


def _print(rows: list[dict[str, Any]]) -> None:
    numbers = ("n", "right (95 %)", "Brier", "=REL", "-RES", "+UNC", "log", "ECE (perfect)", "corr", "karma")
    shown = table("book", "producer", *numbers, "health", numbers=numbers)
    for r in rows:
        shown.add_row(
            r["book"], r["producer_id"], str(r["outcomes"]), _interval(r), number(r["brier"]), number(r["reliability"]),
            number(r["resolution"]), number(r["uncertainty"]), number(r["log_score"]), _ece(r),
            number(r["correlation"], 2), number(r["karma"]), r["health"]["state"],
        )  # fmt: skip
    out.print(shown)
    if old := [r for r in rows if not r["outcomes"] and r["last_outcome_at"] is not None]:
        told = ", ".join(f"{r['producer_id']} ({at(r['last_outcome_at'])} UTC)" for r in old[:10])
        out.print(f"Nothing in the rolling window, but earlier, the last of: {told}. --as-of T looks back.")
    out.print(
        "n: outcomes in the rolling window. Brier: 0 is perfect, 0.25 a coin that says 50 %; it is REL\n"
        "(miscalibration) - RES (telling apart) + UNC (the hit rate's own variance), up to within-bin terms.\n"
        "log: log score in nats. "
        "ECE: mean gap between said and came true, beside what a perfect forecaster would show on as many. The\n"
        "interval counts outcomes that do not overlap in time."
    )


def _interval(row: Mapping[str, Any]) -> str:
    if row["hit_rate"] is None:
        return "-"
    return f"{row['hit_rate']:.1%} ({row['hit_low']:.0%}-{row['hit_high']:.0%})"


def _ece(row: Mapping[str, Any]) -> str:
    if row["calibration_error"] is None:
        return "-"
    return f"{row['calibration_error']:.3f} ({row['calibration_error_if_perfect']:.3f})"


@app.command()
def calibration(
    producer: ProducerId,
    book: BookOption = None,
    asset: Asset = None,
    horizon: Horizon = None,
    regime: Regime = None,
    as_of: AsOfOption = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw the reliability diagram: FILE.svg, .png or .pdf.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Of what a producer said with a confidence, how much came true? With the recalibration, if one is in force."""
    if plot is not None and plot.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise typer.BadParameter("must end with .svg, .png or .pdf", param_hint="--plot")
    row, maps = run(_calibration(book, producer, as_of, asset=asset, horizon=horizon, regime=regime))
    adopted = next((m for m in maps if m["adopted"]), None)
    slices = [value for value in (asset, horizon, regime) if value]
    if plot is not None:
        if not any(b["outcomes"] for b in row["bins"]):
            fail(f"{producer} has no outcomes {' '.join(slices)}: there is nothing to draw.".replace("  ", " "))
        title = f"{producer}: {row['outcomes']} forecasts" + (f" ({', '.join(slices)})" if slices else "")
        try:
            draw(plot, title, row["bins"], {"x": adopted["stated"], "y": adopted["recalibrated"]} if adopted else {})
        except OSError as error:
            fail(f"{plot} cannot be written: {error.strerror}.")
    if as_json:
        return print_json(
            {
                "book": row["book"],
                "producer_id": producer,
                "bins": row["bins"],
                "recalibration": maps[0] if maps else None,
            }
            | {name: row[name] for name in ("outcomes", "calibration_error", "calibration_error_if_perfect")}
            | {"plot": str(plot) if plot else None}
        )
    shown = table(
        "confidence", "forecasts", "said", "came true (95 %)", numbers=("forecasts", "said", "came true (95 %)")
    )
    for b in row["bins"]:
        if b["outcomes"]:
            span = f"{b['low']:.1f} to {b['high']:.1f}"
            shown.add_row(span, str(b["outcomes"]), f"{b['mean_confidence']:.1%}", _interval(b))
    if not shown.row_count:
        out.print(f"{producer} has no outcomes of this kind yet.")
    else:
        out.print(shown)
        out.print(f"Expected calibration error (of a perfect forecaster): {_ece(row)}")
    for found in maps[:1]:
        out.print(_told(found))
    if plot is not None:
        out.print(f"Drawn: {plot}")
    return None


def _told(found: Mapping[str, Any]) -> str:
    """What was found of recalibrating a producer."""
    evidence = found["evidence"]
    told = f"Recalibration {found['version']}, as of {at(found['as_of'])} UTC, "
    if evidence["gain"] is None:
        return told + f"not adopted: {evidence['reason'].replace('_', ' ')}."
    told += "adopted" if found["adopted"] else "not adopted"
    low = "" if evidence["gain_low"] is None else f", at least {evidence['gain_low']:+.4f} with 95 % confidence"
    return (
        told + f": out of sample the Brier score improves by {evidence['gain']:+.4f} +- {evidence['gain_se']:.4f}{low}."
    )


async def _calibration(
    book: str | None, producer: str, as_of: datetime | None, **slices: str | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = [row for row in await _load(book, as_of, **slices) if row["producer_id"] == producer]
    if not rows:
        fail(f"There is no producer {producer}: 'closeloop producers' shows which there are.")
    if len(rows) > 1:
        fail(f"Several books have a producer {producer}: say which with --book.")
    async with database() as session:
        maps = [dict(row) for row in await store.producers.recalibrations(session, rows[0]["book"], producer)]
    return rows[0], maps


@app.command()
def agreement(book: BookOption = None, as_json: AsJson = False) -> None:
    """How often two producers say the same of an asset within two hours, and who is right when they do not."""

    async def load() -> list[dict[str, Any]]:
        async with database() as session:
            return [dict(row) for row in await store.producers.agreement(session, book)]

    rows = run(load())
    if as_json:
        return print_json(rows)
    if not rows:
        return out.print("No two producers have spoken together yet.")
    numbers = ("samples", "agree", "right together", "first right", "second right")
    shown = table("book", "asset", "horizon", "first", "second", *numbers, numbers=numbers)
    for r in rows:
        shown.add_row(
            r["book"], r["asset"], r["horizon"], r["first"], r["second"], str(r["samples"]), number(r["agreement"], 2),
            number(r["hit_agreed"], 2), number(r["hit_first_disagreed"], 2), number(r["hit_second_disagreed"], 2),
        )  # fmt: skip
    out.print(shown)
    return out.print("first right, second right: of each, when they do not agree.")


@app.command()
def heartbeat(
    producer: ProducerId,
    book: Book,
    failures: Annotated[int, typer.Option("--failures", min=0, max=1_000_000, help="Failed attempts.")] = 0,
    successes: Annotated[
        int | None, typer.Option("--successes", min=0, max=1_000_000, help="Default: 1, or 0 with --failures.")
    ] = None,
    error: Annotated[str | None, typer.Option("--error", help="What the last failure said.")] = None,
    heartbeat_id: Annotated[
        str | None, typer.Option("--id", help="Sent twice with the same id, it counts once. Default: a new one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A producer's sign of life, for its health: it succeeded, or failed."""
    try:
        message = Heartbeat(
            heartbeat_id=heartbeat_id or uuid.uuid4().hex,
            book=book,
            producer_id=producer,
            successes=(0 if failures else 1) if successes is None else successes,
            failures=failures,
            error=error,
        )
    except ValidationError as refused:
        raise typer.BadParameter(describe(refused)) from None
    counted = run(hinting(_beat(message)))
    if as_json:
        return print_json({"counted": counted, "heartbeat_id": message.heartbeat_id})
    return out.print("counted" if counted else "this heartbeat was counted before")


async def _beat(message: Heartbeat) -> bool:
    async with temporal() as client:
        counted: bool = await client.execute_workflow(
            "HeartbeatWorkflow",
            message,
            id=f"heartbeat/{message.book}/{uuid.uuid4().hex}",
            task_queue=TASK_QUEUE,
            static_summary=f"{message.producer_id}: {message.successes} successes, {message.failures} failures"[:200],
            result_type=bool,
        )
        return counted
