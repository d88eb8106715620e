"""How large tables are."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.retention import TableSize

CLOSES = "attributions"


async def tables(session: AsyncSession) -> list[TableSize]:
    """Every table of the schema, the largest first. Rows are what PostgreSQL has counted itself: an estimate."""
    result = await session.execute(
        text(
            'SELECT c.relname AS "table", coalesce(nullif(s.n_live_tup, 0), nullif(CAST(c.reltuples AS bigint), -1)) '
            "AS rows, pg_total_relation_size(c.oid) AS bytes, pg_indexes_size(c.oid) AS index_bytes "
            "FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid "
            "WHERE c.relkind = 'r' AND c.relnamespace = CAST(current_schema() AS regnamespace) "
            "ORDER BY bytes DESC, c.relname"
        )
    )
    found = [dict(row) for row in result.mappings()]
    closes = next((row["rows"] for row in found if row["table"] == CLOSES), None)
    return [TableSize(**row, bytes_a_close=round(row["bytes"] / closes, 1) if closes else None) for row in found]


async def database_bytes(session: AsyncSession) -> int:
    """Size of the whole database (bytes), with PostgreSQL's own catalogs."""
    return int((await session.execute(text("SELECT pg_database_size(current_database())"))).scalar_one())
