"""What waits for an operator, and what operators say."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from closeloop.models.values import BookId, Identifier, Text, Utc


class DecisionRequest(BaseModel):
    """An operator's word, as a signal or update carries it."""

    model_config = ConfigDict(frozen=True)

    operator: Annotated[Text, Field(max_length=200)]
    note: Annotated[Text, Field(max_length=4000)] = ""


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


class ApprovalKey(BaseModel):
    """Names something that waits for an operator: ``kind`` says which subject (activities/approvals.py) it is of."""

    model_config = ConfigDict(frozen=True)

    kind: Identifier
    book: BookId
    id: Identifier

    @property
    def workflow_id(self) -> str:
        """The id under which its workflow runs; starting it twice is harmless."""
        return f"{self.kind}/{self.book}/{self.id}"


class ApprovalRequest(ApprovalKey):
    """Ask an operator: what is proposed, in a sentence, and until when it waits."""

    proposal: Annotated[str, Field(max_length=2000)]
    deadline: Utc


class RecordApproval(ApprovalKey):
    """Carry out a word; a null verdict means that the deadline has passed."""

    verdict: ApprovalVerdict | None
    operator: str = ""
    note: str = ""
    at: datetime


class ApprovalAnswer(BaseModel):
    """Whether a word was carried out, and if not, why."""

    accepted: bool
    state: ApprovalState
    reason: str


class RefusedApproval(ApprovalKey):
    """A word that could not be understood, for the audit trail."""

    run_id: str
    number: int
    word: str
    reason: str
