"""What workflows share in which a proposal waits for an operator: signals and updates, a deadline, a reminder.

A *word* is what an operator says by signal or update, such as approve.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, NoReturn

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, is_cancelled_exception

from closeloop.workflows.retries import LONGEST_TRANSACTION, TWO_ATTEMPTS, UNTIL_DONE

with workflow.unsafe.imports_passed_through():
    from closeloop.activities.approvals import ApprovalActivities
    from closeloop.models import search_attributes as sa
    from closeloop.models.approvals import (
        MOST_EVENTS,
        ApprovalAnswer,
        ApprovalKey,
        ApprovalState,
        ApprovalVerdict,
        Continuation,
        DecisionRequest,
        RecordApproval,
        RefusedApproval,
        RefusedWords,
        SaidIn,
        SignalTimeRequest,
        WaitingWord,
    )
    from closeloop.models.refusals import describe
    from closeloop.models.sentences import short

LOOK = "look"  # the signal that the record of the proposal was changed elsewhere
REFUSED_AT_ONCE = 100  # words that one activity puts on record
MOST_CARRIED = 200  # words that a run leaves to the next one: of 5 kB each at most, and Temporal takes 2 MiB


@dataclass(frozen=True)
class Word:
    """What an operator said: a verdict, and why."""

    verdict: str
    operator: str
    note: str
    heard_at: datetime
    """When a worker received it. It counts for an update, which no server keeps until a worker has accepted it."""
    said_in: SaidIn | None = None
    """The signal or update that it came in; None: the policy itself said it."""
    record: str | None = None
    """The decision on record that it names."""

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

    Signals are acted on one after the other. Once the history of a run is long, the run ends and another goes on in its
    place, with the signals that have not been acted on: no number of words, however wrong, ends what waits.
    """

    verdicts: ClassVar[type[StrEnum]]

    def __init__(self) -> None:
        self._words: Counter[str] = Counter()
        self._one_at_a_time = asyncio.Lock()
        self._last_heard_at = datetime.min.replace(tzinfo=UTC)
        self._begun_by_0_1 = False
        self._inbox: deque[WaitingWord] = deque()
        self._reads_inbox = False
        self._may_go_on = False
        self._history_events = MOST_EVENTS
        self._remind_at: datetime | None = None
        self._reminded = False

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

    @abstractmethod
    def _next_run(self) -> Any:
        """The message with which the next run goes on in the place of this one."""

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
            record=word.record,
            said_in=word.said_in,
        )
        answer: ApprovalAnswer = await self._transaction(ApprovalActivities.decide, record, word.sentence)
        return answer

    async def _reached_server_at(self, word: Word) -> datetime:
        """When a word reached the server.

        That is when a worker received it, unless that was after the deadline: then perhaps no worker ran, and the
        server is asked.
        """
        deadline, said_in = self._deadline(), word.said_in
        by_update = said_in is None or said_in.signal is None
        if by_update or deadline is None or word.heard_at < deadline or not self._asks_when_signalled():
            return word.heard_at
        assert said_in is not None, "it is a signal"
        request = SignalTimeRequest(
            workflow_id=said_in.workflow_id, run_id=said_in.run_id, name=word.verdict, number=said_in.number
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
        if self._remind_at is None:
            self._remind_at = workflow.now() + (deadline - workflow.now()) / 2
        if not self._reminded:
            if await self._decided_within(self._remind_at - workflow.now()):
                return None
            await self._transaction(ApprovalActivities.remind, self._key(), "Remind: this waits for an operator")
            self._reminded = True
        if await self._decided_within(deadline - workflow.now()):
            return None
        return await self._expire()

    async def _decided_within(self, wait: timedelta) -> bool:
        try:
            await workflow.wait_condition(
                lambda: not self._waits() or self._history_is_long(), timeout=max(wait, timedelta(0))
            )
        except TimeoutError:
            return False
        if self._waits():
            await self._go_on_in_a_new_run()
        return True

    async def _expire(self) -> ApprovalAnswer | None:
        # Words that reached the server before the deadline are decided on first: perhaps no worker ran until now.
        await self._all_heard()
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

    # -- a history that grows long ----------------------------------------------------------------------------------

    def _history_is_long(self) -> bool:
        info = workflow.info()
        return self._may_go_on and (
            info.is_continue_as_new_suggested() or info.get_current_history_length() >= self._history_events
        )

    async def _all_heard(self) -> None:
        """Wait until every word is acted on; where that would make the history too long, go on in a new run."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        if self._inbox:
            await self._go_on_in_a_new_run()

    async def _go_on_in_a_new_run(self) -> NoReturn:
        """End this run: who sent an update has the answer before, and signals not acted on are of the next run."""
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self._next_run())

    def _continuation(self, sentence: str) -> dict[str, Any]:
        """The fields of a Continuation."""
        return Continuation(
            sentence=sentence,
            remind_at=self._remind_at,
            reminded=self._reminded,
            last_heard_at=self._last_heard_at,
            words=list(self._inbox),
        ).model_dump()

    def _take_over(self, before: Continuation) -> None:
        """Go on where the run before this one ended. Its words come before those that were sent to this run."""
        self._remind_at, self._reminded = before.remind_at, before.reminded
        self._last_heard_at = max(self._last_heard_at, before.last_heard_at)
        self._inbox.extendleft(reversed(before.words))

    async def _not_understood(
        self, name: str, reason: str, operator: str = "", said_in: SaidIn | None = None
    ) -> ApprovalAnswer:
        """Record a word that cannot be understood, and answer why."""
        number = self._words["not understood"]
        self._words["not understood"] += 1
        word = self._refused(name, reason, operator, number, said_in)
        await self._transaction(ApprovalActivities.refuse_word, word, f"A {name} that could not be understood")
        return ApprovalAnswer(accepted=False, state=self._standing(), reason=reason)

    def _refused(self, name: str, reason: str, operator: str, number: int, said_in: SaidIn | None) -> RefusedApproval:
        return RefusedApproval(
            **self._key().model_dump(),
            run_id=workflow.info().run_id,
            number=number,
            word=short(name, 200),
            reason=short(reason, 1_000),
            operator=operator,
            said_in=said_in,
        )

    async def _transaction(self, activity: Callable[..., Any], message: Any, summary: str) -> Any:
        """Run an activity that is one short transaction, until it succeeds."""
        return await workflow.execute_activity(
            activity,
            message,
            start_to_close_timeout=LONGEST_TRANSACTION,
            retry_policy=UNTIL_DONE,
            summary=short(summary),
        )

    def _publish_decision(self, word: Word, answer: ApprovalAnswer) -> None:
        operator = answer.operator or word.operator
        workflow.upsert_search_attributes(
            [sa.DECISION.value_set(word.verdict), sa.OPERATOR.value_set(short(operator, 200))]
        )

    # -- what operators say --------------------------------------------------------------------------------------------

    @workflow.signal(dynamic=True)
    async def hear(self, name: str, words: Sequence[RawValue]) -> None:
        """A verdict as a signal: one handler for whatever is sent."""
        heard_at = self._hearing_at()
        if not workflow.patched("inbox"):
            await workflow.wait_condition(self._has_begun)
        number = self._words[name]
        self._words[name] += 1
        word = self._waiting_word(name, words, heard_at, number)
        if workflow.patched("inbox"):
            self._inbox.append(word)
            await self._read_inbox()
        else:
            await self._act_on(word)

    async def _read_inbox(self) -> None:
        """Act on the words that wait, unless they are being read, or this run leaves them to the next one."""
        if self._reads_inbox or not self._inbox:
            return
        self._reads_inbox = True
        await workflow.wait_condition(self._has_begun)
        while self._inbox and not (self._history_is_long() and len(self._inbox) <= MOST_CARRIED):
            together = [self._inbox.popleft()]
            if together[0].reason is not None:
                while self._inbox and self._inbox[0].reason is not None and len(together) < REFUSED_AT_ONCE:
                    together.append(self._inbox.popleft())
                await self._refuse(together)
                continue
            while together[0].name == LOOK and self._inbox and self._inbox[0].name == LOOK:
                self._inbox.popleft()  # one look at the record shows what all of them are about
            await self._act_on(together[0])
        self._reads_inbox = False

    async def _act_on(self, word: WaitingWord) -> None:
        if word.name == LOOK:
            await self._look()
        elif word.reason is not None:
            await self._not_understood(word.name, word.reason, word.operator, _said_in(word))
        else:
            said_in = _said_in(word)
            await self._hear(Word(word.verdict, word.operator, word.note, word.heard_at, said_in, word.record))

    async def _refuse(self, words: Sequence[WaitingWord]) -> None:
        first = self._words["not understood"]
        self._words["not understood"] += len(words)
        refused = [
            self._refused(w.name, w.reason or "", w.operator, first + i, _said_in(w)) for i, w in enumerate(words)
        ]
        about = f"{len(words)} words" if len(words) > 1 else f"A {words[0].name}"
        await self._transaction(
            ApprovalActivities.refuse_words,
            RefusedWords(**self._key().model_dump(), words=refused),
            f"{about} that could not be understood",
        )

    def _waiting_word(self, name: str, words: Sequence[RawValue], heard_at: datetime, number: int) -> WaitingWord:
        """What a signal says, of bounded length whatever was sent."""
        waiting = WaitingWord(name=short(name, 200), heard_at=heard_at, run_id=workflow.info().run_id, number=number)
        if name == LOOK:
            return waiting
        operator = ""
        try:
            word = _one_of(words)
            operator = _operator_in(word)
            verdict = self._verdict_of(name, "there is no signal {}")
            said = DecisionRequest.model_validate(word)
        except ValueError as error:
            reason = describe(error) if isinstance(error, ValidationError) else str(error)
            return waiting.model_copy(update={"operator": operator, "reason": short(reason, 1_000)})
        said_so = {"verdict": verdict, "operator": said.operator, "note": said.note, "record": said.record}
        return waiting.model_copy(update=said_so)

    @workflow.update(dynamic=True)
    async def answer(self, name: str, words: Sequence[RawValue]) -> ApprovalAnswer:
        """``decide`` as an update, because its caller waits for the answer."""
        heard_at = self._hearing_at()
        await workflow.wait_condition(self._has_begun)
        info, update = workflow.info(), workflow.current_update_info()
        said_in = SaidIn(
            workflow_id=info.workflow_id, run_id=info.run_id, update_id=update.id if update else "an update"
        )
        operator = ""
        try:
            if name != "decide":
                raise ValueError(f"there is no update {name}: say 'decide'")
            word = _one_of(words)
            operator = _operator_in(word)
            said = DecisionRequest.model_validate(word)
            verdict = self._verdict_of(str(word.get("verdict")), "verdict")
        except ValidationError as error:
            return await self._not_understood(name, describe(error), operator, said_in)
        except ValueError as error:
            return await self._not_understood(name, str(error), operator, said_in)
        return await self._hear(Word(verdict, said.operator, said.note, heard_at, said_in, said.record))

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


def who_said(word: Word, answer: ApprovalAnswer) -> str:
    """For memos: ``ann (sent by 4711@desk) said approve (looks right)``, the operator as the record has it."""
    sent = f" (sent by {answer.sender})" if answer.sender else ""
    why = f" ({word.note})" if word.note else ""
    return f"{answer.operator or word.operator}{sent} said {word.verdict}{why}"


def scheduled_time() -> datetime:
    """For when this run was scheduled, so that a late or repeated run decides what it would have decided then."""
    for pair in workflow.info().typed_search_attributes:
        if pair.key.name == "TemporalScheduledStartTime" and isinstance(pair.value, datetime):
            return pair.value
    return workflow.now()


def _said_in(word: WaitingWord) -> SaidIn:
    """The signal that a word came in, perhaps of an earlier run."""
    workflow_id = workflow.info().workflow_id
    return SaidIn(workflow_id=workflow_id, run_id=word.run_id, signal=word.name, number=word.number)


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
