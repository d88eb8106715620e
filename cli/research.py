"""Research: what a language model, or statistics without one, said of closed trades; how hypotheses were judged."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BeforeOption,
    BookOption,
    LastOption,
    at,
    hinting,
    number,
    out,
    print_json,
    print_json_list,
    table,
)
from closeloop.cli.console import run as run_command
from closeloop.models.research import (
    ResearchReport,
    ResearchRequest,
    ResearchStatus,
    ResearchView,
    StatementKind,
    StatementStatus,
)
from closeloop.models.workers import ResearchSetup
from closeloop.services import research

app = typer.Typer(help="Research on closed trades: observations, and hypotheses that are tested.", no_args_is_help=True)


@app.command()
def run(
    book: BookOption = None,
    as_of: AsOfOption = None,
    as_json: AsJson = False,
) -> None:
    """Study the live closes since the last run, now. Imported history is not studied."""
    request = ResearchRequest(book=book, as_of=as_of or datetime.now(UTC))
    report = run_command(hinting(_run(request)))
    if as_json:
        print_json(report)
    else:
        out.print(report.sentence)
    if report.failed:
        raise typer.Exit(1)


async def _run(request: ResearchRequest) -> ResearchReport:
    async with temporal() as client:
        return await research.run(client, request)


@app.command("list")
def research_list(
    kind: Annotated[StatementKind | None, typer.Option("--kind", help="Only this kind.")] = None,
    status: Annotated[StatementStatus | None, typer.Option("--status", help="Only this status.")] = None,
    book: BookOption = None,
    last: LastOption = None,
    before: BeforeOption = None,
    as_json: AsJson = False,
) -> None:
    """What was said, oldest first; what each hypothesis came to."""
    run_command(_list(book, kind, status, last, before, as_json))


async def _list(
    book: str | None,
    kind: StatementKind | None,
    status: StatementStatus | None,
    last: int | None,
    before: str | None,
    as_json: bool,
) -> None:
    async with database() as session:
        rows = research.listing(session, book, kind=kind, status=status, last=last, before=before)
        if as_json:
            return await print_json_list(rows)
        shown = table("id", "book", "position", "kind", "status", "by", "cost USD", "what", numbers=("id", "cost USD"))
        async for row in rows:
            shown.add_row(
                str(row.id),
                row.book,
                row.position_id or "-",
                row.kind,
                row.status,
                row.model,
                _usd(row.cost_usd),
                _gist(row),
            )
    if not shown.row_count:
        return out.print("Nothing of this was studied yet: 'closeloop research run' studies the live closes.")
    return out.print(shown)


def _gist(row: ResearchView) -> str:
    content = row.content
    for name in ("statement", "observation", "report", "reason"):
        if name in content:
            return str(content[name])
    return ""


@app.command()
def show(
    row_id: Annotated[int, typer.Argument(metavar="ID", help="As 'research list' shows it.")], as_json: AsJson = False
) -> None:
    """One row whole: what was said, who said it, what it cost; of a hypothesis, how it was tested."""
    row = run_command(_show(row_id))
    if as_json:
        return print_json(row)
    out.print(f"{row.kind} {row.id} of book {row.book}" + (f", position {row.position_id}" if row.position_id else ""))
    out.print(
        f"status {row.status}; by {row.model} ({row.prompt_version}) at {at(row.created_at)}, as of {at(row.as_of)}"
    )
    if row.input_tokens or row.cost_usd:  # hypotheses came with their report, which bears the cost
        out.print(f"{row.input_tokens} tokens in, {row.output_tokens} out, {_usd(row.cost_usd)} USD")
    out.print(_gist(row))
    if "tags" in row.content:
        out.print(f"tags: {', '.join(row.content['tags'])}")
    if "tested" in row.content:
        _print_test(row.content)
    return None


def _print_test(content: Mapping[str, Any]) -> None:
    where = " and ".join(f"{c['dimension']} = {c['value']}" for c in content["conditions"])
    tested = content["tested"]
    out.print(f"claim: {content['pattern_key']} {content['action_category']} where {where} does {content['claim']}")
    out.print(f"tested on {tested['n']} trades against {tested['others']} others: {tested['reason']}")
    if tested["effect"] is not None:
        low, high = number(tested["effect_low"]), number(tested["effect_high"])
        out.print(f"effect {number(tested['effect'])} R ({low} to {high}), p {tested['p']:.2g}")


async def _show(row_id: int) -> ResearchView:
    async with database() as session:
        return await research.find(session, row_id)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Who writes, by the workers' settings; what was spent today (UTC) of the budget, and how the calls ended."""
    report = run_command(_status())
    if as_json:
        return print_json(report)
    spent = f"spent today (UTC): {_usd(report.spent_today_usd)}"
    if report.budget_usd_per_day is None:
        out.print("No worker has said lately that it runs: model and budget are unknown. See 'closeloop status'.")
        out.print(f"{spent} USD in {report.calls_today} calls")
    else:
        setups = {_setup(setup) for setup in report.workers.values()}
        for name, setup in report.workers.items():
            out.print(f"worker {name}: {_setup(setup)}", soft_wrap=True)
        if len(setups) > 1:
            out.print(
                "The workers differ, and who writes depends on which takes the work: give all the same settings.",
                soft_wrap=True,
            )
        budget = format(report.budget_usd_per_day, "f")
        out.print(f"{spent} of {budget} USD in {report.calls_today} calls")
    for outcome, calls in sorted(report.outcomes_today.items()):
        out.print(f"  {outcome}: {calls}")
    return None


def _setup(setup: ResearchSetup) -> str:
    if not setup.key_present:
        return "written by statistics: it has no ANTHROPIC_API_KEY, so no model is asked"
    return f"written by {setup.model}, its key is set, budget {setup.budget_usd_per_day:f} USD a day"


async def _status() -> ResearchStatus:
    async with database() as session:
        return await research.status(session)


def _usd(cost: Decimal) -> str:
    return f"{cost:.4f}" if cost else "0"
