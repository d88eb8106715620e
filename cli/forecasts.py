"""Forecasts: what producers say, and how it turned out."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy import RowMapping
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.activities.forecasts import NOT_META, conflict
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BookOption,
    LastOption,
    at,
    err,
    fail,
    hinting,
    number,
    out,
    print_json,
    print_json_list,
    run,
    table,
)
from closeloop.cli.files import FileArgument, json_lines, open_input
from closeloop.models.forecasts import Forecast, ForecastKey, ForecastState, ResolutionReport, ResolutionRequest
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.meta import META
from closeloop.models.refusals import TOO_LONG, describe
from closeloop.models.search_attributes import LIFECYCLE

app = typer.Typer(help="Forecasts: what producers say, and how it turned out.", no_args_is_help=True)

RECORDED_AT_ONCE = 2_000
Producer = Annotated[str | None, typer.Option("--producer", help="Only this producer. Default: all.")]


@app.command()
def add(file: FileArgument, as_json: AsJson = False) -> None:
    """Record forecasts (JSON lines). Sent again they are the same; status 1 if any is refused."""
    lines = json_lines(open_input(file))
    added, known, refused = run(_add(lines))
    if as_json:
        print_json({"added": added, "already_recorded": known, "rejected": refused})
    else:
        out.print(f"{added} forecasts recorded, {known} were on record")
    for item in refused[:20]:
        err.print(f"refused: line {item['index'] + 1}: {item['reason']}")
    if len(refused) > 20:
        err.print(f"refused: {len(refused) - 20} more lines; --json lists all of them")
    if refused:
        raise typer.Exit(1)


async def _add(lines: Iterator[tuple[int, bytes | None]]) -> tuple[int, int, list[dict[str, Any]]]:
    added = known = 0
    refused: list[dict[str, Any]] = []
    async with database() as session:
        while batch := list(islice(lines, RECORDED_AT_ONCE)):
            said: list[tuple[int, Forecast]] = []
            for index, line in batch:
                try:
                    if line is None:
                        refused.append({"index": index, "reason": TOO_LONG})
                    elif (forecast := Forecast.model_validate_json(line)).producer_id == META:
                        refused.append({"index": index, "reason": NOT_META})
                    else:
                        said.append((index, forecast))
                except ValidationError as error:
                    refused.append({"index": index, "reason": describe(error)})
            while said:
                first = {forecast.key: forecast for _, forecast in reversed(said)}
                same: dict[ForecastKey, list[int]] = {}
                for index, forecast in said:
                    if forecast == first[forecast.key]:
                        same.setdefault(forecast.key, []).append(index)
                async with session.begin():
                    recorded = await store.forecasts.record(session, [first[key] for key in sorted(first)])
                added += len(recorded.new)
                known += sum(len(same[key]) for key in first.keys() - recorded.differing.keys()) - len(recorded.new)
                refused += [
                    {"index": index, "reason": conflict(fields)}
                    for key, fields in recorded.differing.items()
                    for index in same[key]
                ]
                # Of those that share a key with an earlier line and say something else, what is on record decides.
                said = [(index, forecast) for index, forecast in said if forecast != first[forecast.key]]
    return added, known, sorted(refused, key=lambda item: item["index"])


@app.command()
def resolve(as_of: AsOfOption = None, as_json: AsJson = False) -> None:
    """Resolve every forecast that is due at --as-of; safe to run at any time, also twice at once.

    Prices that are not on record are asked of the price source; what has no price stays pending with its reason.
    """
    report = run(hinting(_resolve(as_of or datetime.now(UTC))))
    if as_json:
        return print_json(report)
    out.print(
        f"{report.resolved} resolved as of {at(report.as_of)} UTC"
        + (f", {report.abstained} abstentions" if report.abstained else "")
        + (f", {report.candles_fetched} candles fetched" if report.candles_fetched else "")
    )
    if report.unresolvable:
        out.print(f"{report.unresolvable} given up: 'closeloop forecasts list --state unresolvable' shows them.")
    if report.pending:
        out.print(f"{report.pending} are due and have no outcome yet:")
        for reason, count in report.reasons.items():
            out.print(f"  {count} x {reason}")
    return None


async def _resolve(as_of: datetime) -> ResolutionReport:
    async with temporal() as client:
        return await resolve_forecasts(client, as_of)


async def resolve_forecasts(client: Client, as_of: datetime) -> ResolutionReport:
    """Run the resolution as a workflow, or join the one of the same instant that runs already."""
    try:
        report: ResolutionReport = await client.execute_workflow(
            "ForecastResolutionWorkflow",
            ResolutionRequest(as_of=as_of, ask_again=True),
            id=f"forecast-resolution/{as_of:%Y-%m-%dT%H:%M:%S.%fZ}",
            task_queue=TASK_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"Resolve forecasts as of {as_of:%Y-%m-%d %H:%M} UTC",
            search_attributes=TypedSearchAttributes([SearchAttributePair(LIFECYCLE, "forecast-resolution")]),
            result_type=ResolutionReport,
        )
    except WorkflowFailureError as error:
        cause = error.cause
        fail(f"The resolution failed: {cause.message if isinstance(cause, ApplicationError) else cause}.")
    return report


@app.command(name="list")
def list_(
    book: BookOption = None,
    producer: Producer = None,
    state: Annotated[ForecastState | None, typer.Option("--state", help="Only in this state. Default: all.")] = None,
    last: LastOption = None,
    as_json: AsJson = False,
) -> None:
    """Forecasts with their state; pending and unresolvable ones with their reason."""
    run(_list(book, producer, state, last, as_json))


async def _list(
    book: str | None, producer: str | None, state: ForecastState | None, last: int | None, as_json: bool
) -> None:
    async with database() as session:
        rows = store.forecasts.listing(session, book=book, producer=producer, state=state, last=last)
        if as_json:
            return await print_json_list(dict(row) async for row in rows)
        shown = table(
            "book", "forecast", "producer", "asset", "horizon", "action", "confidence", "issued (UTC)", "state"
        )
        count = 0
        async for r in rows:
            count += 1
            reason = f": {r['reason']}" if r["reason"] else ""
            shown.add_row(
                r["book"], r["forecast_id"], r["producer_id"], r["asset"], r["horizon"], r["action"],
                number(r["confidence"]), at(r["issued_at"]), r["state"] + reason,
            )  # fmt: skip
    if not count:
        return out.print("No such forecasts. 'closeloop forecasts add FILE' records some.")
    return out.print(shown)


@app.command()
def show(
    forecast_id: Annotated[str, typer.Argument(metavar="ID", help="The forecast's id.")],
    book: BookOption = None,
    as_json: AsJson = False,
) -> None:
    """One forecast: what was said, how it turned out, or why it has no outcome yet."""
    found = run(_show(book, forecast_id))
    if as_json:
        return print_json(found[0] if len(found) == 1 else found)
    for r in found:
        confidence = "" if r["confidence"] is None else f" at {r['confidence']:.1%}"
        out.print(f"{r['book']}/{r['forecast_id']}: {r['producer_id']} said {r['asset']} {r['action']}{confidence}")
        out.print(f"  issued {at(r['issued_at'])} UTC, over {r['horizon']}: until {at(r['target_at'])} UTC")
        if outcome := r["outcome"]:
            out.print(
                f"  {'right' if outcome['direction_correct'] else 'wrong'}: {outcome['price_at_issue']} to "
                f"{outcome['price_at_target']}, {outcome['return_pct']:+.3f} %; Brier {outcome['brier_score']:.3f}"
            )
            out.print(f"  resolved {at(outcome['resolved_at'])} UTC by {outcome['resolved_by']}")
        else:
            out.print(
                f"  {r['state']}"
                + (f": {r['reason'] or r['abstention_reason']}" if r["reason"] or r["abstention_reason"] else "")
            )
            if r["next_attempt_at"]:
                out.print(f"  next attempt after {at(r['next_attempt_at'])} UTC")
    return None


async def _show(book: str | None, forecast_id: str) -> list[dict[str, Any]]:
    async with database() as session:
        found = [dict(r) async for r in store.forecasts.listing(session, book=book, forecast_id=forecast_id)]
        if not found:
            fail(f"There is no forecast {forecast_id}: 'closeloop forecasts list' shows what there is.")
        outcomes = {
            r["book"]: dict(r) async for r in store.forecasts.outcomes(session, book=book, forecast_id=forecast_id)
        }
    return [row | {"outcome": _plain(outcomes.get(row["book"]))} for row in found]


@app.command()
def outcomes(
    book: BookOption = None, producer: Producer = None, last: LastOption = None, as_json: AsJson = False
) -> None:
    """How forecasts turned out, in the order of their targets."""
    run(_outcomes(book, producer, last, as_json))


async def _outcomes(book: str | None, producer: str | None, last: int | None, as_json: bool) -> None:
    async with database() as session:
        rows = store.forecasts.outcomes(session, book=book, producer=producer, last=last)
        if as_json:
            return await print_json_list(_plain(row) async for row in rows)
        shown = table(
            "book", "forecast", "producer", "asset", "horizon", "action", "confidence", "until (UTC)", "return %",
            "right", "Brier", numbers=("confidence", "return %", "Brier"),
        )  # fmt: skip
        count = 0
        async for r in rows:
            count += 1
            shown.add_row(
                r["book"], r["forecast_id"], r["producer_id"], r["asset"], r["horizon"], r["action"],
                number(r["confidence"]), at(r["target_at"]), f"{r['return_pct']:+.3f}",
                "yes" if r["direction_correct"] else "no", number(r["brier_score"]),
            )  # fmt: skip
    if not count:
        return out.print("No outcomes yet: 'closeloop forecasts resolve' resolves what is due.")
    return out.print(shown)


def _plain(row: RowMapping | dict[str, Any] | None) -> dict[str, Any] | None:
    """An outcome as JSON shows it: prices with every digit and without an exponent."""
    if row is None:
        return None
    return dict(row) | {name: format(row[name], "f") for name in ("price_at_issue", "price_at_target")}
