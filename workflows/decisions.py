"""What workflows share in which a proposal waits for an operator: signals and updates, a deadline, a reminder.

A *word* is what an operator says by signal or update, such as approve.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, is_cancelled_exception

from closeloop.workflows.retries import LONGEST_TRANSACTION, TWO_ATTEMPTS, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.approvals import ApprovalActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.approvals import (
        ApprovalAnswer,
        ApprovalKey,
        ApprovalState,
        ApprovalVerdict,
        DecisionRequest,
        RecordApproval,
        RefusedApproval,
        SignalTimeRequest,
    )
    from closeloop.models.refusals import describe
    from closeloop.models.sentences import short

LOOK = "look"  # the signal that the record of the proposal was changed elsewhere


@dataclass(frozen=True)
class Word:
    """What an operator said: a verdict, and why."""

    verdict: str
    operator: str
    note: str
    heard_at: datetime
    """When a worker received it. It counts for an update, which no server keeps until a worker has accepted it."""
    signal: int | None = None
    """Its number (from 0) among the signals of its name; None: it came by update, or the policy itself said it."""

    @property
    def sentence(self) -> str:
        """For summaries: ``ann says approve``."""
        return short(f"{self.operator or 'somebody'} says {self.verdict}")


class Deciding(ABC):
    """Receives what operators say and has the database decide on it.

    A signal that is misspelt, of the wrong shape or no JSON at all must not fail the workflow, and must be recorded.

    A signal is named by its verdict and carries ``{"operator": ..., "note": ...}``; the update ``decide`` has the
    verdict beside them and waits for the answer: accepted, or why not. closeloop itself sends ``look`` where the record
    changed elsewhere.

    The database decides by the time at which a word reached the server. A word that was sent before the deadline counts
    although no worker ran until after the deadline; one that was sent after the deadline does not.
    """

    verdicts: ClassVar[type[StrEnum]]

    def __init__(self) -> None:
        self._words: Counter[str] = Counter()
        self._one_at_a_time = asyncio.Lock()
        self._last_heard_at = datetime.min.replace(tzinfo=UTC)
        self._begun_by_0_1 = False

    @abstractmethod
    def _has_begun(self) -> bool:
        """Whether the proposal is known yet; words that come earlier wait for it."""

    @abstractmethod
    def _key(self) -> ApprovalKey:
        """The key of the proposal that waits."""

    @abstractmethod
    def _waits(self) -> bool:
        """Whether it still waits for an operator, as far as this workflow knows."""

    @abstractmethod
    def _standing(self) -> ApprovalState:
        """The state of the proposal, as far as this workflow knows."""

    @abstractmethod
    async def _look(self) -> None:
        """Take over the state on record, which was changed elsewhere."""

    @abstractmethod
    async def _hear(self, word: Word) -> ApprovalAnswer:
        """Carry out a word, or refuse it."""

    # -- what the database is asked to do ------------------------------------------------------------------------------

    async def _decide(self, word: Word) -> ApprovalAnswer:
        """Have the database decide on a word. The caller holds ``_one_at_a_time``."""
        record = RecordApproval(
            **self._key().model_dump(),
            verdict=ApprovalVerdict(word.verdict),
            operator=word.operator,
            note=word.note,
            at=await self._reached_server_at(word),
            deadline=self._deadline() if self._begun_by_0_1 else None,
        )
        answer: ApprovalAnswer = await self._transaction(ApprovalActivities.decide, record, word.sentence)
        return answer

    async def _reached_server_at(self, word: Word) -> datetime:
        """When a word reached the server.

        That is when a worker received it, unless that was after the deadline: then perhaps no worker ran, and the
        server is asked.
        """
        deadline = self._deadline()
        if word.signal is None or deadline is None or word.heard_at < deadline or not self._asks_when_signalled():
            return word.heard_at
        info = workflow.info()
        request = SignalTimeRequest(
            workflow_id=info.workflow_id, run_id=info.run_id, name=word.verdict, number=word.signal
        )
        reached: datetime | None = await self._transaction(
            ApprovalActivities.when_signalled, request, "When did this word reach the server?"
        )
        return reached or word.heard_at

    @abstractmethod
    def _deadline(self) -> datetime | None:
        """Until when it waits; None: nothing was proposed."""

    def _asks_when_signalled(self) -> bool:
        """Whether this run asks the server at all when a word reached it."""
        return True

    async def _wait_for_decision(self, deadline: datetime) -> ApprovalAnswer | None:
        """Wait until somebody decided, and remind half-way; returns the answer to the expiry if nobody did in time."""
        if await self._decided_within((deadline - workflow.now()) / 2):
            return None
        await self._transaction(ApprovalActivities.remind, self._key(), "Remind: this waits for an operator")
        if await self._decided_within(deadline - workflow.now()):
            return None
        return await self._expire()

    async def _decided_within(self, wait: timedelta) -> bool:
        try:
            await workflow.wait_condition(lambda: not self._waits(), timeout=max(wait, timedelta(0)))
        except TimeoutError:
            return False
        return True

    async def _expire(self) -> ApprovalAnswer | None:
        # Words that reached the server before the deadline are decided on first: perhaps no worker ran until now.
        await workflow.wait_condition(workflow.all_handlers_finished)
        async with self._one_at_a_time:
            if not self._waits():
                return None
            record = RecordApproval(
                **self._key().model_dump(),
                verdict=None,
                at=workflow.now(),
                deadline=self._deadline() if self._begun_by_0_1 else None,
            )
            answer: ApprovalAnswer = await self._transaction(
                ApprovalActivities.decide, record, "The deadline has passed"
            )
            return answer

    async def _not_understood(self, name: str, reason: str, operator: str = "") -> ApprovalAnswer:
        """Record a word that cannot be understood, and answer why."""
        number = self._words["not understood"]
        self._words["not understood"] += 1
        word = RefusedApproval(
            **self._key().model_dump(),
            run_id=workflow.info().run_id,
            number=number,
            word=short(name, 200),
            reason=short(reason, 1_000),
            operator=operator,
        )
        await self._transaction(ApprovalActivities.refuse_word, word, f"A {name} that could not be understood")
        return ApprovalAnswer(accepted=False, state=self._standing(), reason=reason)

    async def _transaction(self, activity: Callable[..., Any], message: Any, summary: str) -> Any:
        """Run an activity that is one short transaction, until it succeeds."""
        return await workflow.execute_activity(
            activity,
            message,
            start_to_close_timeout=LONGEST_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary=short(summary),
        )

    def _publish_decision(self, word: Word) -> None:
        workflow.upsert_search_attributes(
            [sa.DECISION.value_set(word.verdict), sa.OPERATOR.value_set(short(word.operator, 200))]
        )

    # -- what operators say --------------------------------------------------------------------------------------------

    @workflow.signal(dynamic=True)
    async def hear(self, name: str, words: Sequence[RawValue]) -> None:
        """A verdict as a signal: one handler for whatever is sent."""
        heard_at = self._hearing_at()
        await workflow.wait_condition(self._has_begun)
        number = self._words[name]
        self._words[name] += 1
        if name == LOOK:
            await self._look()
            return
        operator = ""
        try:
            word = _one_of(words)
            operator = _operator_in(word)
            verdict = self._verdict_of(name, "there is no signal {}")
            said = DecisionRequest.model_validate(word)
        except ValidationError as error:
            await self._not_understood(name, describe(error), operator)
        except ValueError as error:
            await self._not_understood(name, str(error), operator)
        else:
            await self._hear(Word(verdict, said.operator, said.note, heard_at, number))

    @workflow.update(dynamic=True)
    async def answer(self, name: str, words: Sequence[RawValue]) -> ApprovalAnswer:
        """``decide`` as an update, because its caller waits for the answer."""
        heard_at = self._hearing_at()
        await workflow.wait_condition(self._has_begun)
        operator = ""
        try:
            if name != "decide":
                raise ValueError(f"there is no update {name}: say 'decide'")
            word = _one_of(words)
            operator = _operator_in(word)
            said = DecisionRequest.model_validate(word)
            verdict = self._verdict_of(str(word.get("verdict")), "verdict")
        except ValidationError as error:
            return await self._not_understood(name, describe(error), operator)
        except ValueError as error:
            return await self._not_understood(name, str(error), operator)
        return await self._hear(Word(verdict, said.operator, said.note, heard_at))

    def _hearing_at(self) -> datetime:
        """Now, or a microsecond after the word before if that was received now, too: words differ by their time."""
        self._last_heard_at = max(workflow.now(), self._last_heard_at + timedelta(microseconds=1))
        return self._last_heard_at

    def _verdict_of(self, name: str, what: str) -> StrEnum:
        try:
            return self.verdicts(name)
        except ValueError:
            raise ValueError(f"{what.format(name)}: must be one of {', '.join(self.verdicts)}") from None


async def start_what_waits() -> None:
    """Start again what listens to operators by the record and was ended in Temporal; the next look is minutes away."""
    try:
        await workflow.execute_activity_method(
            ApprovalActivities.start_what_waits,
            start_to_close_timeout=timedelta(minutes=4),
            heartbeat_timeout=timedelta(seconds=30),
            retry_policy=TWO_ATTEMPTS,
            summary="Does everything that waits have a workflow that runs?",
        )
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        workflow.logger.warning("what waits could not be started again", exc_info=True)


def scheduled_time() -> datetime:
    """For when this run was scheduled, so that a late or repeated run decides what it would have decided then."""
    for pair in workflow.info().typed_search_attributes:
        if pair.key.name == "TemporalScheduledStartTime" and isinstance(pair.value, datetime):
            return pair.value
    return workflow.now()


def _one_of(words: Sequence[RawValue]) -> Any:
    """The one argument of a signal or update, as JSON. Raises ValueError."""
    if len(words) != 1:
        raise ValueError(f"one argument is needed, a JSON object; {len(words)} were sent")
    try:
        return workflow.payload_converter().from_payload(words[0].payload, dict[str, Any])
    except Exception:
        raise ValueError('the argument is no JSON object such as {"operator": "ann", "note": "why"}') from None


def _operator_in(word: Any) -> str:
    """The operator in an argument that may be of the wrong shape, its printable characters; empty if it has none."""
    operator = word.get("operator") if isinstance(word, dict) else None
    return "".join(c for c in operator if c.isprintable())[:200] if isinstance(operator, str) else ""
