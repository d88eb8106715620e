"""Lessons: what a book's trades say of the circumstances in which they were made."""

import uuid
from typing import Annotated, Any

import numpy as np
import typer
from temporalio.client import WorkflowFailureError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError

from closeloop import store
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BookOption,
    at,
    err,
    fail,
    hinting,
    number,
    out,
    print_json,
    run,
    table,
)
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.lessons import LessonReport, LessonRequest, LessonStatus, LessonView
from closeloop.models.search_attributes import BOOK, LIFECYCLE

app = typer.Typer(
    help="Lessons: in which circumstances trades went better or worse, and which of that is more than noise.",
    no_args_is_help=True,
)

LessonId = Annotated[str, typer.Argument(metavar="ID", help="The lesson, as 'lessons list' shows it.")]
PERIODS = 6
TRADES_SHOWN = 10


@app.command()
def build(
    book: BookOption = None,
    as_of: AsOfOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Mine every group, also those without 10 % new trades."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mine the groups that are due and write what came out as the book's next version of lessons.

    A group that has not 10 % new trades since it was last mined is left alone: repeated looks find noise.
    """
    report = run(hinting(_build(LessonRequest(book=book, as_of=as_of, force=force))))
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if report.failed:
        raise typer.Exit(1)


async def _build(request: LessonRequest) -> LessonReport:
    async with temporal() as client:
        with err.status("building lessons"):
            return await build_lessons(client, request)


async def build_lessons(client: Any, request: LessonRequest) -> LessonReport:
    """Run the building as a workflow, so that it stands in the audit trail."""
    attributes = [SearchAttributePair(LIFECYCLE, "lessons")]
    if request.book:
        attributes.append(SearchAttributePair(BOOK, request.book))
    try:
        report: LessonReport = await client.execute_workflow(
            "LessonBuildingWorkflow",
            request,
            id=f"lessons/{request.book or 'all'}/{uuid.uuid4().hex[:8]}",
            task_queue=TASK_QUEUE,
            static_summary=f"Build lessons of {request.book or 'every book'}",
            search_attributes=TypedSearchAttributes(attributes),
            result_type=LessonReport,
        )
    except WorkflowFailureError as error:
        cause = error.cause
        fail(f"The lessons were not built: {cause.message if isinstance(cause, ApplicationError) else cause}.")
    return report


def _print_report(report: LessonReport) -> None:
    for built in report.books:
        out.print(built.sentence)
        for group in built.skipped_groups:
            out.print(f"  not mined: {group.pattern_key} ({group.action_category}): {group.reason}")
        if built.skipped > len(built.skipped_groups):
            out.print(f"  and {built.skipped - len(built.skipped_groups)} more")
    for book, why in report.failed.items():
        err.print(f"book {book}: {why}")
    if not report.books and not report.failed:
        out.print("No book has trades with actions yet: they come with entry_context.actions of closed positions.")


@app.command("list")
def lessons_list(book: BookOption = None, as_json: AsJson = False) -> None:
    """Every lesson: by group the accepted ones, the group's baseline, shadows of accepted ones, retired ones."""
    views = run(_list(book))
    if as_json:
        return print_json(views)
    if not views:
        return out.print("No lessons yet: 'closeloop lessons build' mines them from closed positions with actions.")
    shown = table(
        "lesson", "book", "pattern", "scope", "status", "trades", "mean R", "effect R (95 %)", "q", "half-life h",
        numbers=("trades", "mean R", "effect R (95 %)", "q", "half-life h"), whole=("lesson",),
    )  # fmt: skip
    for view in views:
        shown.add_row(
            view.lesson_id,
            view.book,
            f"{view.pattern_key} {view.action_category}",
            _scope(view.scope),
            "actionable" if view.actionable else view.status,
            str(view.n),
            f"{view.avg_rr:+.2f}",
            _effect(view),
            number(view.q),
            number(view.half_life_hours, 0),
        )
    return out.print(shown)


async def _list(book: str | None) -> list[LessonView]:
    async with database() as session:
        return await store.lessons.listing(session, book)


@app.command()
def show(lesson: LessonId, as_json: AsJson = False) -> None:
    """Explain a lesson: the trades in it, with and without, the effect with its interval, the decay."""
    found = run(_explain(lesson))
    if as_json:
        return print_json(found)
    return _print_explanation(found)


async def _explain(lesson_id: str) -> dict[str, Any]:
    async with database() as session:
        view = await store.lessons.find(session, lesson_id)
        if view is None:
            fail(f"There is no lesson {lesson_id}: 'closeloop lessons list' shows them.")
        explaining = await store.lessons.find(session, view.explained_by) if view.explained_by else None
        history = [dict(row) for row in await store.lessons.history(session, lesson_id)]
        inside: list[dict[str, Any]] = []
        outside: list[float] = []
        async for row in store.patterns.trades_of(
            session, view.book, view.pattern_key, view.action_category, view.as_of
        ):
            if all(row["scope"].get(dimension) == value for dimension, value in view.scope.items()):
                inside.append({name: row[name] for name in row if name != "scope"})
            else:
                outside.append(row["rr"])
    return {
        "lesson": view,
        "explained_by": explaining,
        "with": _summary([trade["rr"] for trade in inside]),
        "without": _summary(outside),
        "periods": _periods(inside, outside),
        "history": history,
        "trades": inside,
    }


def _summary(rr: list[float]) -> dict[str, Any]:
    values = np.array(rr)
    n = len(rr)
    return {
        "n": n,
        "avg_rr": float(values.mean()) if n else None,
        "standard_error": float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "win_rate": float((values > 0).mean()) if n else None,
    }


def _periods(inside: list[dict[str, Any]], outside: list[float]) -> list[dict[str, Any]]:
    """The lesson's trades in order of closing, cut into periods of as many trades each."""
    around = float(np.mean(outside)) if outside else 0.0
    parts = [part for part in np.array_split(np.arange(len(inside)), PERIODS) if len(part)]
    return [
        {
            "from": inside[part[0]]["closed_at"],
            "to": inside[part[-1]]["closed_at"],
            "n": len(part),
            "excess_rr": float(np.mean([inside[i]["rr"] for i in part])) - around,
        }
        for part in parts
    ]


def _print_explanation(found: dict[str, Any]) -> None:
    view: LessonView = found["lesson"]
    where = f"where {_scope(view.scope)}" if view.scope else "(all of them)"
    out.print(f"{view.pattern_key}, {view.action_category}, {where}   [book {view.book}]")
    out.print(_verdict(view, found["explained_by"]), soft_wrap=True)
    shown = table(
        "trades", "number", "mean R", "± s.e.", "win rate", numbers=("number", "mean R", "± s.e.", "win rate")
    )
    for name, label in (("with", "in the scope"), ("without", "outside it")):
        part = found[name]
        rate = "-" if part["win_rate"] is None else f"{part['win_rate']:.0%}"
        shown.add_row(label, str(part["n"]), number(part["avg_rr"]), number(part["standard_error"]), rate)
    out.print(shown)
    if view.effect is not None and view.scope:
        out.print(
            f"Effect {_effect(view)} R: the difference to comparable trades outside, beyond what the lessons accepted\n"
            f"before it explain. p {number(view.p, 6)}, q {number(view.q, 6)} (corrected for all candidates looked at)."
        )
    elif view.effect is not None:
        out.print(f"Mean {_effect(view)} R, against no trade at all (0 R).")
    half_life = view.half_life_hours
    told = "no decay seen" if half_life is None else f"half of the edge is gone after {half_life:.0f} hours"
    told = "not fitted to shadows" if view.status == LessonStatus.shadow else told
    out.print(f"Decay: {told}. By time, mean R above the trades outside:")
    for part in found["periods"]:
        out.print(f"  {at(part['from'])} to {at(part['to'])}  {part['n']:>6} trades  {part['excess_rr']:+.3f}")
    if view.edge_score is not None:
        told = ", ".join(f"{name} {value:.2f}" for name, value in sorted(view.factors.items()))
        out.print(f"Edge score {view.edge_score:+.3f} ({told})", soft_wrap=True)
    out.print(f"Version {view.version}, as of {at(view.as_of)} UTC, policy {view.policy_hash}. By version:")
    for past in found["history"]:
        out.print(
            f"  v{past['version']:<4} {past['status']:<9} {past['n']:>7} trades  mean {past['avg_rr']:+.3f} R  "
            f"effect {number(past['effect'])}  q {number(past['q'])}"
        )
    arrived = found["with"]["n"] - view.n
    if arrived and view.status != LessonStatus.retired:
        out.print(f"{arrived} of these trades arrived after it was mined.")
    if found["trades"]:
        out.print(f"The last of {len(found['trades'])} trades in it (--json lists all of them):")
    for trade in found["trades"][-TRADES_SHOWN:]:
        out.print(f"  {at(trade['closed_at'])}  {trade['position_id']:<24} {trade['symbol']:<12} {trade['rr']:+.2f} R")


def _verdict(view: LessonView, explaining: LessonView | None) -> str:
    if view.status == LessonStatus.retired:
        return "Retired: the newest run that mined its group no longer found it."
    if view.status == LessonStatus.baseline:
        return "The group's baseline: what its trades came to on average. It never sizes anything."
    if view.status == LessonStatus.shadow:
        by = f"by {_scope(explaining.scope)} ({explaining.lesson_id})" if explaining else "by the luck of a few days"
        return f"A shadow: it looked significant at first, and is explained {by}. It never sizes anything."
    if view.actionable:
        return "Accepted and actionable: 'closeloop overrides materialize' makes an override of it."
    return "Accepted, but its edge fades too fast to be acted on."


def _scope(scope: dict[str, str]) -> str:
    return ", ".join(f"{dimension}={value}" for dimension, value in sorted(scope.items())) or "-"


def _effect(view: LessonView) -> str:
    if view.effect is None:
        return "-"
    interval = "" if view.effect_low is None else f" ({view.effect_low:+.2f} to {view.effect_high:+.2f})"
    return f"{view.effect:+.2f}{interval}"
