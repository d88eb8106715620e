"""What producers are worth by their forecasts."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BeforeOption,
    Book,
    BookOption,
    LastOption,
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
from closeloop.models.producers import (
    CalibrationView,
    HealthView,
    Heartbeat,
    HeartbeatReceipt,
    PairView,
    ProducerView,
    RecalibrationView,
    ReliabilityBin,
    Scores,
    SpokenOf,
)
from closeloop.models.refusals import describe
from closeloop.services import producers as services

app = typer.Typer(help="What producers are worth by their forecasts.")

ProducerId = Annotated[str, typer.Argument(metavar="PRODUCER", help="The producer's id.")]
Asset = Annotated[
    str | None, typer.Option("--asset", help="Only of this asset, however spelled. Default: all together.")
]
Horizon = Annotated[
    str | None, typer.Option("--horizon", help="Only over this horizon; 60m is 1h. Default: all together.")
]
Regime = Annotated[
    str | None, typer.Option("--regime", help="Only forecasts that named this regime. Default: all together.")
]


@app.callback(invoke_without_command=True)
def producers(
    context: typer.Context,
    book: BookOption = None,
    asset: Asset = None,
    horizon: Horizon = None,
    regime: Regime = None,
    as_of: AsOfOption = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """Each producer's forecasts over the rolling window: how often right, how well calibrated, and its health.

    --as-of computes the window that ended then, and health as it was then; karma is not kept by time.
    """
    if context.invoked_subcommand is None:
        rows = run(_list(book, as_of, last, before, asset=asset, horizon=horizon, regime=regime))
        if as_json:
            return print_json(rows)
        if not rows:
            return out.print("No producers yet: they appear with their first resolved forecast, signal or heartbeat.")
        asked = {"asset": asset, "horizon": horizon, "regime": regime}
        if any(asked.values()) and not any(row.outcomes or row.abstentions for row in rows):
            return out.print(_nothing_matches(asked, run(_spoken_of(book, as_of))))
        _print(rows)
    return None


def _nothing_matches(asked: Mapping[str, str | None], there: SpokenOf) -> str:
    """What was asked for, and what there is instead."""
    wanted = " ".join(f"--{name} {value}" for name, value in asked.items() if value)
    kinds = {"assets": there.assets, "horizons": there.horizons, "regimes": there.regimes}
    named = "; ".join(f"{kind}: {', '.join(values)}" for kind, values in kinds.items() if values)
    return f"No outcome in the rolling window matches {wanted}. " + (
        f"There are {named}." if named else "There is none of anything else either."
    )


async def _spoken_of(book: str | None, as_of: datetime | None) -> SpokenOf:
    policy = settings().learning_policy()
    async with database() as session:
        return await services.spoken_of(session, policy, book, as_of, datetime.now(UTC))


async def _list(
    book: str | None, as_of: datetime | None, last: int | None, before: str | None, **slices: str | None
) -> list[ProducerView]:
    policy = settings().learning_policy()
    async with database() as session:
        return await services.listing(
            session, policy, datetime.now(UTC), book, as_of=as_of, last=last, before=before, **slices
        )


def _print(views: list[ProducerView]) -> None:
    numbers = ("n", "right (95 %)", "Brier", "=REL", "-RES", "+UNC", "log", "ECE (perfect)", "corr", "karma")
    shown = table("book", "producer", *numbers, "health", "failed", numbers=(*numbers, "failed"))
    for v in views:
        shown.add_row(
            v.book, v.producer_id, str(v.outcomes), _interval(v), number(v.brier), number(v.reliability),
            number(v.resolution), number(v.uncertainty), number(v.log_score), _ece(v),
            number(v.correlation, 2), number(v.karma), _health(v.health), _failed(v.health),
        )  # fmt: skip
    out.print(_as_of_line({v.book: v.as_of for v in views}))
    out.print(shown)
    if all(v.asset is v.horizon is v.regime is None for v in views):
        _say_why_none(views)
    out.print(
        "n: outcomes in the rolling window. Brier: 0 is perfect, 0.25 a coin that says 50 %; it is REL\n"
        "(miscalibration) - RES (telling apart) + UNC (the hit rate's own variance), up to within-bin terms.\n"
        "log: log score in nats. "
        "ECE: mean gap between said and came true, beside what a perfect forecaster would show on as many. The\n"
        "interval counts outcomes whose horizons overlap as fewer, by what they share with each other, and those of\n"
        "several assets or horizons as if all of them moved as one: it is wider than it need be where they do not.\n"
        f"health: with its score; failed: share of the attempts of the last {views[0].health.window_days} days, and of "
        "all ever (heartbeats)."
    )


def _health(health: HealthView) -> str:
    return health.state if health.score is None else f"{health.state} {health.score:.2f}"


def _failed(health: HealthView) -> str:
    """The recent share of failures, and that of the lifetime."""
    if health.lifetime_error_rate is None:
        return ""
    recent = "-" if health.error_rate is None else f"{health.error_rate:.1%}"
    return f"{recent} ({health.lifetime_error_rate:.1%})"


def _as_of_line(books: Mapping[str, datetime | None]) -> str:
    """As of when the rows of a table are, by book where that differs."""
    if len(set(books.values())) == 1:
        instant = next(iter(books.values()))
        return "Not scored yet" if instant is None else f"As of {at(instant)} UTC"
    return "As of: " + ", ".join(
        f"{book} " + ("not scored yet" if instant is None else f"{at(instant)} UTC") for book, instant in books.items()
    )


def _say_why_none(views: list[ProducerView]) -> None:
    """Of producers without an outcome in the window: is the last one older, or not counted yet?"""
    none = [v for v in views if not v.outcomes and v.last_outcome_at is not None]
    later = [v for v in none if v.as_of is None or (v.last_outcome_at and v.last_outcome_at > v.as_of)]
    for these, sentence in (
        (
            [v for v in none if v not in later],
            "No outcome in the rolling window; the last one before it: {}. --as-of TIME looks back.",
        ),
        (later, "Not counted yet, with a last outcome after the window: {}. 'closeloop forecasts resolve' counts it."),
    ):
        if these:
            out.print(sentence.format(", ".join(f"{v.producer_id} ({at(v.last_outcome_at)} UTC)" for v in these[:10])))


def _interval(of: Scores | ReliabilityBin) -> str:
    if of.hit_rate is None:
        return "-"
    return f"{of.hit_rate:.1%} ({of.hit_low:.0%}-{of.hit_high:.0%})"


def _ece(of: Scores | CalibrationView) -> str:
    if of.calibration_error is None:
        return "-"
    return f"{of.calibration_error:.3f} ({of.calibration_error_if_perfect:.3f})"


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
    found = run(_calibration(producer, book, as_of, asset=asset, horizon=horizon, regime=regime))
    slices = [value for value in (asset, horizon, regime) if value]
    if plot is not None:
        _draw(plot, found, slices)
    if as_json:
        return print_json(found.model_dump() | {"plot": str(plot) if plot else None})
    shown = table(
        "confidence", "forecasts", "said", "came true (95 %)", numbers=("forecasts", "said", "came true (95 %)")
    )
    for b in found.bins:
        if b.outcomes:
            shown.add_row(f"{b.low:.1f} to {b.high:.1f}", str(b.outcomes), f"{b.mean_confidence:.1%}", _interval(b))
    if not shown.row_count:
        asked = {"asset": asset, "horizon": horizon, "regime": regime}
        there = run(_spoken_of(found.book, as_of)) if slices else None
        out.print(_nothing_matches(asked, there) if there else f"{producer} has no outcomes yet.")
    else:
        out.print(shown)
        out.print(f"Expected calibration error (of a perfect forecaster): {_ece(found)}")
    if found.recalibration:
        out.print(_recalibration_sentence(found.recalibration))
    if plot is not None:
        out.print(f"Drawn: {plot}")
    return None


async def _calibration(
    producer: str, book: str | None, as_of: datetime | None, **slices: str | None
) -> CalibrationView:
    policy = settings().learning_policy()
    async with database() as session:
        return await services.calibration(session, policy, datetime.now(UTC), producer, book, as_of=as_of, **slices)


def _draw(plot: Path, found: CalibrationView, slices: list[str]) -> None:
    if not any(b.outcomes for b in found.bins):
        fail(" ".join([found.producer_id, "has no outcomes", *slices]) + ": there is nothing to draw.")
    title = f"{found.producer_id}: {found.outcomes} forecasts" + (f" ({', '.join(slices)})" if slices else "")
    adopted = found.recalibration if found.recalibration and found.recalibration.adopted else None
    try:
        draw(plot, title, found.bins, adopted)
    except OSError as error:
        fail(f"{plot} cannot be written: {error.strerror}.")


def _recalibration_sentence(found: RecalibrationView) -> str:
    """What was found of recalibrating a producer."""
    evidence = found.evidence
    sentence = f"Recalibration {found.version}, as of {at(found.as_of)} UTC, "
    if evidence["gain"] is None:
        return sentence + f"not adopted: {evidence['reason'].replace('_', ' ')}."
    sentence += "adopted" if found.adopted else "not adopted"
    low = "" if evidence["gain_low"] is None else f", at least {evidence['gain_low']:+.4f} with 95 % confidence"
    return (
        sentence
        + f": out of sample the Brier score improves by {evidence['gain']:+.4f} +- {evidence['gain_se']:.4f}{low}."
    )


@app.command()
def agreement(
    book: BookOption = None, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False
) -> None:
    """How often two producers say the same of an asset within two hours, and who is right when they do not.

    --before takes the id that --json shows.
    """
    pairs = run(_agreement(book, last, before))
    if as_json:
        return print_json(pairs)
    if not pairs:
        return out.print("No two producers have spoken together yet.")
    numbers = ("samples", "agree", "right together", "first right", "second right")
    shown = table("book", "asset", "horizon", "first", "second", *numbers, numbers=numbers)
    for p in pairs:
        shown.add_row(
            p.book, p.asset, p.horizon, p.first, p.second, str(p.samples), number(p.agreement, 2),
            number(p.hit_agreed, 2), number(p.hit_first_disagreed, 2), number(p.hit_second_disagreed, 2),
        )  # fmt: skip
    out.print(_as_of_line({p.book: p.as_of for p in pairs}))
    out.print(shown)
    return out.print("first right, second right: of each, when they do not agree.")


async def _agreement(book: str | None, last: int | None, before: str | None) -> list[PairView]:
    async with database() as session:
        return await services.agreement(session, book, last=last, before=before)


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
        return print_json(counted)
    return out.print("counted" if counted.counted else "this heartbeat was counted before")


async def _beat(message: Heartbeat) -> HeartbeatReceipt:
    async with temporal() as client:
        return await services.heartbeat(client, message)
