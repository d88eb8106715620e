"""Work that keeps failing for one book or proposal, while the rest of its kind goes on."""

from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import Column, DateTime, Text, text
from sqlmodel import Field, SQLModel


class FailingView(BaseModel):
    """What fails at the moment: ``task`` is the work, such as ``overlay``, ``subject`` the book or proposal."""

    task: str
    subject: str
    reason: str
    since: datetime
    last_at: datetime


class FailingWork(SQLModel, table=True):
    """A row for each task and subject whose last attempt failed; the first attempt that succeeds deletes it."""

    __tablename__ = "failing_work"

    task: str = Field(sa_column=Column(Text(collation="C"), primary_key=True))
    subject: str = Field(sa_column=Column(Text(collation="C"), primary_key=True))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    since: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
    last_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
