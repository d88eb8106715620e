"""What waits for an operator, across subjects: weights, overrides, the meta-producer leaving shadow."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from closeloop.cli.connections import database, database_sessions, temporal
from closeloop.cli.console import (
    AsJson,
    BeforeOption,
    BookOption,
    ByOrToken,
    Decider,
    DecisionCommand,
    LastOption,
    Note,
    at,
    decider,
    hinting,
    out,
    print_json,
    run,
)
from closeloop.models.approvals import (
    ApprovalAnswer,
    ApprovalKey,
    ApprovalState,
    ApprovalVerdict,
    ApprovalView,
    Decision,
)
from closeloop.services import approvals
from closeloop.workers.wiring import SUBJECTS

app = typer.Typer(help="What waits for you, of whatever kind: look at it, approve, reject.", no_args_is_help=True)

# The command that shows what a proposal of a kind rests on.
EVIDENCE = {
    "weights": "weights proposals --book {book}",
    "override": "overrides list --book {book}",
    "meta": "meta status --book {book}",
}

Name = Annotated[str, typer.Argument(metavar="KIND/BOOK/ID", help="As 'approvals list' shows it.")]


@app.command("list")
def list_(
    book: BookOption = None, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False
) -> None:
    """Everything that waits for an operator, the soonest deadline first."""

    async def load() -> list[ApprovalView]:
        async with database() as session:
            return await approvals.waiting(session, SUBJECTS, book=book, last=last, before=before)

    views = run(load())
    if as_json:
        return print_json(views)
    if not views:
        return out.print("Nothing waits for a decision.")
    for view in views:
        _print(view)
    return None


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """What is proposed, until when it waits, or what became of it."""

    async def load() -> ApprovalView:
        async with database() as session:
            return await approvals.show(session, SUBJECTS, name)

    view = run(load())
    if as_json:
        return print_json(view)
    return _print(view)


@app.command(cls=DecisionCommand)
def approve(name: Name, by: ByOrToken = None, note: Note = "", as_json: AsJson = False) -> None:
    """Carry out what is proposed; waits for the answer. Status 1 if it was refused."""
    _decide(name, ApprovalVerdict.approve, by, note, as_json)


@app.command(cls=DecisionCommand)
def reject(name: Name, by: ByOrToken = None, note: Note = "", as_json: AsJson = False) -> None:
    """Leave everything as it is; waits for the answer. Status 1 if it was refused."""
    _decide(name, ApprovalVerdict.reject, by, note, as_json)


def _decide(name: str, verdict: ApprovalVerdict, by: str | None, note: str, as_json: bool) -> None:
    who = decider(by)

    async def decided() -> ApprovalAnswer:
        async with database() as session:
            found = await approvals.show(session, SUBJECTS, name)
        return await send_decision(found, verdict, who, note)

    print_answer(run(hinting(decided())), as_json)


async def send_decision(key: ApprovalKey, verdict: ApprovalVerdict, who: Decider, note: str) -> ApprovalAnswer:
    """Tell the workflow that waits what was decided, and wait for its answer."""
    operator, secret = who
    async with database_sessions() as sessions, temporal() as client:
        return await approvals.send_decision(client, sessions, SUBJECTS, key, verdict, operator, note, secret)


def print_answer(answer: ApprovalAnswer, as_json: bool) -> None:
    """Print the answer; status 1 if it was not accepted."""
    if as_json:
        print_json(answer)
    else:
        out.print(f"{'accepted' if answer.accepted else 'not accepted'}: {answer.reason}")
    if not answer.accepted:
        raise typer.Exit(1)


def _print(view: ApprovalView) -> None:
    """So that a person can decide from it alone."""
    out.print(f"\n{view.workflow_id}", style="bold", soft_wrap=True)
    out.print(f"  {view.proposal}", soft_wrap=True)
    if view.state is not ApprovalState.pending:
        out.print(f"  {view.outcome or view.state}", soft_wrap=True)
        if decision := view.decision:
            if decision.note:
                out.print(f"  note of {decision.operator}: {decision.note}", soft_wrap=True)
            out.print(f"  {_how(decision)}", soft_wrap=True)
        return None
    if made := view.recorded:
        out.print(
            f"  {made.verdict} by {made.operator} is on record since {at(made.at)} UTC: carried out when a worker runs",
            soft_wrap=True,
        )
    if view.deadline <= datetime.now(UTC):
        return out.print(f"  its deadline was {at(view.deadline)} UTC: it expires when a worker runs, nothing changes")
    if evidence := EVIDENCE.get(view.kind):
        out.print(f"  the evidence: closeloop {evidence.format(book=view.book)}", soft_wrap=True)
    out.print(f"  waits until {at(view.deadline)} UTC, {_left(view.deadline)} from now; then nothing changes")
    return out.print(
        f"  closeloop approvals approve {view.workflow_id} --by NAME --note TEXT   (or reject)", soft_wrap=True
    )


def _how(decision: Decision) -> str:
    """Whether the operator's name was proven or claimed, and who sent the word."""
    known = f"known by the token {decision.token}" if decision.token else "the name is what the sender claims"
    return f"{known}; sent by {decision.sender or 'unknown'}"


def _left(deadline: datetime) -> str:
    minutes = int((deadline - datetime.now(UTC)).total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
