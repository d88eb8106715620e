"""Runs: which backtest or bot the positions of a book come from, as the imports that brought them said."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Text, text
from sqlmodel import Field as Col
from sqlmodel import SQLModel


class RunKind(StrEnum):
    """What made the trades: a backtest (each one is a run of its own), or a bot that goes on trading."""

    backtest = "backtest"
    live = "live"


class BookRun(SQLModel, table=True):
    """What one import said of the run whose positions it brought into a book.

    ``content`` is the digest of the imported content. The row outlives its import, whose counts are deleted some day.
    """

    __tablename__ = "book_runs"
    __table_args__ = (Index("book_runs_book", "book_id"), Index("book_runs_import", "import_id"))

    id: int | None = Col(default=None, sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    book_id: str = Col(sa_column=Column(Text, nullable=False))
    import_id: str = Col(sa_column=Column(Text, nullable=False))
    kind: str = Col(sa_column=Column(Text, nullable=False))
    run_id: str | None = Col(default=None, sa_column=Column(Text))
    begins: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    ends: datetime = Col(sa_column=Column(DateTime(timezone=True), nullable=False))
    currency: str | None = Col(default=None, sa_column=Column(Text))
    source: str = Col(sa_column=Column(Text, nullable=False))
    content: str = Col(sa_column=Column(Text, nullable=False))
    recorded_at: datetime = Col(
        sa_column=Column(DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()"))
    )
