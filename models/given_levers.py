"""Levers as an engine asked for them: how aggressive to be (A), how ready to leave (E), and what that was made of."""

from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import Column, DateTime, Double, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.market_levers import Levers


class LeversGiven(Levers):
    """Levers that are on record: a close names them by ``levers_id``.

    ``known_then``: every state had been computed at ``as_of``; false where they are asked for a time of which states
    were computed later, from bars that had ended by then.
    """

    levers_id: str
    book: str
    as_of: datetime
    given_at: datetime = Field(description="When they were asked for first.")
    known_then: bool
    policy_hash: str


class GivenLevers(SQLModel, table=True):
    """Levers on record, written once: the same request for the same instant is this row.

    ``as_of``: the instant that they are for; ``given_at``: when they were asked for first. ``states``: dimension of a
    trade's scope (btc_macro, bucket_meso, ...) to the state that was used. ``known_then``: every state had been
    computed at ``as_of``. ``policy_hash``: of the sections that they were computed with.
    """

    __tablename__ = "market_levers"
    __table_args__ = (Index("market_levers_given", "given_at", "levers_id"),)

    levers_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    as_of: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    given_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    request: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    answer: dict[str, Any] = Col(sa_column=Column(JSONB, nullable=False))
    states: dict[str, str] = Col(sa_column=Column(JSONB, nullable=False))
    a_value: float = Col(sa_column=Column(Double, nullable=False))
    e_value: float = Col(sa_column=Column(Double, nullable=False))
    known_then: bool
    policy_hash: str = Col(sa_column=Column(Text, nullable=False))
