"""The meta-producer: what it would say, how that turned out, and whether it may."""

from datetime import UTC, datetime
from typing import Any

import typer

from closeloop import store
from closeloop.activities.meta import track_record
from closeloop.cli.approvals import say, tell
from closeloop.cli.connections import database, database_sessions, temporal
from closeloop.cli.console import (
    AsJson,
    Book,
    BookOption,
    By,
    DecisionCommand,
    LastOption,
    Note,
    at,
    fail,
    hinting,
    number,
    out,
    print_json,
    print_json_list,
    run,
    settings,
    table,
)
from closeloop.models.approvals import ApprovalAnswer, ApprovalVerdict, ApprovalView
from closeloop.services import approvals
from closeloop.services.meta_decisions import LeavingShadow, back_to_shadow, propose_leaving_shadow

app = typer.Typer(
    help="The meta-producer: it listens to the others and says what usually followed. In shadow until you decide.",
    no_args_is_help=True,
)


@app.command()
def status(book: Book = "default", as_json: AsJson = False) -> None:
    """The gate, the track record of the shadow, and what leaving it would have done."""
    policy = settings().learning_policy()

    async def load() -> dict[str, Any]:
        async with database() as session:
            record = await track_record(session, policy, book, datetime.now(UTC))
            return record | {"proposals": [dict(row) for row in await store.meta.proposals(session, book, "pending")]}

    record = run(load())
    if as_json:
        return print_json(record)
    since = f" since {at(record['since'])} UTC, decided by {record['decided_by']}" if record["since"] else ""
    out.print(f"Book {book}: the meta-producer is {'live' if record['mode'] == 'live' else 'in shadow'}{since}.")
    left = record["outcomes_needed"] - record["outcomes"]
    gate = "open" if record["gate_open"] else f"closed: {left} more needed before it says anything"
    out.print(f"Gate: {record['outcomes']} of {record['outcomes_needed']} outcomes, {gate}.")
    if record["said"]:
        out.print(
            "It said: " + ", ".join(f"{count} x {_reason(reason)}" for reason, count in record["said"].items()) + "."
        )
    for name, label in (("shadow", "In shadow, it would have been"), ("live", "Live, it was")):
        if score := record[name]:
            earned = "" if score["return_pct"] is None else f", {score['return_pct']:+.3f} % a call before costs"
            out.print(
                f"{label} right in {score['correct']} of {score['n']}: {score['hit_rate']:.1%} "
                f"({score['hit_low']:.1%} to {score['hit_high']:.1%}), Brier {score['brier']:.3f}{earned}."
            )
    if not record["shadow"]:
        out.print("Nothing that it would have said has been resolved yet.")
    elif (others := record["producers_meanwhile"])["n"]:
        out.print(
            f"The producers that it listened to were right in {others['hit_rate']:.1%} then, "
            f"Brier {others['brier']:.3f}."
        )
    for waiting in record["proposals"]:
        out.print(
            f"Proposal {waiting['number']} to leave shadow waits until {at(waiting['deadline'])} UTC:\n"
            f"  closeloop meta approve --book {book} --by NAME --note TEXT   (or reject)"
        )
    if record["mode"] == "shadow" and record["gate_open"] and not record["proposals"]:
        out.print(f"'closeloop meta propose --book {book}' proposes to leave shadow.")
    return None


def _reason(reason: str) -> str:
    return {"emitted": "emitted", "shadow_mode": "would have emitted"}.get(
        reason, f"abstained ({reason.replace('_', ' ')})"
    )


@app.command()
def decisions(book: BookOption = None, last: LastOption = None, as_json: AsJson = False) -> None:
    """What it said or would have said of each asset, why, and how that turned out."""
    run(_decisions(book, last, as_json))


async def _decisions(book: str | None, last: int | None, as_json: bool) -> None:
    async with database() as session:
        rows = store.meta.decisions(session, book, last)
        if as_json:
            return await print_json_list(dict(row) async for row in rows)
        shown = table("book", "as of (UTC)", "asset", "horizon", "would say", "k of n", "confidence", "but", "right")
        count = 0
        async for r in rows:
            count += 1
            evidence = r["evidence"]
            right = "-" if r["direction_correct"] is None else "yes" if r["direction_correct"] else "no"
            shown.add_row(
                r["book"], at(r["as_of"]), r["asset"], r["horizon"], evidence["direction"] or "-",
                f"{evidence['k']} of {evidence['n']}", number(r["confidence"]),
                (r["reason"] or "-").replace("_", " "), right,
            )  # fmt: skip
    if not count:
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
    async with database_sessions() as sessions:
        async with sessions() as session:
            record = await track_record(session, policy, book, datetime.now(UTC))
        if record["mode"] == "live":
            fail(f"The meta-producer of {book} is live already, since {at(record['since'])} UTC.")
        async with temporal() as client:
            return await propose_leaving_shadow(client, sessions, policy, book, record)


@app.command(cls=DecisionCommand)
def approve(by: By, book: Book = "default", note: Note = "", as_json: AsJson = False) -> None:
    """Let the meta-producer speak, as proposed; waits for the answer. Status 1 if it was not accepted."""
    tell(run(hinting(_decide(book, ApprovalVerdict.approve, by, note))), as_json)


@app.command(cls=DecisionCommand)
def reject(by: By, book: Book = "default", note: Note = "", as_json: AsJson = False) -> None:
    """Leave the meta-producer in shadow; waits for the answer. Status 1 if it was not accepted."""
    tell(run(hinting(_decide(book, ApprovalVerdict.reject, by, note))), as_json)


async def _decide(book: str, verdict: ApprovalVerdict, by: str, note: str) -> ApprovalAnswer:
    async with database() as session:
        waiting = await approvals.waiting(session, [LeavingShadow()], book=book)
    if not waiting:
        fail(f"Nothing waits for a decision in book {book}: 'closeloop meta propose --book {book}' makes a proposal.")
    return await say(waiting[0], verdict, by, note)


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
