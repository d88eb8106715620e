"""Positions that an engine wrote into the database and that cannot be read as closes, or not be attributed."""

from datetime import datetime

from pydantic import BaseModel, Field
from sqlalchemy import Column, DateTime, Text, text
from sqlmodel import Field as Col
from sqlmodel import SQLModel


class UnreadablePositionView(BaseModel):
    """A row of ``positions`` that is left alone until it changes; ``name`` is its place in the list."""

    name: str = Field(description="What --before takes.")
    book: str
    position_id: str
    reason: str
    since: datetime


class UnreadablePosition(SQLModel, table=True):
    """A row of ``positions`` that was read once and need not be read again: ``content`` is the digest of the row.

    ``row_key`` is the digest of its key, which an engine may have written at any length.
    """

    __tablename__ = "unreadable_positions"

    row_key: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    position_id: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    content: str = Col(sa_column=Column(Text, nullable=False))
    reason: str = Col(sa_column=Column(Text, nullable=False))
    since: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
