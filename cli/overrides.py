"""Overrides: lessons as factors of size; what waits for an operator; what matches a scope."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_core import from_json

from closeloop.cli.approvals import print_answer, send_decision
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BeforeOption,
    BookOption,
    ByOrToken,
    DecisionCommand,
    LastOption,
    Note,
    at,
    book_name,
    decider,
    err,
    hinting,
    number,
    out,
    print_json,
    run,
    settings,
    table,
)
from closeloop.models.approvals import ApprovalAnswer, ApprovalVerdict
from closeloop.models.errors import NotAcceptable
from closeloop.models.overrides import (
    OverrideMatch,
    OverrideMatchRequest,
    OverrideReport,
    OverrideRequest,
    OverrideStatus,
    OverrideView,
)
from closeloop.models.refusals import describe
from closeloop.services import overrides
from closeloop.services.override_decisions import override_key

app = typer.Typer(help="Overrides: what lessons change of size and thresholds.", no_args_is_help=True)

OverrideId = Annotated[str, typer.Argument(metavar="ID", help="The override, as 'overrides list' shows it.")]


@app.command()
def materialize(book: BookOption = None, as_of: AsOfOption = None, as_json: AsJson = False) -> None:
    """Bring overrides in line with the lessons: new ones, replaced ones, those that ended.

    One that would move size by more than the policy's limit waits for an operator.
    """
    report = run(hinting(_materialize(OverrideRequest(book=book, as_of=as_of))))
    if as_json:
        print_json(report)
    else:
        for made in report.books:
            out.print(made.sentence)
        for name, why in report.failed.items():
            err.print(f"book {name}: {why}")
        if not report.books and not report.failed:
            out.print("No book has lessons yet: 'closeloop lessons build' mines them.")
        if any(made.pending for made in report.books):
            out.print(
                "'closeloop overrides list' shows what waits; decide with 'closeloop overrides approve|reject ID'."
            )
    if report.failed:
        raise typer.Exit(1)


async def _materialize(request: OverrideRequest) -> OverrideReport:
    async with temporal() as client:
        return await overrides.materialize(client, request)


@app.command("list")
def overrides_list(
    book: BookOption = None,
    closed: Annotated[bool, typer.Option("--closed", help="Also those that ended or were rejected, and why.")] = False,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """Overrides in force and those that wait for an operator."""
    views = run(_list(book, closed, last, before))
    if as_json:
        return print_json(views)
    if not views:
        return out.print("No overrides: 'closeloop overrides materialize' makes them of lessons that can be acted on.")
    shown = table(
        "override", "book", "pattern", "scope", "size x", "thresholds", "expires (UTC)", "lesson", "status",
        numbers=("size x",), whole=("override", "lesson"),
    )  # fmt: skip
    for view in views:
        shown.add_row(
            view.override_id,
            view.book,
            f"{view.pattern_key} {view.action_category}",
            _pairs(view.scope),
            f"{view.size_multiplier:.3f}",
            _pairs(view.threshold_adjustments),
            at(view.expires_at),
            view.lesson_id,
            _standing(view),
        )
    out.print(shown)
    if waiting := [view.override_id for view in views if view.status is OverrideStatus.pending]:
        out.print(
            f"{len(waiting)} of them would move size by more than the policy allows, and wait for an operator:\n"
            f"closeloop overrides approve {waiting[0]} --by NAME --note TEXT   (or reject)"
        )
    return None


def _standing(view: OverrideView) -> str:
    return view.status + (f": {view.reason}" if view.reason else "") + (f" ({view.decided_by})" * bool(view.decided_by))


async def _list(book: str | None, closed: bool, last: int | None, before: str | None) -> list[OverrideView]:
    async with database() as session:
        return await overrides.listing(session, book, closed=closed, last=last, before=before)


@app.command("match")
def overrides_match(
    pattern: Annotated[str, typer.Option("--pattern", help="The pattern's key, such as pm.uptrend.S1.buy_flag.")],
    action: Annotated[str, typer.Option("--action", help="The action's category: entry, add, trim, exit.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="The circumstances: chain=solana,mcap_bucket=nano or a JSON object. Repeatable."),
    ] = None,
    book: Annotated[
        str | None,
        typer.Option("--book", help="The book. Default: the only one that has overrides.", callback=book_name),
    ] = None,
    as_of: AsOfOption = None,
    as_json: AsJson = False,
) -> None:
    """What the overrides in force say of an action: the size multiplier, thresholds, and which of them spoke."""
    found = run(_match(book, pattern, action, parse_scope(scope or []), as_of or datetime.now(UTC)))
    if as_json:
        return print_json(found)
    out.print(f"size x {found.size_multiplier:.4f}; thresholds {_pairs(found.threshold_adjustments)}")
    if not found.spoke:
        return out.print("No override applies: sizes stay as they are.")
    shown = table("override", "scope", "size x", "weight", numbers=("size x", "weight"))
    for voice in found.spoke:
        shown.add_row(voice.override_id, _pairs(voice.scope), f"{voice.multiplier:.4f}", number(voice.weight))
    return out.print(shown)


def parse_scope(given: list[str]) -> dict[str, Any]:
    """``a=x,b=y`` or JSON objects, as one scope; called wrongly (status 2) where that cannot be read."""
    scope: dict[str, Any] = {}
    for text in given:
        if text.lstrip().startswith("{"):
            try:
                scope |= from_json(text)
            except ValueError:
                raise typer.BadParameter("is no JSON object", param_hint="--scope") from None
            continue
        for pair in filter(None, (part.strip() for part in text.split(","))):
            dimension, separator, value = pair.partition("=")
            if not separator:
                raise typer.BadParameter(f"{pair!r} is not dimension=value", param_hint="--scope")
            scope[dimension.strip()] = value.strip()
    return scope


async def _match(book: str | None, pattern: str, action: str, scope: dict[str, Any], as_of: datetime) -> OverrideMatch:
    policy = settings().learning_policy()
    async with database() as session:
        if book is None:
            try:
                book = await overrides.only_book(session)
            except NotAcceptable as error:
                raise typer.BadParameter(str(error), param_hint="--book") from None
        try:
            request = OverrideMatchRequest(book=book, pattern_key=pattern, action_category=action, scope=scope)
        except ValidationError as error:
            raise typer.BadParameter(describe(error)) from None
        return await overrides.match(session, request, as_of, policy)


@app.command(cls=DecisionCommand)
def approve(override: OverrideId, by: ByOrToken = None, note: Note = "", as_json: AsJson = False) -> None:
    """Put an override that waits in force; waits for the answer. Status 1 if it was not accepted."""
    _decide(override, ApprovalVerdict.approve, by, note, as_json)


@app.command(cls=DecisionCommand)
def reject(override: OverrideId, by: ByOrToken = None, note: Note = "", as_json: AsJson = False) -> None:
    """Keep an override that waits out of force; waits for the answer. Status 1 if it was not accepted."""
    _decide(override, ApprovalVerdict.reject, by, note, as_json)


def _decide(override: str, verdict: ApprovalVerdict, by: str | None, note: str, as_json: bool) -> None:
    who = decider(by)

    async def decided() -> ApprovalAnswer:
        async with database() as session:
            view = await overrides.find(session, override)
        return await send_decision(override_key(view.book, view.override_id), verdict, who, note)

    print_answer(run(hinting(decided())), as_json)


def _pairs(values: dict[str, Any]) -> str:
    texts = (f"{n}={value:+.4f}" if isinstance(value, float) else f"{n}={value}" for n, value in sorted(values.items()))
    return ", ".join(texts) or "-"
