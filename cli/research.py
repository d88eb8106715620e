"""Research: what a language model, or statistics without one, said of closed trades; how hypotheses were judged."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer
from temporalio.client import WorkflowFailureError

from closeloop import store
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BookOption,
    LastOption,
    at,
    fail,
    hinting,
    number,
    out,
    print_json,
    print_json_list,
    settings,
    table,
)
from closeloop.cli.console import run as run_command
from closeloop.learning.research import STATISTICS
from closeloop.models.launches import LLM_TASK_QUEUE
from closeloop.models.research import Kind, ResearchReport, ResearchRequest, ResearchView, Status

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
        return print_json(report)
    return out.print(report.sentence)


async def _run(request: ResearchRequest) -> ResearchReport:
    async with temporal() as client:
        try:
            report: ResearchReport = await client.execute_workflow(
                "LlmResearchWorkflow",
                request,
                id=f"research/{request.book or 'all'}/{uuid.uuid4().hex[:8]}",
                task_queue=LLM_TASK_QUEUE,
                static_summary=f"Study what closed in {request.book or 'every book'}",
                result_type=ResearchReport,
            )
        except WorkflowFailureError as error:
            fail(
                f"The run failed: {str(error.cause)[:300]}. What it had read is kept; the next run goes on from there."
            )
        return report


@app.command("list")
def research_list(
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only this kind.")] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Only this status.")] = None,
    book: BookOption = None,
    last: LastOption = None,
    as_json: AsJson = False,
) -> None:
    """What was said, oldest first; what each hypothesis came to."""
    run_command(_list(book, kind, status, last, as_json))


async def _list(book: str | None, kind: Kind | None, status: Status | None, last: int | None, as_json: bool) -> None:
    async with database() as session:
        rows = store.research.listing(session, book, kind, status, last)
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
        return out.print("Nothing was studied yet: 'closeloop research run' studies the live closes.")
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
    if row is None:
        fail(f"There is no research with the id {row_id}: 'closeloop research list' shows what there is.")
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


async def _show(row_id: int) -> ResearchView | None:
    async with database() as session:
        return await store.research.shown(session, row_id)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Who writes, what was spent today (UTC) of the budget, and how the calls ended."""
    report = run_command(_status())
    if as_json:
        return print_json(report)
    keyed = report["model"] != STATISTICS
    out.print(f"written by {report['model']}" + ("" if keyed else ": without an ANTHROPIC_API_KEY no model is asked"))
    spent, budget, calls = (report[name] for name in ("spent_today_usd", "budget_usd_per_day", "calls_today"))
    out.print(f"spent today (UTC): {_usd(Decimal(spent))} of {budget} USD in {calls} calls")
    for outcome, number_of in sorted(report["outcomes_today"].items()):
        out.print(f"  {outcome}: {number_of}")
    return None


async def _status() -> dict[str, Any]:
    budget = settings().llm_budget_usd_per_day
    async with database() as session:
        today = await store.model_calls.spending(session)
    return {
        "model": settings().llm_model if settings().api_key() else STATISTICS,
        "budget_usd_per_day": format(budget, "f"),
        "spent_today_usd": format(today.spent_usd, "f"),
        "left_today_usd": format(max(budget - today.spent_usd, Decimal(0)), "f"),
        "calls_today": today.calls,
        "outcomes_today": today.outcomes,
    }


def _usd(cost: Decimal) -> str:
    return f"{cost:.4f}" if cost else "0"
