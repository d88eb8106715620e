"""The corpus: skills as files, what became of the patterns they are named for, and planned changes of their scores."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, DateTime, ForeignKeyConstraint, Index, SmallInteger, Text, text
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import Utc

DESTINATION_TAKEN = "a file of the same name lies in the folder that it belongs into"
"""Why a skill stays where it is though its score takes it elsewhere."""


class SkillState(StrEnum):
    """Where a skill is in its life: the folder that its file lies in."""

    pending = "pending"
    active = "active"
    archived = "archived"


class PlanState(StrEnum):
    """What became of a planned change."""

    due = "due"
    done = "done"
    dropped = "dropped"


@dataclass(frozen=True)
class SkillFile:
    """A skill's file as it was found: its content, or the reason why it is left alone."""

    state: SkillState
    name: str  # without ``.md``
    inode: tuple[int, int]
    content: bytes = b""
    problem: str | None = None

    @property
    def place(self) -> str:
        """Where it lies, for a person."""
        return place(self.state, self.name)


def place(state: str, name: str) -> str:
    """Where a skill's file lies under ``skills/``."""
    return f"{state}/{name}.md"


@dataclass(frozen=True)
class PlanResult:
    """What became of one planned change of a file; ``problem`` says why it was not done, or not all of it."""

    state: PlanState
    moved: bool = False
    problem: str | None = None


class CorpusRequest(BaseModel):
    """Tend the corpus, all of it: from what closed by ``as_of``, as the work of its day; null: from all that closed."""

    as_of: Utc | None = None


class SkillScored(BaseModel):
    """A skill's score before and after the outcomes of its pattern."""

    name: str
    before: int
    after: int
    matches: int


class SkillSkipped(BaseModel):
    """A file that was left alone, and why."""

    skill: str
    reason: str


class SkillView(BaseModel):
    """A skill as it is listed, with the outcomes of its pattern that stand in no score yet: their number and sum.

    ``state`` is null where no skill is named for the pattern; ``problem`` says why there is no score.
    """

    name: str
    state: SkillState | None = None
    score: int | None = None
    problem: str | None = None
    pending_matches: int = 0
    pending_outcome: int = 0


class CorpusReport(BaseModel):
    """What one run did, by skill. Each list holds at most 200; ``unlisted`` counts what did not fit."""

    scored: list[SkillScored] = []
    promoted: list[str] = []
    archived: list[str] = []
    skipped: list[SkillSkipped] = []
    unlisted: int = 0

    @property
    def sentence(self) -> str:
        """``skills: 3 scored, 1 promoted, 0 archived, 2 left alone``."""
        return (
            f"skills: {len(self.scored)} scored, {len(self.promoted)} promoted, {len(self.archived)} archived, "
            f"{len(self.skipped)} left alone" + (f", and {self.unlisted} more" if self.unlisted else "")
        )


class PatternMatch(SQLModel, table=True):
    """The outcome of a position that acted on a pattern: +1 or -1. Applied once it stands in the skill's score."""

    __tablename__ = "pattern_matches"
    __table_args__ = (
        ForeignKeyConstraint(["book_id", "position_id"], ["attributions.book_id", "attributions.position_id"]),
        # Matches are claimed before the plan is written, in the same transaction: the sum decides what is planned.
        ForeignKeyConstraint(["plan_id"], ["skill_scores.plan_id"], deferrable=True, initially="DEFERRED"),
        Index("pattern_matches_unapplied", "pattern_key", postgresql_where=text("NOT applied")),
    )

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    position_id: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    pattern_key: str = Col(sa_column=Column(Text(collation="C"), primary_key=True))
    outcome: int = Col(sa_column=Column(SmallInteger, nullable=False))
    closed_at: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    applied: bool = Col(default=False, sa_column_kwargs={"server_default": text("false")})
    plan_id: str | None = Col(default=None, sa_column=Column(Text))


class SkillPlan(SQLModel, table=True):
    """A change of a skill's file that was decided: a new score, a new folder, or both.

    The plan is committed before the file is touched, and settled after: a run that was killed between is finished by
    the next one. ``old_sha256`` and ``new_sha256`` are of the file's content before and after.
    """

    __tablename__ = "skill_scores"
    __table_args__ = (Index("skill_scores_due", "name", unique=True, postgresql_where=text("state = 'due'")),)

    plan_id: str = Col(sa_column=Column(Text, primary_key=True))
    name: str = Col(sa_column=Column(Text(collation="C"), nullable=False))
    folder: str = Col(sa_column=Column(Text, nullable=False))
    destination: str | None = Col(default=None, sa_column=Column(Text))
    old_score: int = Col(sa_column=Column(BigInteger, nullable=False))
    new_score: int = Col(sa_column=Column(BigInteger, nullable=False))
    old_sha256: str = Col(sa_column=Column(Text, nullable=False))
    new_sha256: str = Col(sa_column=Column(Text, nullable=False))
    matches: int = Col(sa_column=Column(BigInteger, nullable=False))
    state: str = Col(default=PlanState.due, sa_column=Column(Text, nullable=False, server_default=text("'due'")))
    moved: bool = Col(default=False, sa_column_kwargs={"server_default": text("false")})
    planned_at: datetime | None = Col(
        default=None,
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    )
    settled_at: datetime | None = Col(default=None, sa_column=Column(DateTime(timezone=True)))
    settled_by: str | None = Col(default=None, sa_column=Column(Text))
