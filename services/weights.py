"""Governed weights: those in force, proposals and history, running a cycle, and sending an operator's decision."""

import asyncio
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError

from closeloop import store
from closeloop.learning.weights import InfeasibleBounds, preset_weights
from closeloop.models.approvals import ApprovalAnswer, ApprovalVerdict
from closeloop.models.errors import NotAcceptable, NotOnRecord, NotPossibleNow
from closeloop.models.launches import weight_cycle
from closeloop.models.policy import LearningPolicy
from closeloop.models.weights import (
    ActiveWeights,
    CycleKey,
    CycleRequest,
    CycleState,
    CycleView,
    Preset,
    Weights,
    WeightsHistory,
    WeightsVerdict,
)
from closeloop.services import approvals, books, operator_decisions
from closeloop.services.launching import result, start
from closeloop.services.weight_decisions import WeightsProposal, launch_again
from closeloop.store.database import Sessions

READ_RECORD_EVERY_SECONDS = 0.2
"""How often a cycle's record is looked for while its workflow evaluates it."""


# -- reading -----------------------------------------------------------------------------------------------------------


async def in_force(session: AsyncSession, policy: LearningPolicy, preset: Preset, book: str) -> ActiveWeights:
    """The weights that an engine reads. Where the book has none yet: those of ``preset``, brought inside the bounds.

    Raises NotOnRecord where there is no such book, NotAcceptable where the policy's bounds leave no weights.
    """
    found = await books.find(session, book)
    if active := await store.weights.active(session, book):
        return active
    try:
        weights = found.preset_weights or preset_weights(preset, policy.weights)
    except InfeasibleBounds as error:
        raise NotAcceptable(f"The policy cannot be used: {error}") from None
    return preset_version(book, weights, policy)


async def proposals(
    session: AsyncSession, book: str | None = None, last: int | None = None, before: str | None = None
) -> list[CycleView]:
    """Cycles whose proposals wait for a decision, with the evidence, by ``as_of``; at most the ``last`` ones of those
    before the cycle ``before``. Raises NotOnRecord."""
    await books.find_if_named(session, book)
    if before is not None:
        await find(session, before)
    return await store.weights.cycles(session, book, CycleState.proposed, last, before)


async def history(
    session: AsyncSession, book: str, last: int | None = None, before: str | None = None
) -> WeightsHistory:
    """Versions that were in force and cycles, each at most the ``last`` ones of those before the cycle ``before``.

    Raises NotOnRecord.
    """
    await books.find(session, book)
    if before is not None:
        await find(session, before)
    return WeightsHistory(
        book=book,
        versions=await store.weights.changes(session, book, last, before),
        cycles=await store.weights.cycles(session, book, None, last, before),
    )


async def find(session: AsyncSession, cycle_id: str) -> CycleView:
    """A cycle. Raises NotOnRecord."""
    found = await store.weights.cycle(session, cycle_id)
    if found is None:
        raise NotOnRecord(
            f"There is no proposal {cycle_id}: 'closeloop weights proposals' shows what waits, "
            "'closeloop weights history --book BOOK' every cycle."
        )
    return found.view


def preset_version(book: str, weights: Weights, policy: LearningPolicy) -> ActiveWeights:
    """What is in force before anything was learned: version 0."""
    return ActiveWeights(
        book=book, weights=weights, version=0, source="preset", since=None, policy_hash=policy.weights.hash
    )


# -- running and deciding ----------------------------------------------------------------------------------------------


async def run_cycle(
    client: Client, sessions: Sessions, book: str, as_of: datetime, deadline: timedelta | None = None
) -> CycleView:
    """Run a book's cycle of the week (or month) that ``as_of`` is in; returns once it has proposed, or not proposed.

    A cycle that was started before is not started again. ``deadline``: how long the proposal waits; None: as long as
    the policy says. Raises NotOnRecord where there is no such book, BookArchived, RunFailed.
    """
    async with sessions() as session:
        found = await books.find_open(session, book)
    cycle_id = f"{book}/{found.cadence.period(as_of)}"
    launch = weight_cycle(CycleRequest(book=book, as_of=as_of, deadline=deadline), cycle_id)
    handle: WorkflowHandle[object, object]
    try:
        handle = await start(client, launch)
    except WorkflowAlreadyStartedError:
        handle = client.get_workflow_handle(launch.id)
    run_ended = asyncio.create_task(result(handle))
    try:
        while True:
            async with sessions() as session:
                if record := await store.weights.cycle(session, cycle_id):
                    return record.view
            if run_ended.done():
                run_ended.result()  # raises RunFailed if the workflow failed before it wrote a record
            await asyncio.wait((run_ended,), timeout=READ_RECORD_EVERY_SECONDS)
    finally:
        run_ended.cancel()


async def send_decision(
    client: Client,
    sessions: Sessions,
    cycle_id: str,
    verdict: WeightsVerdict,
    operator: str,
    note: str,
    secret: str | None = None,
) -> ApprovalAnswer:
    """Decide on a cycle's proposal, or undo what it applied, and wait for the answer; ``secret``: of a token.

    A revert is recorded before it is sent, also without a token. Raises NotOnRecord, NotAuthenticated, NotAllowed;
    NotPossibleNow where the cycle proposed nothing.
    """
    async with sessions() as session:
        view = await find(session, cycle_id)
        last = await store.weights.last_cycle(session, view.book)
    if view.new is None:
        raise NotPossibleNow(f"The cycle {cycle_id} proposes nothing: {view.reason or view.state}.")
    key = CycleKey(cycle_id=cycle_id, book=view.book).approval
    if verdict is not WeightsVerdict.revert:
        return await approvals.send_decision(
            client, sessions, [WeightsProposal()], key, ApprovalVerdict(verdict), operator, note, secret
        )
    word = {"verdict": verdict, "operator": operator, "note": note}
    if operator.strip() or secret is not None:
        async with sessions() as session:
            made = await operator_decisions.record(
                session, key, verdict, operator=operator, note=note, secret=secret, proposal=None
            )
        word |= {"operator": made.operator, "record": made.decision_id}
    answer = await approvals.send_update(client, view.workflow_id, word)
    if answer is None and view.state is CycleState.applied and last is not None and last.cycle_id == cycle_id:
        # Somebody terminated the workflow that watches these weights: start it again.
        await approvals.start_waiting(client, launch_again(view))
        answer = await approvals.send_update(client, view.workflow_id, word)
    return answer or await approvals.refuse_late_word(sessions, WeightsProposal(), key, word)
