"""Decisions on weight cycles that were begun by closeloop 0.1, under the names and with the messages of then.

To be deleted with workflows/weights_0_1.py, once none of them runs any more.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from temporalio import activity
from temporalio.exceptions import ApplicationError

from closeloop.activities import Activity
from closeloop.activities.approvals import UNKNOWN, ApprovalActivities
from closeloop.activities.weight_decisions import WeightDecisionActivities
from closeloop.models.approvals import (
    ApprovalAnswer,
    ApprovalKey,
    ApprovalState,
    ApprovalVerdict,
    RecordApproval,
    RefusedApproval,
    SaidIn,
)
from closeloop.models.weights import CycleKey, RecordRevert, WeightsVerdict

_SAID = ("operator", "note", "at", "record", "said_in")
_STATES = {
    "applied": ApprovalState.approved,
    "reverted": ApprovalState.approved,
    "proposed": ApprovalState.pending,
    # These propose nothing; 0.1 answered a word to them all the same.
    "no_adjustment": ApprovalState.withdrawn,
    "preset_restored": ApprovalState.withdrawn,
}


class DecisionOf01(CycleKey):
    """An operator's decision, as a workflow of 0.1 hands it to its activity."""

    verdict: WeightsVerdict
    operator: str
    note: str
    at: datetime
    record: str | None = None
    said_in: SaidIn | None = None


class RefusalOf01(CycleKey):
    """A signal or update that could not be understood, as 0.1 recorded it."""

    run_id: str = ""
    signal: str
    number: int
    reason: str


class WeightsOf01:
    """The activities that workflows of 0.1 ask for by name; each calls the activity of today."""

    def __init__(self, approvals: ApprovalActivities, weights: WeightDecisionActivities) -> None:
        self._approvals = approvals
        self._weights = weights

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.decide, self.expire, self.remind, self.refuse_word]

    @activity.defn(name="decide_weights")
    async def decide(self, old: DecisionOf01) -> ApprovalAnswer:
        """Approve, reject or revert. A word to a cycle that proposes nothing is refused, and on record."""
        said = {name: getattr(old, name) for name in _SAID} | old.approval.model_dump()
        if old.verdict is WeightsVerdict.revert:
            return await self._weights.revert(RecordRevert.model_validate(said))
        try:
            return await self._approvals.decide(RecordApproval(verdict=ApprovalVerdict(old.verdict), **said))
        except ApplicationError as error:
            if error.type != UNKNOWN:
                raise
        reason = "nothing to decide: the cycle proposes nothing"
        word = {"run_id": f"{old.operator}/{old.at.isoformat()}", "number": 0, "word": old.verdict, "reason": reason}
        await self._approvals.refuse_word(RefusedApproval(**word, operator=old.operator, **old.approval.model_dump()))
        return ApprovalAnswer(accepted=False, state=ApprovalState.withdrawn, reason=reason)

    @activity.defn(name="expire_weights")
    async def expire(self, key: CycleKey) -> ApprovalState:
        """The deadline has passed."""
        record = RecordApproval(verdict=None, at=activity.info().scheduled_time, **key.approval.model_dump())
        return (await self._approvals.decide(record)).state

    @activity.defn(name="remind_of_weights")
    async def remind(self, key: CycleKey) -> None:
        """Half of the time to decide has passed."""
        await self._approvals.remind(key.approval)

    @activity.defn(name="refuse_word")
    async def refuse_word(self, old: RefusalOf01) -> None:
        """A word that could not be understood."""
        word = {"run_id": old.run_id, "number": old.number, "word": old.signal, "reason": old.reason}
        await self._approvals.refuse_word(RefusedApproval(**word, **old.approval.model_dump()))


def as_asked_by_0_1(message: BaseModel) -> tuple[str, BaseModel]:
    """The activity that a cycle of 0.1 names for a message of today, and the message it sends."""
    assert isinstance(message, ApprovalKey), "what waits is named by it"
    key = {"cycle_id": f"{message.book}/{message.id}", "book": message.book}
    if isinstance(message, RecordRevert):
        word = {name: getattr(message, name) for name in _SAID} | key
        return "decide_weights", DecisionOf01(verdict=WeightsVerdict.revert, **word)
    if isinstance(message, RecordApproval) and message.verdict is not None:
        word = {name: getattr(message, name) for name in _SAID} | key
        return "decide_weights", DecisionOf01(verdict=WeightsVerdict(message.verdict), **word)
    if isinstance(message, RecordApproval):
        return "expire_weights", CycleKey(**key)
    if isinstance(message, RefusedApproval):
        refusal = {"run_id": message.run_id, "number": message.number, "reason": message.reason, **key}
        return "refuse_word", RefusalOf01(signal=message.word, **refusal)
    return "remind_of_weights", CycleKey(**key)


def as_answered_today(answer: Any) -> Any:
    """What an activity of 0.1 answered: a decision's answer, a state, or nothing."""
    if isinstance(answer, dict):
        return ApprovalAnswer.model_validate(answer | {"state": _STATES.get(answer["state"], answer["state"])})
    if isinstance(answer, str):
        return ApprovalAnswer(accepted=True, state=ApprovalState(_STATES.get(answer, answer)), reason="")
    return answer
