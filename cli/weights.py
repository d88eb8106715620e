"""Governed weights: proposals, decisions, history."""

import asyncio
import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.activities.weights import preset_version, preset_weights
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    Book,
    BookOption,
    By,
    Note,
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
from closeloop.gateways.presets import UnknownPreset, load_preset
from closeloop.learning.weights import InfeasibleBounds
from closeloop.models.events import EventType
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.search_attributes import BOOK, LIFECYCLE
from closeloop.models.weights import (
    ActiveWeights,
    Cadence,
    CycleRequest,
    CycleState,
    CycleView,
    DecisionAnswer,
    Verdict,
)

app = typer.Typer(help="Governed weights: what is proposed and why; approve, reject, revert.", no_args_is_help=True)

CycleId = Annotated[str, typer.Argument(metavar="ID", help="The proposal, as 'weights proposals' shows it.")]


@app.command()
def cycle(
    book: Book,
    as_of: AsOfOption = None,
    deadline_hours: Annotated[
        float | None,
        typer.Option("--deadline-hours", min=0, max=2160, help="How long a proposal waits. Default: the policy's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the book's cycle of the week (or month) of --as-of; returns with its proposal, or its reason for none.

    Started twice for the same period, it is the same cycle.
    """
    instant = as_of or datetime.now(UTC)
    if deadline_hours is not None and math.isnan(deadline_hours):
        raise typer.BadParameter("must be a number of hours", param_hint="--deadline-hours")
    wait = None if deadline_hours is None else timedelta(hours=deadline_hours)
    view = run(hinting(_cycle(book, instant, wait)))
    if as_json:
        return print_json(view)
    return _print_cycle(view)


async def _cycle(book: str, as_of: datetime, deadline: timedelta | None) -> CycleView:
    async with temporal() as client:
        return await run_cycle(client, book, as_of, deadline)


async def run_cycle(client: Client, book: str, as_of: datetime, deadline: timedelta | None = None) -> CycleView:
    """Start the cycle, unless it has been, and wait for its proposal or its reason for none."""
    async with database() as session:
        row = await store.books.find(session, book)
    cycle_id = f"{book}/{Cadence(row['cadence'] if row else Cadence.weekly).period(as_of)}"
    handle: WorkflowHandle[Any, Any]
    try:
        handle = await client.start_workflow(
            "WeightAdjustmentWorkflow",
            CycleRequest(book=book, as_of=as_of, deadline=deadline),
            id=f"weights/{cycle_id}",
            task_queue=TASK_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            static_summary=f"Weights of {book}, cycle {cycle_id}",
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(LIFECYCLE, "weights"), SearchAttributePair(BOOK, book)]
            ),
        )
    except WorkflowAlreadyStartedError:
        handle = client.get_workflow_handle(f"weights/{cycle_id}")
    ended = asyncio.create_task(handle.result())
    try:
        while True:
            if view := await _find(cycle_id):
                return view
            if ended.done():
                ended.result()
            await asyncio.wait((ended,), timeout=0.2)
    except WorkflowFailureError as error:
        cause = error.cause
        fail(f"The cycle was refused: {cause.message if isinstance(cause, ApplicationError) else cause}.")
    finally:
        ended.cancel()


async def _find(cycle_id: str) -> CycleView | None:
    async with database() as session:
        row = await store.weights.cycle(session, cycle_id)
        return None if row is None else store.weights.view(row)


@app.command()
def show(book: Book, as_json: AsJson = False) -> None:
    """The weights in force: what an engine reads."""
    active = run(active_weights(book))
    if as_json:
        return print_json(active)
    since = f" since {at(active.since)} UTC" if active.since else ""
    out.print(f"Book {book}: version {active.version}, {active.source}{since}")
    for domain, weight in sorted(active.weights.items(), key=lambda item: (-item[1], item[0])):
        out.print(f"  {domain:<16} {weight:.4f}")
    return None


async def active_weights(book: str) -> ActiveWeights:
    """The weights in force; a book that nobody met yet would start with the default preset."""
    policy = settings().learning_policy()
    async with database() as session:
        if active := await store.weights.active(session, book):
            return active
        row = await store.books.find(session, book)
    chosen = row["preset_weights"] if row else None
    try:
        return preset_version(
            book, chosen or preset_weights(load_preset(policy.weights.default_preset), policy), policy
        )
    except (InfeasibleBounds, UnknownPreset) as error:
        fail(f"The policy cannot be used: {error}")


@app.command()
def proposals(book: BookOption = None, as_json: AsJson = False) -> None:
    """What waits for a decision, with the evidence."""

    async def load() -> list[CycleView]:
        async with database() as session:
            return await store.weights.cycles(session, book, CycleState.proposed)

    views = run(load())
    if as_json:
        return print_json(views)
    if not views:
        return out.print("Nothing waits for a decision.")
    for view in views:
        _print_cycle(view)
    return None


@app.command()
def approve(proposal: CycleId, by: By, note: Note = "", as_json: AsJson = False) -> None:
    """Apply a proposal; waits for the answer. Status 1 if it was not accepted."""
    _decide(proposal, Verdict.approve, by, note, as_json)


@app.command()
def reject(proposal: CycleId, by: By, note: Note = "", as_json: AsJson = False) -> None:
    """Leave the weights as they are; waits for the answer. Status 1 if it was not accepted."""
    _decide(proposal, Verdict.reject, by, note, as_json)


@app.command()
def revert(proposal: CycleId, by: By, note: Note = "", as_json: AsJson = False) -> None:
    """Undo an applied adjustment while it is watched; waits for the answer. Status 1 if it was not accepted."""
    _decide(proposal, Verdict.revert, by, note, as_json)


def _decide(proposal: str, verdict: Verdict, by: str, note: str, as_json: bool) -> None:
    answer = run(hinting(_ask(proposal, verdict, by, note)))
    if as_json:
        print_json(answer)
    else:
        out.print(f"{'accepted' if answer.accepted else 'not accepted'}: {answer.reason}")
    if not answer.accepted:
        raise typer.Exit(1)


async def _ask(proposal: str, verdict: Verdict, by: str, note: str) -> DecisionAnswer:
    view = await _find(proposal)
    if view is None:
        fail(f"There is no proposal {proposal}: 'closeloop weights proposals' shows what waits.")
    async with temporal() as client:
        return await say(client, view, verdict, by, note)


async def say(client: Client, view: CycleView, verdict: Verdict, by: str, note: str) -> DecisionAnswer:
    """Tell a cycle what an operator decided, and wait for its answer."""
    word = {"verdict": verdict, "operator": by, "note": note}
    try:
        answer: DecisionAnswer = await client.get_workflow_handle(view.workflow_id).execute_update(
            "decide", word, result_type=DecisionAnswer
        )
        return answer
    except WorkflowUpdateFailedError as error:
        fail(f"The cycle did not answer: {error.cause}.")
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
    view = await _find(view.cycle_id) or view
    async with database() as session, session.begin():
        refused = word | {"book": view.book, "cycle_id": view.cycle_id, "outcome": "the cycle has ended"}
        event = (EventType.weights_word_refused, f"{view.cycle_id}/{uuid.uuid4().hex}", refused)
        await store.events.append(session, event)
    by_whom = f" by {view.decided_by} at {at(view.decided_at)} UTC" if view.decided_by else ""
    return DecisionAnswer(
        accepted=False, state=view.state, reason=f"too late: the cycle has ended, {view.state}{by_whom}"
    )


@app.command()
def history(book: Book, as_json: AsJson = False) -> None:
    """Every version that was in force and every cycle, with who decided and why."""
    report = run(_history(book))
    if as_json:
        return print_json(report)
    if not report["versions"] and not report["cycles"]:
        return out.print(f"Book {book} has had no cycle yet.")
    shown = table("version", "in force since (UTC)", "weights of", "why", numbers=("version",), title=f"Book {book}")
    for version in report["versions"]:
        shown.add_row(str(version["version"]), at(version["since"]), version["source"], version["reason"])
    out.print(shown)
    shown = table("cycle", "as of (UTC)", "state", "reason", "decided by", "note")
    for view in report["cycles"]:
        shown.add_row(
            view.cycle_id, at(view.as_of), view.state, view.reason or "-", view.decided_by or "-", view.note or "-"
        )
    return out.print(shown)


async def _history(book: str) -> dict[str, Any]:
    async with database() as session:
        versions = [dict(row) for row in await store.weights.changes(session, book)]
        return {"book": book, "versions": versions, "cycles": await store.weights.cycles(session, book)}


def _print_cycle(view: CycleView) -> None:
    """A proposal so that a person can decide from it alone."""
    why = f", {view.reason}" if view.reason else ""
    out.print(f"\n{view.cycle_id}: {view.state.replace('_', ' ')}{why}")
    out.print(f"as of {at(view.as_of)} UTC" + (f", waits until {at(view.deadline)} UTC" if view.deadline else ""))
    shown = table(
        "domain", "weight", "proposed", "change", "trades", "correlation (95 %)", "p", "q",
        numbers=("weight", "proposed", "change", "trades", "correlation (95 %)", "p", "q"),
    )  # fmt: skip
    for domain in sorted(view.old, key=lambda d: (-view.old[d], d)):
        evidence = view.evidence.get(domain)
        new = view.new[domain] if view.new else None
        cells = ["-"] * 4
        if evidence:
            interval = "" if evidence.ci_low is None else f" ({evidence.ci_low:+.2f} to {evidence.ci_high:+.2f})"
            cells = [str(evidence.n), f"{evidence.r:+.2f}{interval}", number(evidence.p), number(evidence.q)]
        change = "-" if new is None else f"{new - view.old[domain]:+.4f}"
        shown.add_row(domain, f"{view.old[domain]:.4f}", number(new, 4), change, *cells)
    out.print(shown)
    out.print(
        "correlation: of the domain's score towards the trade with winning (+1) or not (-1); q: p-value corrected for\n"
        "looking at all domains (Benjamini-Hochberg). A q above 0.05 is what noise often shows."
    )
    if view.state == CycleState.proposed:
        out.print(f"closeloop weights approve {view.cycle_id} --by NAME --note TEXT   (or reject)")
