"""Writing many rows in one statement, and several tables in one round trip.

Functions of store/ that are named by an -ing form (``appending``, ``creating``) return a :class:`Write`, which the
caller executes together with others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel


@dataclass(frozen=True)
class Write:
    """A statement that reads its rows from the parameter ``:rows`` (see :func:`recordset`)."""

    sql: str
    rows: str


def insertion(
    table: type[SQLModel], rows: Sequence[Mapping[str, Any]], *, on_conflict: str = "", returning: str = ""
) -> Write | None:
    """Insert rows (all with the same keys, a subset of the table's columns) in the order given; None without rows.

    The rows travel as one JSON document, which PostgreSQL reads into the table's own types: decimals and floats keep
    every digit. ``on_conflict`` and ``returning`` are SQL written by the caller, never data.
    """
    if not rows:
        return None
    return Write(_insertion(table, tuple(rows[0]), on_conflict, returning), as_json(rows))


async def execute(session: AsyncSession, *writes: Write | None) -> Sequence[Row[Any]]:
    """Execute writes (None ones are left out) in one statement; returns the rows of the last one's RETURNING, if any.

    Each write sees the database as it was before the statement: none reads what another one of them writes.
    """
    given = [write for write in writes if write is not None]
    if not given:
        return []
    result = await session.execute(
        _together(tuple(write.sql for write in given)), {f"rows{i}": write.rows for i, write in enumerate(given)}
    )
    return result.all() if writes[-1] is not None and " RETURNING " in writes[-1].sql else []


def recordset(table: type[SQLModel]) -> str:
    """A FROM item that reads the parameter ``:rows`` as rows of this table."""
    return f"json_populate_recordset(NULL::{table.__tablename__}, CAST(:rows AS json))"


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the parameter that :func:`recordset` reads."""
    return to_json(rows).decode()


@lru_cache(maxsize=256)
def _insertion(table: type[SQLModel], columns: tuple[str, ...], on_conflict: str, returning: str) -> str:
    names = ", ".join(columns)
    sql = f"INSERT INTO {table.__tablename__} ({names}) SELECT {names} FROM {recordset(table)}"  # noqa: S608
    if on_conflict:
        sql += f" ON CONFLICT {on_conflict}"
    return f"{sql} RETURNING {returning}" if returning else sql


@lru_cache(maxsize=256)
def _together(statements: tuple[str, ...]) -> TextClause:
    numbered = [sql.replace(":rows", f":rows{i}") for i, sql in enumerate(statements)]
    if len(numbered) == 1:
        return text(numbered[0])
    parts = ", ".join(f"w{i} AS ({sql})" for i, sql in enumerate(numbered))
    last = f"* FROM w{len(numbered) - 1}" if " RETURNING " in numbered[-1] else "1"
    return text(f"WITH {parts} SELECT {last}")
