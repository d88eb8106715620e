"""Lessons: what a book's trades say of the circumstances in which they were made."""

from typing import Annotated

import typer

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BeforeOption,
    BookOption,
    LastOption,
    at,
    err,
    hinting,
    number,
    out,
    p_value,
    print_json,
    run,
    table,
)
from closeloop.models.lessons import (
    LessonExplanation,
    LessonReport,
    LessonRequest,
    LessonStatus,
    LessonView,
    NothingAccepted,
)
from closeloop.models.luck import LessonEvidence
from closeloop.models.sentences import CLUSTERS, scope_in_words, untold_in_words
from closeloop.services import lessons

app = typer.Typer(
    help="Lessons: in which circumstances trades went better or worse, and which of that is more than noise.",
    no_args_is_help=True,
)

LessonId = Annotated[str, typer.Argument(metavar="ID", help="The lesson, as 'lessons list' shows it.")]
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
            return await lessons.build(client, request)


def _print_report(report: LessonReport) -> None:
    for built in report.books:
        out.print(built.sentence, soft_wrap=True)
        if built.strongest:
            out.print(f"  the strongest of what could not be told from luck: {built.strongest}", soft_wrap=True)
        for group in built.skipped_groups:
            out.print(f"  not mined: {group.pattern_key} ({group.action_category}): {group.reason}")
        if built.skipped > len(built.skipped_groups):
            out.print(f"  and {built.skipped - len(built.skipped_groups)} more")
    for book, why in report.failed.items():
        err.print(f"book {book}: {why}")
    if not report.books and not report.failed:
        out.print("No book has trades with actions yet: they come with entry_context.actions of closed positions.")


@app.command("list")
def lessons_list(
    book: BookOption = None,
    shadows: Annotated[
        bool, typer.Option("--shadows", help="Also baselines of groups, shadows of accepted ones, retired ones.")
    ] = False,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """The accepted lessons, by group, the largest effect first."""
    views, nothing = run(_list(book, shadows, last, before))
    if as_json:
        return print_json(views)
    if nothing is not None:
        return out.print(_why_none(nothing), soft_wrap=True)
    if not views:
        return out.print("None before that one.")
    shown = table(
        "lesson", "book", "pattern", "scope", "status", "trades", "mean R", "effect R (95 %)", "q", "half-life h",
        "left R", numbers=("trades", "mean R", "effect R (95 %)", "q", "half-life h", "left R"), whole=("lesson",),
    )  # fmt: skip
    for view in views:
        shown.add_row(
            view.lesson_id,
            view.book,
            f"{view.pattern_key} {view.action_category}",
            scope_in_words(view.scope),
            "actionable" if view.actionable else view.status,
            str(view.n),
            f"{view.avg_rr:+.2f}",
            _effect(view),
            p_value(view.q),
            number(view.half_life_hours, 0),
            number(view.effect_now, 2),
        )
    return out.print(shown)


async def _list(
    book: str | None, shadows: bool, last: int | None, before: str | None
) -> tuple[list[LessonView], NothingAccepted | None]:
    async with database() as session:
        views = await lessons.listing(session, book, shadows=shadows, last=last, before=before)
        return views, None if views or before else await lessons.nothing_accepted(session, book)


def _why_none(nothing: NothingAccepted) -> str:
    """Why there are no lessons, and what would have been needed."""
    if not nothing.groups:
        return "No lessons yet: 'closeloop lessons build' mines them from closed positions with actions."
    mined = "1 group was mined" if nothing.groups == 1 else f"{nothing.groups} groups were mined"
    if not nothing.strongest:
        return f"No lesson was accepted: {mined}. '--shadows' also lists what was not."
    count = "1 condition stood out by its" if nothing.untold == 1 else f"{nothing.untold} conditions stood out by their"
    return (
        f"No lesson was accepted: {mined}. {count} trades alone, and could not be told from luck. The strongest: "
        f"{nothing.strongest} '--shadows' also lists the groups' baselines, and 'lessons show ID' of one the next ones."
    )


@app.command()
def show(lesson: LessonId, as_json: AsJson = False) -> None:
    """Explain a lesson: the trades in it, with and without, the effect with its interval, the decay."""
    found = run(_explain(lesson))
    if as_json:
        return print_json(found)
    return _print_explanation(found)


async def _explain(lesson_id: str) -> LessonExplanation:
    async with database() as session:
        return await lessons.explain(session, lesson_id)


def _print_explanation(found: LessonExplanation) -> None:
    view = found.lesson
    where = f"where {scope_in_words(view.scope)}" if view.scope else "(all of them)"
    out.print(f"{view.pattern_key}, {view.action_category}, {where}   [book {view.book}]")
    out.print(_standing(view, found.explained_by), soft_wrap=True)
    shown = table(
        "trades", "number", "mean R", "± s.e.", "win rate", numbers=("number", "mean R", "± s.e.", "win rate")
    )
    for label, part in (("in the scope", found.inside), ("outside it", found.outside)):
        rate = "-" if part.win_rate is None else f"{part.win_rate:.0%}"
        shown.add_row(label, str(part.n), number(part.avg_rr), number(part.standard_error), rate)
    out.print(shown)
    if view.effect is not None and view.scope:
        out.print(
            f"Effect {_effect(view)} R: the difference to comparable trades outside, beyond what the lessons accepted\n"
            f"before it explain. p {p_value(view.p)}, q {p_value(view.q)} (corrected for all candidates looked at)."
        )
    elif view.effect is not None:
        out.print(f"Mean {_effect(view)} R, against no trade at all (0 R).")
    half_life = view.half_life_hours
    decay = "no decay seen" if half_life is None else f"half of the edge is gone after {half_life:.0f} hours"
    decay = "not fitted to shadows" if view.status == LessonStatus.shadow else decay
    if half_life is not None and view.effect_now is not None:
        decay += f"; {view.effect_now:+.3f} R of it was left as of {at(view.as_of)} UTC"
    if view.effect_now_low is not None and view.effect_now_high is not None:
        decay += f" (interval {view.effect_now_low:+.3f} to {view.effect_now_high:+.3f})"
    out.print(f"Decay: {decay}. By time, mean R above the trades outside:", soft_wrap=True)
    for period in found.periods:
        out.print(f"  {at(period.start)} to {at(period.end)}  {period.n:>6} trades  {period.excess_rr:+.3f}")
    if found.evidence is not None:
        _print_luck(found.evidence)
    if view.edge_score is not None:
        factors = ", ".join(f"{name} {value:.2f}" for name, value in sorted(view.factors.items()))
        out.print(f"Edge score {view.edge_score:+.3f} ({factors})", soft_wrap=True)
    out.print(f"Version {view.version}, as of {at(view.as_of)} UTC, policy {view.policy_hash}. By version:")
    for past in found.history:
        out.print(
            f"  v{past.version:<4} {past.status:<9} {past.n:>7} trades  mean {past.avg_rr:+.3f} R  "
            f"effect {number(past.effect)}  q {p_value(past.q)}"
        )
    if found.history_left_before and found.history and found.history[0].as_of < found.history_left_before:
        out.print(
            f"  Other versions from before {at(found.history_left_before)} UTC may have left: 'closeloop storage'."
        )
    arrived = found.inside.n - view.n
    if arrived and view.status != LessonStatus.retired:
        out.print(f"{arrived} of these trades arrived after it was mined.")
    if found.trades:
        out.print(f"The last of {len(found.trades)} trades in it (--json lists all of them):")
    for trade in found.trades[-TRADES_SHOWN:]:
        out.print(f"  {at(trade.closed_at)}  {trade.position_id:<24} {trade.symbol:<12} {trade.rr:+.2f} R")


def _print_luck(evidence: LessonEvidence) -> None:
    if evidence.by is None:  # a group's baseline
        there = ", ".join(f"{each.clusters} {CLUSTERS[each.of]}" for each in evidence.luck)
        out.print(f"Trades of {there}, over {evidence.weeks:g} weeks.", soft_wrap=True)
        untold = f"; {evidence.untold} of them could not be told from luck" if evidence.untold else ""
        out.print(
            f"Conditions that stood out by their trades alone: {evidence.stood_out or 0}{untold}.", soft_wrap=True
        )
        for each in evidence.examples:
            out.print(f"  {untold_in_words(each, evidence)}", soft_wrap=True)
        return
    shown = table(
        "luck weighed, of", "clusters", "in the scope", "outside it", "effective", "of the error",
        numbers=("clusters", "in the scope", "outside it", "effective", "of the error"),
    )  # fmt: skip
    for luck in evidence.luck:
        shown.add_row(
            CLUSTERS[luck.of],
            str(luck.clusters),
            str(luck.inside),
            str(luck.outside),
            f"{luck.effective:.1f}",
            f"{luck.share:.0%}",
        )
    out.print(shown)
    out.print(f"The luck of {CLUSTERS[evidence.by]} weighed most, over {evidence.weeks:g} weeks.", soft_wrap=True)


def _standing(view: LessonView, explaining: LessonView | None) -> str:
    if view.status == LessonStatus.retired:
        return "Retired: the newest run that mined its group no longer found it."
    if view.status == LessonStatus.baseline:
        return "The group's baseline: what its trades came to on average. It never sizes anything."
    if view.status == LessonStatus.shadow:
        by = (
            f"by {scope_in_words(explaining.scope)} ({explaining.lesson_id})"
            if explaining
            else "by what was accepted in all"
        )
        return f"A shadow: it looked significant at first, and is explained {by}. It never sizes anything."
    if view.actionable:
        return "Accepted and actionable: 'closeloop overrides materialize' makes an override of it."
    return "Accepted, but not acted on: its edge fades too fast, or too little of it is left."


def _effect(view: LessonView) -> str:
    if view.effect is None:
        return "-"
    interval = "" if view.effect_low is None else f" ({view.effect_low:+.2f} to {view.effect_high:+.2f})"
    return f"{view.effect:+.2f}{interval}"
