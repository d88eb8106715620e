"""What waits for an operator, and what operators decide."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from closeloop.models.values import BookId, Identifier, Text, Utc

MOST_EVENTS = 4_000
"""Temporal itself suggests a new run at 4,096 events, and ends a workflow with 51,200."""
HistoryEvents = Annotated[int, Field(ge=50, le=10_000)]
"""Events of its history at which a workflow that waits goes on in a new run."""


class ApprovalVerdict(StrEnum):
    """What an operator may decide of something that waits."""

    approve = "approve"
    reject = "reject"


class ApprovalState(StrEnum):
    """``pending`` is open, the others final. ``withdrawn``: what was proposed has lost its reason meanwhile."""

    pending = "pending"
    approved = "approved"
    rejected = "rejected"
    expired = "expired"
    withdrawn = "withdrawn"


class DecisionRequest(BaseModel):
    """Who decides, and why: the argument of a signal ``approve`` or ``reject``."""

    model_config = ConfigDict(frozen=True)

    operator: Annotated[Text, Field(max_length=200)]
    note: Annotated[Text, Field(max_length=4000)] = ""
    record: Annotated[Identifier, Field(max_length=200)] | None = Field(
        default=None, description="The decision on record that this is; operator and note are then those on record."
    )


class Decision(BaseModel):
    """Who decided what, why and when."""

    model_config = ConfigDict(frozen=True)

    verdict: ApprovalVerdict
    operator: str
    note: str = ""
    at: datetime = Field(
        description="When the word reached Temporal's server, or when it was recorded: it counts against the deadline."
    )
    sender: str | None = Field(
        default=None, description="Who sent the word as Temporal reports it: what its client calls itself."
    )
    token: str | None = Field(default=None, description="The id of the operator's token; null: decided without one.")

    def is_same_word(self, other: "Decision | None") -> bool:
        """Whether another decision is this one, however it came."""
        return other is not None and (self.verdict, self.operator, self.note, self.at) == (
            other.verdict,
            other.operator,
            other.note,
            other.at,
        )


class ApprovalKey(BaseModel):
    """Names a proposal that waits for an operator; ``kind`` is its subject (services/approvals.py), as ``weights``."""

    model_config = ConfigDict(frozen=True)

    kind: Identifier
    book: BookId
    id: Identifier

    @property
    def workflow_id(self) -> str:
        """``kind/book/id``: the id of the workflow that waits, which makes starting it twice harmless."""
        return f"{self.kind}/{self.book}/{self.id}"

    @classmethod
    def named(cls, name: str) -> "ApprovalKey":
        """The key of ``kind/book/id``. Raises ValueError where a part is missing or cannot be used."""
        parts = [*name.split("/", 2), "", ""]
        return cls(kind=parts[0], book=parts[1], id=parts[2])


class WaitingWord(BaseModel):
    """A signal that reached a workflow and has not been acted on; ``reason``: why it cannot be understood."""

    name: str
    verdict: str = ""
    operator: str = ""
    note: str = ""
    record: str | None = None
    reason: str | None = None
    heard_at: Utc = Field(description="When a worker received it.")
    run_id: str = Field(description="The run that it was sent to.")
    number: int = Field(description="Its number (from 0) among that run's signals of its name.")


class Continuation(BaseModel):
    """What a run that ends for the length of its history tells the run that goes on in its place."""

    sentence: str = Field(description="Why it is in its state.")
    remind_at: Utc | None = Field(default=None, description="When the operator is reminded; null: not waited yet.")
    reminded: bool = False
    last_heard_at: Utc
    words: list[WaitingWord] = []


class ApprovalContinuation(Continuation):
    """Of an approval."""

    state: ApprovalState


class ApprovalRequest(ApprovalKey):
    """Ask an operator: what is proposed, in a sentence, and until when it waits."""

    proposal: Annotated[str, Field(max_length=2000)]
    deadline: Utc
    history_events: HistoryEvents = MOST_EVENTS
    continued: ApprovalContinuation | None = Field(default=None, description="Set by the workflow itself.")


class ApprovalView(ApprovalKey):
    """Something that waits for an operator, or waited; ``kind/book/id`` is the id of its workflow."""

    proposal: str = Field(description="What is proposed, in a sentence.")
    deadline: datetime = Field(description="Until when it waits. A word that reached the server later is refused.")
    state: ApprovalState
    decision: Decision | None = Field(default=None, description="What an operator decided; null: nobody has.")
    outcome: str | None = Field(
        default=None, description="What became of it, and by whom, in a few words; null while it waits."
    )
    recorded: Decision | None = Field(
        default=None,
        description="A decision that is on record and not carried out yet: it is as soon as a worker runs.",
    )
    waits_in: str | None = Field(
        default=None, exclude=True, description="Its workflow's id where somebody started that under another one."
    )


class ApprovalAnswer(BaseModel):
    """Whether a decision was carried out, and if not, why; ``state`` is that of the proposal now."""

    accepted: bool
    state: ApprovalState
    reason: str
    operator: str | None = Field(default=None, description="Who decided: by the record, where the word named one.")
    sender: str | None = Field(default=None, description="Who sent the word, as Temporal reports it.")


# -- between workflows and activities: fields are only ever added ------------------------------------------------------


class SaidIn(BaseModel):
    """The signal (of which name, the n-th of it from 0) or the update in which something was said."""

    model_config = ConfigDict(frozen=True)

    workflow_id: str
    run_id: str
    signal: str | None = None
    number: int = 0
    update_id: str | None = None

    @property
    def name(self) -> str:
        """The same word has the same name, however often it is carried out again."""
        return f"{self.run_id}/signal/{self.signal}/{self.number}" if self.signal else f"{self.run_id}/{self.update_id}"


class Said(ApprovalKey):
    """What an operator said of something that waits, or was decided. ``record`` names a decision on record."""

    operator: str = ""
    note: str = ""
    at: datetime
    record: str | None = None
    said_in: SaidIn | None = None


class RecordApproval(Said):
    """Carry out an operator's decision; a null verdict means that the deadline has passed without one."""

    verdict: ApprovalVerdict | None
    deadline: datetime | None = Field(
        default=None,
        description="Until when a workflow of 0.1 waits; null: as the record says.",
    )


class RefusedApproval(ApprovalKey):
    """A signal or update that could not be understood, for the audit trail; ``word`` is its name."""

    run_id: str
    number: int
    word: str
    reason: str
    operator: str = Field(default="", description="Who said it, where that can be told.")
    said_in: SaidIn | None = None


class RefusedWords(ApprovalKey):
    """Signals of one run that could not be understood, in their order."""

    words: list[RefusedApproval]


class StartedAgain(BaseModel):
    """How many workflows listen to operators again that had ended before their time; why others could not be started.

    ``names`` and ``failed`` name at most 20 each.
    """

    started: int = 0
    names: list[str] = []
    failed: dict[str, str] = {}


class SignalTimeRequest(BaseModel):
    """When did the n-th signal (from 0) of this name reach the server?"""

    workflow_id: str
    run_id: str
    name: str
    number: int
