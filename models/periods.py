"""Work that is done once in each period of the clock, whoever looks for it and however often."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel
from sqlalchemy import Column, DateTime, Text, text
from sqlmodel import Field, SQLModel

from closeloop.models.values import Utc

_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)  # a midnight, at which every period begins


class PeriodicTask(StrEnum):
    """Work of a period. Weight cycles are not among it: a book has its own cadence, and its cycles are the record."""

    corpus = "corpus"
    lessons = "lessons"
    retention = "retention"

    @property
    def length(self) -> timedelta:
        """How long a period is; it divides a day, and a period begins at midnight UTC."""
        return timedelta(hours=6) if self is PeriodicTask.lessons else timedelta(days=1)

    def begins(self, at: datetime) -> datetime:
        """When the period that an instant lies in began: the ``as_of`` of its work."""
        return at - (at - _BEGINNING) % self.length


class DueWorkRequest(BaseModel):
    """Look whether the work of the period that has begun is due, and start it."""

    task: PeriodicTask


class DueQuestion(BaseModel):
    """Is this work due at an instant? ``by_hand``: somebody asked for it now, whatever was done in this period."""

    task: PeriodicTask
    at: Utc
    by_hand: bool = False


class DueAnswer(BaseModel):
    """``as_of`` of the work that is due; None: it was done as of ``done``."""

    as_of: Utc | None
    done: Utc | None = None


class DueWorkReport(BaseModel):
    """The workflow that does the work, with its ``as_of``; None where nothing was due, or it runs already."""

    task: PeriodicTask
    as_of: Utc | None = None
    workflow_id: str | None = None


class WorkDone(BaseModel):
    """The work of a period is done."""

    task: PeriodicTask
    as_of: Utc
    workflow_id: str


class PeriodicStatus(BaseModel):
    """Where a kind of work stands: as of when and when it was done last (by any book), and when it is due next.

    ``due``: for how many books it is due now (weight cycles, up to 1,000), or 1 (what is done for all books at once).
    """

    work: str
    last_as_of: datetime | None
    last_done_at: datetime | None
    next_at: datetime
    due: int


class PeriodicWork(SQLModel, table=True):
    """A row for each task: the newest period for which it was done."""

    __tablename__ = "periodic_work"

    task: str = Field(sa_column=Column(Text, primary_key=True))
    as_of: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    workflow_id: str = Field(sa_column=Column(Text, nullable=False))
    done_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
