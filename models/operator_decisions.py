"""Decisions on record: who decided what about which proposal, by which token, and what became of the decision."""

from datetime import datetime

from pydantic import ConfigDict, Field
from sqlalchemy import Boolean, Column, DateTime, ForeignKeyConstraint, Index, Text, text
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.approvals import ApprovalKey
from closeloop.models.values import Utc


class DecisionRecord(ApprovalKey):
    """A decision that was recorded before its workflow was told, or when it was carried out.

    ``verdict`` is approve, reject or revert. It is spent once, by ``word``: the signal or update that named it.
    """

    model_config = ConfigDict(frozen=True)

    decision_id: str
    verdict: str
    proposal_hash: str | None = Field(description="Of what was proposed; null where nothing is: a revert.")
    operator: str
    note: str
    token_id: str | None
    by_policy: bool = Field(description="The policy approved it by itself, as its number says.")
    recorded_at: Utc
    sender: str | None = Field(description="Who sent the word, as Temporal reports it.")
    word: str | None
    spent_at: Utc | None
    accepted: bool | None
    outcome: str | None


class OperatorDecision(SQLModel, table=True):
    """See DecisionRecord. The database has a password and Temporal may have none: what counts stands here."""

    __tablename__ = "operator_decisions"
    __table_args__ = (
        ForeignKeyConstraint(["token_id"], ["api_tokens.token_id"]),
        Index("operator_decisions_subject", "kind", "book_id", "subject_id", "recorded_at"),
        Index("operator_decisions_unspent", "recorded_at", postgresql_where=text("spent_at IS NULL")),
    )

    decision_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    kind: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    book_id: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    subject_id: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    verdict: str = Col(sa_column=Column(Text, nullable=False))
    proposal_hash: str | None = Col(default=None, sa_column=Column(Text))
    operator: str = Col(sa_column=Column(Text, nullable=False))
    note: str = Col(sa_column=Column(Text, nullable=False))
    token_id: str | None = Col(default=None, sa_column=Column(Text(collation="C")))
    by_policy: bool = Col(sa_column=Column(Boolean, nullable=False, server_default=text("false")))
    recorded_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    sender: str | None = Col(default=None, sa_column=Column(Text))
    word: str | None = Col(default=None, sa_column=Column(Text))
    spent_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    accepted: bool | None = Col(default=None, sa_column=Column(Boolean))
    outcome: str | None = Col(default=None, sa_column=Column(Text))
