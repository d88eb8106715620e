"""Governed weights: proposals, decisions, history."""

import math
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from closeloop.cli.approvals import print_answer
from closeloop.cli.connections import database, database_sessions, temporal
from closeloop.cli.console import (
    AsJson,
    AsOfOption,
    BeforeOption,
    Book,
    BookOption,
    ByOrToken,
    DecisionCommand,
    LastOption,
    Note,
    at,
    decider,
    err,
    hinting,
    number,
    out,
    p_value,
    print_json,
    run,
    settings,
    table,
)
from closeloop.models.approvals import ApprovalAnswer
from closeloop.models.sentences import guard_in_words
from closeloop.models.weights import (
    ActiveWeights,
    CycleState,
    CycleView,
    WeightsHistory,
    WeightsSimulation,
    WeightsVerdict,
)
from closeloop.services import books, weight_simulation, weights

app = typer.Typer(help="Governed weights: what is proposed and why; approve, reject, revert.", no_args_is_help=True)

PROGRESS_SECONDS = 2.0
REVERTS_NAMED = 10
"""How many reverts of a rule are named by their day; ``--json`` has all of them."""

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
    async with database_sessions() as sessions, temporal() as client:
        return await weights.run_cycle(client, sessions, book, as_of, deadline)


@app.command()
def show(book: Book, as_json: AsJson = False) -> None:
    """The weights in force: what an engine reads."""

    async def load() -> ActiveWeights:
        policy = settings().learning_policy()
        preset = books.preset_named(policy.weights.default_preset)
        async with database() as session:
            return await weights.in_force(session, policy, preset, book)

    active = run(load())
    if as_json:
        return print_json(active)
    since = f" since {at(active.since)} UTC" if active.since else ""
    out.print(f"Book {book}: version {active.version}, {active.source}{since}")
    for domain, weight in sorted(active.weights.items(), key=lambda item: (-item[1], item[0])):
        out.print(f"  {domain:<16} {weight:.4f}")
    return None


@app.command()
def proposals(
    book: BookOption = None, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False
) -> None:
    """What waits for a decision, with the evidence."""

    async def load() -> list[CycleView]:
        async with database() as session:
            return await weights.proposals(session, book, last, before)

    views = run(load())
    if as_json:
        return print_json(views)
    if not views:
        return out.print("Nothing waits for a decision.")
    for view in views:
        _print_cycle(view)
    return None


@app.command(cls=DecisionCommand)
def approve(proposal: CycleId, by: ByOrToken = None, note: Note = "", as_json: AsJson = False) -> None:
    """Apply a proposal; waits for the answer. Status 1 if it was not accepted."""
    _decide(proposal, WeightsVerdict.approve, by, note, as_json)


@app.command(cls=DecisionCommand)
def reject(proposal: CycleId, by: ByOrToken = None, note: Note = "", as_json: AsJson = False) -> None:
    """Leave the weights as they are; waits for the answer. Status 1 if it was not accepted."""
    _decide(proposal, WeightsVerdict.reject, by, note, as_json)


@app.command(cls=DecisionCommand)
def revert(proposal: CycleId, by: ByOrToken = None, note: Note = "", as_json: AsJson = False) -> None:
    """Undo an applied adjustment while it is watched; waits for the answer. Status 1 if it was not accepted."""
    _decide(proposal, WeightsVerdict.revert, by, note, as_json)


def _decide(proposal: str, verdict: WeightsVerdict, by: str | None, note: str, as_json: bool) -> None:
    operator, secret = decider(by)

    async def decided() -> ApprovalAnswer:
        async with database_sessions() as sessions, temporal() as client:
            return await weights.send_decision(client, sessions, proposal, verdict, operator, note, secret)

    print_answer(run(hinting(decided())), as_json)


@app.command()
def history(book: Book, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False) -> None:
    """Every version that was in force and every cycle, with who decided and why."""

    async def load() -> WeightsHistory:
        async with database() as session:
            return await weights.history(session, book, last, before)

    found = run(load())
    if as_json:
        return print_json(found)
    if not found.versions and not found.cycles:
        return out.print(f"Book {book} has had no cycle yet.")
    shown = table("version", "in force since (UTC)", "weights of", "why", numbers=("version",), title=f"Book {book}")
    for version in found.versions:
        shown.add_row(str(version.version), at(version.since), version.source, version.reason)
    out.print(shown)
    shown = table(
        "cycle", "as of (UTC)", "under", "trades", "mean pnl", "mean R", "fell in a row", "guard", "state", "reason",
        "decided by", "note", numbers=("trades", "mean pnl", "mean R", "fell in a row", "guard"),
    )  # fmt: skip
    for view in found.cycles:
        shown.add_row(
            view.cycle_id,
            at(view.as_of),
            "learned" if view.learned else "preset",
            str(view.performance_n),
            number(view.performance_pnl),
            number(view.performance_r),
            str(view.streak) if view.guard is None else "-",
            "-" if view.guard is None else f"{view.guard.evidence:.1f} of {view.guard.threshold:g}",
            view.state,
            view.reason or "-",
            view.decided_by or "-",
            view.note or "-",
        )
    out.print(shown)
    newest = found.cycles[-1] if found.cycles else None
    if newest is not None and newest.guard is not None:
        out.print(guard_in_words(newest.guard))
    return None


@app.command()
def simulate(book: Book, as_of: AsOfOption = None, as_json: AsJson = False) -> None:
    """What each rule of going back to the preset would have done with the book's own history (weights.revert).

    Simulated, nothing is written: cycles begin with each week (or month), each proposal counts as approved at once, and
    a cycle reads only what had closed by then. Rules: seed (falls in a row), guarded (evidence), none (never goes
    back), and preset (nothing is ever learned). A trade makes its R times its size; sizes are proportional to the
    conviction of the weights in force when it was opened, with mean 1 over the trades opened in the same cycle. Needs
    what a cycle needs to propose: by default 20 trades in 30 days, of a book 30 days old. Telling rules apart takes
    hundreds of trades: see the standard errors.
    """
    instant = as_of or datetime.now(UTC)
    told = _Progress()

    async def load() -> WeightsSimulation:
        policy = settings().learning_policy()
        preset = books.preset_named(policy.weights.default_preset)
        async with database() as session:
            return await weight_simulation.simulate(session, policy, preset, book, instant, told)

    found = run(load())
    told.end()
    if as_json:
        return print_json(found)
    return _print_simulation(found)


class _Progress:
    """Says on stderr how far a simulation is, every few seconds."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._line_open = False

    def __call__(self, sentence: str) -> None:
        if time.monotonic() - self._said < PROGRESS_SECONDS:
            return
        self._said, self._line_open = time.monotonic(), err.is_terminal
        err.print(f"simulating: {sentence}", end="\r" if err.is_terminal else "\n")

    def end(self) -> None:
        if self._line_open:
            err.print()


def _print_simulation(found: WeightsSimulation) -> None:
    if found.nothing:
        return out.print(found.nothing)
    out.print(
        f"Simulated, not what happened: book {found.book}, {found.cycles} {found.cadence} cycles from "
        f"{at(found.first_cycle)} to {at(found.last_cycle)} UTC, each proposal approved at once.\n"
        f"{found.n} of {found.positions} closed positions count: those with a domain score"
        + (" and R." if found.unit == "R" else "; none of them has R, so this is in money.")
    )
    shown = table(
        "rule", "reverts", "learned cycles", "trades", "under learned", f"{found.unit} a trade", "against none",
        numbers=("reverts", "learned cycles", "trades", "under learned", f"{found.unit} a trade", "against none"),
    )  # fmt: skip
    for rule in found.rules:
        apart = "-" if rule.rule == "none" else _with_error(rule.against_none, rule.against_none_standard_error)
        shown.add_row(
            rule.rule,
            str(len(rule.reverts)),
            str(rule.learned_cycles),
            str(found.n),
            str(rule.learned_trades),
            _with_error(rule.mean, rule.standard_error),
            apart,
        )
    out.print(shown)
    for rule in found.rules:
        if rule.reverts:
            first = ", ".join(f"{when:%Y-%m-%d}" for when in rule.reverts[:REVERTS_NAMED])
            more = len(rule.reverts) - REVERTS_NAMED
            out.print(f"{rule.rule}: back to the preset on {first}" + (f" and {more} times more" if more > 0 else ""))
        weights_then = ", ".join(f"{d} {w:.3f}" for d, w in sorted(rule.weights.items(), key=lambda i: (-i[1], i[0])))
        out.print(f"{rule.rule}: weights at the end {weights_then}")
    return out.print(
        "± is one standard error, trades of one cycle taken together. A difference of less than two of them is what\n"
        "noise often shows. weights.revert in the policy file chooses between seed and guarded (docs/algorithms.md)."
    )


def _with_error(mean: float | None, error: float | None) -> str:
    return "-" if mean is None else f"{mean:+.3f}" + ("" if error is None else f" ± {error:.3f}")


def _until(view: CycleView) -> str:
    if view.state == CycleState.proposed:
        return f", waits until {at(view.deadline)} UTC"
    return f", decided by {view.decided_by} at {at(view.decided_at)} UTC" if view.decided_by else ""


def _print_cycle(view: CycleView) -> None:
    """A proposal so that a person can decide from it alone."""
    why = f", {view.reason}" if view.reason else ""
    out.print(f"\n{view.cycle_id}: {view.state.replace('_', ' ')}{why}")
    out.print(f"as of {at(view.as_of)} UTC" + _until(view))
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
            cells = [str(evidence.n), f"{evidence.r:+.2f}{interval}", p_value(evidence.p), p_value(evidence.q)]
        change = "-" if new is None else f"{new - view.old[domain]:+.4f}"
        shown.add_row(domain, f"{view.old[domain]:.4f}", number(new, 4), change, *cells)
    out.print(shown)
    out.print(
        "correlation: of the domain's score towards the trade with winning (+1) or not (-1); q: p-value corrected for\n"
        "looking at all domains (Benjamini-Hochberg). A q above 0.05 is what noise often shows."
    )
    if view.guard is not None:
        out.print(guard_in_words(view.guard))
    if view.approves_itself:
        out.print("The proposal is by the domains alone whose q the policy accepts: it approves that by itself.")
    if view.state == CycleState.proposed:
        out.print(f"closeloop weights approve {view.cycle_id} --by NAME --note TEXT   (or reject)")
