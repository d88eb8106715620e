"""Set-based writing: one statement for a thousand rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel


async def insert_rows(
    session: AsyncSession,
    table: type[SQLModel],
    rows: Sequence[Mapping[str, Any]],
    *,
    on_conflict: str = "",
    returning: str = "",
) -> Sequence[Row[Any]]:
    """Insert rows (all with the same keys, a subset of the table's columns) in the order given, in one statement.

    The rows travel as one JSON document, which PostgreSQL reads into the table's own types: decimals and floats keep
    every digit. ``on_conflict`` and ``returning`` are SQL written by the caller, never data.
    """
    if not rows:
        return []
    columns = ", ".join(rows[0])
    name = table.__tablename__
    statement = f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {recordset(table)}"  # noqa: S608
    if on_conflict:
        statement += f" ON CONFLICT {on_conflict}"
    if returning:
        statement += f" RETURNING {returning}"
    result = await session.execute(text(statement), {"rows": as_json(rows)})
    return result.all() if returning else []


def recordset(table: type[SQLModel]) -> str:
    """A FROM item that reads the parameter ``:rows`` as rows of this table."""
    return f"json_populate_recordset(NULL::{table.__tablename__}, CAST(:rows AS json))"


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the parameter that :func:`recordset` reads."""
    return to_json(rows).decode()
