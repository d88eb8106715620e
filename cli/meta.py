"""The meta-producer: what it would say, how that turned out, and whether it may."""

from datetime import UTC, datetime

import typer

from closeloop.cli.approvals import print_answer, send_decision
from closeloop.cli.connections import database, database_sessions, temporal
from closeloop.cli.console import (
    AsJson,
    BeforeOption,
    Book,
    BookOption,
    By,
    ByOrToken,
    Decider,
    DecisionCommand,
    LastOption,
    Note,
    at,
    decider,
    fail,
    hinting,
    number,
    out,
    own_secret,
    print_json,
    print_json_list,
    run,
    settings,
    table,
)
from closeloop.models.approvals import ApprovalAnswer, ApprovalVerdict, ApprovalView
from closeloop.models.meta import MetaStatus
from closeloop.services import approvals, meta
from closeloop.services.meta_decisions import LeavingShadow, back_to_shadow

app = typer.Typer(
    help="The meta-producer: it listens to the others and says what usually followed. In shadow until you decide.",
    no_args_is_help=True,
)


@app.command()
def status(book: Book = "default", as_json: AsJson = False) -> None:
    """The gate, the track record of the shadow, and what leaving it would have done."""
    found = run(_status(book))
    if as_json:
        return print_json(found)
    since = f" since {at(found.since)} UTC, decided by {found.decided_by}" if found.since else ""
    out.print(f"Book {book}: the meta-producer is {'live' if found.mode == 'live' else 'in shadow'}{since}.")
    if found.gate_open:
        out.print(f"Gate: open, passed with {found.outcomes} outcomes ({found.outcomes_needed} are needed).")
    else:
        left = found.outcomes_needed - found.outcomes
        out.print(f"Gate: closed, {found.outcomes} of {found.outcomes_needed} outcomes: {left} more before it speaks.")
    if found.said:
        out.print("It said: " + ", ".join(f"{count} x {_reason(reason)}" for reason, count in found.said.items()) + ".")
    for score, label in ((found.shadow, "In shadow, it would have been"), (found.live, "Live, it was")):
        if score:
            earned = "" if score.return_pct is None else f", {score.return_pct:+.3f} % a call before costs"
            out.print(
                f"{label} right in {score.correct} of {score.n}: {score.hit_rate:.1%} "
                f"({score.hit_low:.1%} to {score.hit_high:.1%}), Brier {score.brier:.3f}{earned}."
            )
    if not found.shadow:
        out.print("Nothing that it would have said has been resolved yet.")
    elif (others := found.producers_meanwhile).n:
        out.print(
            f"The producers that it listened to were right in {others.hit_rate:.1%} then, Brier {others.brier:.3f}."
        )
    for waiting in found.proposals:
        out.print(
            f"Proposal {waiting.number} to leave shadow waits until {at(waiting.deadline)} UTC:\n"
            f"  closeloop meta approve --book {book} --by NAME --note TEXT   (or reject)"
        )
    if found.mode == "shadow" and found.gate_open and not found.proposals:
        out.print(f"'closeloop meta propose --book {book}' proposes to leave shadow.")
    return None


async def _status(book: str) -> MetaStatus:
    policy = settings().learning_policy()
    async with database() as session:
        return await meta.status(session, policy, book, datetime.now(UTC))


def _reason(reason: str) -> str:
    return {"emitted": "emitted", "shadow_mode": "would have emitted"}.get(
        reason, f"abstained ({reason.replace('_', ' ')})"
    )


@app.command()
def decisions(
    book: BookOption = None, last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False
) -> None:
    """What it said or would have said of each asset, why, and how that turned out."""
    run(_decisions(book, last, before, as_json))


async def _decisions(book: str | None, last: int | None, before: str | None, as_json: bool) -> None:
    async with database() as session:
        views = meta.decisions(session, book, last=last, before=before)
        if as_json:
            return await print_json_list(views)
        shown = table(
            "id", "book", "as of (UTC)", "asset", "horizon", "would say", "k of n", "confidence", "but", "right"
        )
        async for v in views:
            right = "-" if v.direction_correct is None else "yes" if v.direction_correct else "no"
            shown.add_row(
                str(v.id), v.book, at(v.as_of), v.asset, v.horizon, v.evidence.direction or "-",
                f"{v.evidence.k} of {v.evidence.n}", number(v.confidence), (v.reason or "-").replace("_", " "), right,
            )  # fmt: skip
    if not shown.row_count:
        return out.print(
            "It has not been asked yet: it speaks after each resolution, of what producers spoke of lately."
        )
    return out.print(shown)


@app.command()
def propose(book: Book = "default", as_json: AsJson = False) -> None:
    """Propose that a book's meta-producer leaves shadow; it waits for an operator's approval."""
    request = run(_propose(book))
    if as_json:
        return print_json(request)
    out.print(f"Proposal {request.id}, waits until {at(request.deadline)} UTC. {request.proposal}")
    return out.print(f"closeloop meta approve --book {book} --by NAME --note TEXT   (or reject)")


async def _propose(book: str) -> ApprovalView:
    policy = settings().learning_policy()
    async with database_sessions() as sessions, temporal() as client:
        return await meta.propose(client, sessions, policy, book, datetime.now(UTC), own_secret())


@app.command(cls=DecisionCommand)
def approve(by: ByOrToken = None, book: Book = "default", note: Note = "", as_json: AsJson = False) -> None:
    """Let the meta-producer speak, as proposed; waits for the answer. Status 1 if it was not accepted."""
    print_answer(run(hinting(_decide(book, ApprovalVerdict.approve, decider(by), note))), as_json)


@app.command(cls=DecisionCommand)
def reject(by: ByOrToken = None, book: Book = "default", note: Note = "", as_json: AsJson = False) -> None:
    """Leave the meta-producer in shadow; waits for the answer. Status 1 if it was not accepted."""
    print_answer(run(hinting(_decide(book, ApprovalVerdict.reject, decider(by), note))), as_json)


async def _decide(book: str, verdict: ApprovalVerdict, who: Decider, note: str) -> ApprovalAnswer:
    async with database() as session:
        waiting = await approvals.waiting(session, [LeavingShadow()], book=book)
    if not waiting:
        fail(f"Nothing waits for a decision in book {book}: 'closeloop meta propose --book {book}' makes a proposal.")
    return await send_decision(waiting[0], verdict, who, note)


@app.command(cls=DecisionCommand)
def shadow(by: By, book: Book = "default", note: Note = "", as_json: AsJson = False) -> None:
    """Send the meta-producer back to shadow, at once: it is the safe direction."""
    changed = run(_shadow(book, by, note))
    if as_json:
        return print_json({"book": book, "changed": changed})
    return out.print(f"Book {book}: " + ("in shadow from now on" if changed else "it was in shadow already"))


async def _shadow(book: str, by: str, note: str) -> bool:
    if not by.strip():
        raise typer.BadParameter("must not be empty", param_hint="--by")
    async with database_sessions() as sessions:
        return await back_to_shadow(sessions, book, by[:200], note[:4000])
