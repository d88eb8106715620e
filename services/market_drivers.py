"""Weights of the market's drivers in a book's levers: proposed on the evidence, in force once an operator approves."""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client
from temporalio.service import RPCError

from closeloop import store
from closeloop.learning.market.drivers import level, proposed
from closeloop.models.approvals import ApprovalKey, ApprovalState, ApprovalVerdict, ApprovalView, Decision
from closeloop.models.events import EventType
from closeloop.models.launches import Launch
from closeloop.models.market_drivers import (
    NO_CHANGE,
    DriverChange,
    DriversAnswer,
    DriversProposed,
    DriverStep,
    DriversView,
    FactorsInForce,
)
from closeloop.models.policy import LearningPolicy, LeversPolicy
from closeloop.services import books
from closeloop.services.approvals import ApprovalEvents, DecisionEffect, approval_launch, outcome_of, start_waiting
from closeloop.services.market_evidence import evidence
from closeloop.store.approvals import WaitingPage
from closeloop.store.database import Sessions

DRIVERS = "drivers"
_MAX_NUMBER = 2**31 - 1  # the largest of PostgreSQL's integer


class DriversProposal:
    """A proposal to change a book's factors of drivers, as a subject (services/approvals.py)."""

    kind = DRIVERS
    events = ApprovalEvents()

    async def hold(self, session: AsyncSession, key: ApprovalKey) -> None:
        """See Subject. Locks the book, as does whoever reverts the factors."""
        await store.books.hold(session, key.book)

    async def find(self, session: AsyncSession, key: ApprovalKey) -> ApprovalView | None:
        """See Subject."""
        if not (key.id.isascii() and key.id.isdecimal() and int(key.id) <= _MAX_NUMBER):
            return None
        row = await store.market.drivers.proposal(session, key.book, int(key.id))
        return None if row is None else _view(row)

    async def waiting(self, session: AsyncSession, page: WaitingPage) -> list[ApprovalView]:
        """See Subject."""
        return [_view(row) for row in await store.market.drivers.waiting(session, page)]

    async def objection(self, session: AsyncSession, found: ApprovalView) -> str | None:
        """See Subject. None: whoever reverts what is in force withdraws what waits."""
        return None

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        """See Subject."""
        approved = decision is not None and decision.verdict is ApprovalVerdict.approve
        other = ApprovalState.rejected if decision is not None else ApprovalState.expired
        await store.market.drivers.settle(
            session,
            found.book,
            int(found.id),
            {
                "state": ApprovalState.approved if approved else other,
                "verdict": decision.verdict if decision else None,
                "operator": decision.operator if decision else None,
                "note": (decision.note if decision else None) or None,
                "decided_at": decision.at if decision else found.deadline,
            },
        )
        if decision is None or not approved:
            return DecisionEffect("the drivers' weights stay as they are")
        row = await store.market.drivers.proposal(session, found.book, int(found.id))
        assert row is not None, "it was found"
        await store.market.drivers.put_in_force(
            session, found.book, row["factors"], decision.operator, decision.note, int(found.id)
        )
        return DecisionEffect(
            f"levers for {found.book} weigh its drivers so from now on; "
            f"'closeloop market revert --book {found.book} --by NAME' goes back to the policy's weights"
        )

    async def withdraw(self, session: AsyncSession, found: ApprovalView, reason: str, at: datetime) -> None:
        """See Subject."""
        values = {"verdict": None, "operator": None, "note": reason, "decided_at": at}
        state = {"state": ApprovalState.withdrawn}
        await store.market.drivers.settle(session, found.book, int(found.id), state | values)

    async def launch(self, session: AsyncSession, found: ApprovalView) -> Launch:
        """See Subject."""
        return approval_launch(found)

    async def watched(self, session: AsyncSession) -> list[Launch]:
        """See Subject. None: it ends with the decision; who reverts does not need it."""
        return []


async def propose(
    client: Client, sessions: Sessions, policy: LearningPolicy, book: str, as_of: datetime
) -> DriversAnswer:
    """Propose what the evidence of a book's trades that had closed by ``as_of`` says of its drivers' weights, and start
    the workflow that waits for an operator. Commits.

    Nothing is proposed where nothing is to be changed, nor from trades from which something was proposed before. While
    a proposal waits, it is that one. Raises NotOnRecord, BookArchived, and NotAcceptable for too many trades.
    """
    async with sessions() as session:
        await books.find_open(session, book)
        shown = await evidence(session, policy, book, None, as_of)
    async with sessions.begin() as session:
        await books.refuse_archived(session, book)
        await store.books.hold(session, book)
        before = await _factors(session, book)
        found = DriversProposed(
            book=book,
            counted=shown.counted,
            first_opened_at=shown.first_opened_at,
            last_opened_at=shown.last_opened_at,
            max_q=level(shown.counted, policy.worth),
            changes=proposed(shown.states, shown.counted, before, policy.levers, policy.worth),
        )
        last = await store.market.drivers.newest(session, book)
        waits = last is not None and last["state"] == ApprovalState.pending
        if waits or not (refusal := _nothing(found, last)):
            number = last["number"] if waits and last is not None else await _store(session, policy, found)
            row = await store.market.drivers.proposal(session, book, number)
            assert row is not None, "it was stored"
            view = _view(row)
        else:
            return DriversAnswer(sentence=refusal, found=found, evidence=shown)
    await start_waiting(client, approval_launch(view))
    sentence = f"{'Waits already' if waits else 'Proposed'}: {view.proposal}"
    return DriversAnswer(
        proposal=view.workflow_id, deadline=view.deadline, sentence=sentence, found=found, evidence=shown
    )


async def revert(client: Client, sessions: Sessions, book: str, operator: str, note: str) -> bool:
    """Weigh a book's drivers by the policy again, at once. Needs no approval: it is what nobody's trades changed.

    A proposal that waits is withdrawn, as it would start from other factors. False where the weights are the policy's
    already. Commits. Raises NotOnRecord.
    """
    withdrawn = None
    async with sessions.begin() as session:
        await books.find(session, book)
        await store.books.hold(session, book)
        if not await back_to_policy(session, book, operator, note):
            return False
        last = await store.market.drivers.newest(session, book)
        if last is not None and last["state"] == ApprovalState.pending:
            withdrawn = _view(last)
            reason = f"{operator} went back to the policy's weights"
            await DriversProposal().withdraw(session, withdrawn, reason, datetime.now(UTC))
    if withdrawn is not None:
        with contextlib.suppress(RPCError):  # it may have ended, or Temporal be away: the record decides
            await client.get_workflow_handle(withdrawn.workflow_id).signal("look")
    return True


async def back_to_policy(session: AsyncSession, book: str, operator: str, note: str) -> bool:
    """The same in the caller's transaction, which holds the book, and leaves what waits; tells of it in an event."""
    before = await _factors(session, book)
    if all(factor == NO_CHANGE for factor in before.values()):
        return False
    await store.market.drivers.put_in_force(session, book, {}, operator, note, None)
    now = await store.market.drivers.in_force(session, book)
    assert now is not None, "it was put in force"
    payload = {"book": book, "operator": operator, "note": note, "at": now["since"], "factors": before}
    await store.events.append(session, (EventType.drivers_reverted, f"{book}/{now['version']}", payload))
    return True


async def status(session: AsyncSession, policy: LeversPolicy, book: str, at: datetime) -> DriversView:
    """A book's factors of drivers as of an instant, the weights that follow, and what waits. Raises NotOnRecord."""
    await books.find(session, book)
    row = await store.market.drivers.in_force(session, book, at)
    last = await store.market.drivers.newest(session, book)
    waits = last is not None and last["state"] == ApprovalState.pending and last["proposed_at"] <= at
    view = _view(last) if waits and last is not None else None
    factors = row["factors"] if row else {}
    force = FactorsInForce(
        book=book,
        version=row["version"] if row else 0,
        since=row["since"] if row else None,
        factors={name: factors.get(name, NO_CHANGE) for name in policy.driver_weights},
        operator=row["operator"] if row else None,
        note=row["note"] if row else None,
        proposal=f"{DRIVERS}/{book}/{row['proposal']}" if row and row["proposal"] is not None else None,
    )
    return DriversView(
        **force.model_dump(),
        policy_weights=policy.driver_weights,
        weights=_weighed(policy, force.factors).driver_weights,
        waiting=view.workflow_id if view else None,
        waits_until=view.deadline if view else None,
    )


async def policy_of(session: AsyncSession, book: str, policy: LeversPolicy, instant: datetime) -> LeversPolicy:
    """The policy of a book's levers as of an instant: with the factors of its drivers that were in force then."""
    row = await store.market.drivers.in_force(session, book, instant)
    return policy if row is None else _weighed(policy, row["factors"])


def _weighed(policy: LeversPolicy, factors: Mapping[str, float]) -> LeversPolicy:
    weights = {name: weight * factors.get(name, NO_CHANGE) for name, weight in policy.driver_weights.items()}
    if weights == policy.driver_weights:
        return policy
    # Made anew, since a copy would keep the hash.
    return LeversPolicy.model_validate(policy.model_dump() | {"driver_weights": weights})


async def _factors(session: AsyncSession, book: str) -> dict[str, float]:
    row = await store.market.drivers.in_force(session, book)
    return {} if row is None else dict(row["factors"])


def _nothing(found: DriversProposed, last: RowMapping | None) -> str:
    """Why nothing is proposed; empty if something is."""
    if not found.counted:
        return "Nothing to propose: no trade with a known R says what the market was when it was opened."
    if last is not None and last["state"] != ApprovalState.withdrawn and last["counted"] >= found.counted:
        return (
            f"Nothing to propose: proposal {last['number']}, which was {last['state']}, was made of these "
            f"{found.counted:,} trades already. New ones are needed."
        )
    if all(each.step is DriverStep.kept for each in found.changes):
        return (
            f"Nothing to propose: of the states of no driver, {found.counted:,} trades say that its weight should be "
            f"another one (q at most {found.max_q:.2g})."
        )
    return ""


async def _store(session: AsyncSession, policy: LearningPolicy, found: DriversProposed) -> int:
    now = datetime.now(UTC)
    return await store.market.drivers.propose(
        session,
        {
            "book_id": found.book,
            "state": ApprovalState.pending,
            "before": {each.driver: each.before for each in found.changes},
            "factors": {each.driver: each.after for each in found.changes},
            "counted": found.counted,
            "evidence": found.model_dump(mode="json"),
            "proposed_at": now,
            "deadline": now + timedelta(hours=policy.approvals.hours),
            "policy_hash": policy.policy_hash,
        },
    )


def _view(row: RowMapping) -> ApprovalView:
    decision = None
    if row["verdict"] is not None:
        decision = Decision(
            verdict=ApprovalVerdict(row["verdict"]),
            operator=row["operator"],
            note=row["note"] or "",
            at=row["decided_at"],
        )
    state = ApprovalState(row["state"])
    found = DriversProposed.model_validate(row["evidence"])
    moved = [each for each in found.changes if each.after != each.before]
    proposal = f"Weigh the market's drivers otherwise in levers for {row['book']}: {'; '.join(map(_moved, moved))}"
    return ApprovalView(
        kind=DRIVERS,
        book=row["book"],
        id=str(row["number"]),
        proposal=f"{proposal}; from {found.counted:,} trades"[:2000],
        deadline=row["deadline"],
        state=state,
        decision=decision,
        outcome=f"withdrawn: {row['note']}" if state is ApprovalState.withdrawn else outcome_of(state, decision),
    )


def _moved(change: DriverChange) -> str:
    return f"{change.driver} x {change.before:g} -> x {change.after:g} ({change.reason})"
