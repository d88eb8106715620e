"""Parameters that an engine reads, and whether it reads the learned ones: shadow, A/B, live."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, DateTime, Double, ForeignKeyConstraint, Text
from sqlmodel import Field as Col
from sqlmodel import SQLModel

from closeloop.models.values import BookId, Identifier


class ParameterMode(StrEnum):
    """Who gets learned parameters: nobody, a share of symbol-days, everybody."""

    shadow = "shadow"
    ab = "ab"
    live = "live"


class Arm(StrEnum):
    """Which parameters an answer holds."""

    default = "default"
    learned = "learned"


class ModeRequest(BaseModel):
    """Set the mode of a book. ``share``: of symbol-days that get learned parameters, for ``ab`` only."""

    model_config = ConfigDict(frozen=True)

    book: BookId
    mode: ParameterMode
    share: Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)] | None = None
    operator: Annotated[Identifier, Field(max_length=200)]


class ModeView(BaseModel):
    """The mode of a book; null ``since`` and ``operator``: nobody set one, so it is shadow."""

    book: str
    mode: ParameterMode = ParameterMode.shadow
    share: float = 0.0
    since: datetime | None = None
    operator: str | None = None


class ParameterModeRow(SQLModel, table=True):
    """The modes of a book, a row for each change; the newest is in force."""

    __tablename__ = "parameter_modes"
    __table_args__ = (ForeignKeyConstraint(["book_id"], ["books.book_id"]),)

    book_id: str = Col(sa_column=Column(Text, primary_key=True))
    since: datetime = Col(sa_column=Column(DateTime(timezone=True), primary_key=True))
    mode: str = Col(sa_column=Column(Text, nullable=False))
    share: float = Col(sa_column=Column(Double, nullable=False))
    operator: str = Col(sa_column=Column(Text, nullable=False))
