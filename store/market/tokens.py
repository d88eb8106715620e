"""Which tokens the buckets are made of."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import MarketToken
from closeloop.models.market_tokens import TokenSpan, TokenView
from closeloop.store import locks
from closeloop.store.pages import page
from closeloop.store.rows import execute, insertion

_ID = """asset || '@' || to_char(valid_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


async def lock(session: AsyncSession) -> None:
    """One import at a time: two that did not see each other could leave an asset in two buckets."""
    await locks.one_at_a_time(session, locks.MARKET_TOKENS)


async def of_assets(session: AsyncSession, assets: Sequence[str]) -> dict[str, list[TokenSpan]]:
    """The spans of these assets, the earliest first; an asset without any is left out."""
    result = await session.execute(
        text(
            "SELECT asset, bucket, valid_from, valid_to FROM market_tokens "
            "WHERE asset = ANY(CAST(:assets AS text[])) ORDER BY asset, valid_from"
        ),
        {"assets": list(assets)},
    )
    found = defaultdict(list)
    for row in result.mappings():
        found[row["asset"]].append(TokenSpan.model_validate(dict(row)))
    return found


async def replace(session: AsyncSession, gone: Sequence[tuple[str, datetime]], spans: Sequence[TokenSpan]) -> None:
    """Delete the spans of these assets that begin at these instants, and write ``spans``."""
    await session.execute(
        text(
            "DELETE FROM market_tokens t USING unnest(CAST(:assets AS text[]), CAST(:begins AS timestamptz[])) "
            "AS g (asset, valid_from) WHERE t.asset = g.asset AND t.valid_from = g.valid_from"
        ),
        {"assets": [asset for asset, _ in gone], "begins": [begin for _, begin in gone]},
    )
    await execute(session, insertion(MarketToken, [span.model_dump(mode="json") for span in spans]))


# The newest candle by way of the index: one look a token.
_LISTING = page(
    f"""
    SELECT t.*, {_ID} AS id, (SELECT p.ends_at FROM price_history p WHERE p.asset = t.asset AND p.interval_seconds = 60
                              ORDER BY p.ends_at DESC LIMIT 1) AS candles_until
    FROM market_tokens t
    WHERE (CAST(:bucket AS text) IS NULL OR bucket = :bucket)
      AND (CAST(:as_of AS timestamptz) IS NULL
           OR valid_from <= :as_of AND (valid_to IS NULL OR valid_to > :as_of))
    """,  # noqa: S608
    key="id",
    order="asset, valid_from",
)


async def listing(
    session: AsyncSession, bucket: str | None, as_of: datetime | None, last: int | None, before: str | None
) -> list[TokenView]:
    """Spans by asset: all, of a bucket, those that hold at an instant. See ``pages.page``."""
    values = {"bucket": bucket, "as_of": as_of, "last": last, "before": before}
    result = await session.execute(text(_LISTING), values)
    return [TokenView.model_validate(dict(row)) for row in result.mappings()]


async def has(session: AsyncSession, span_id: str) -> bool:
    """Whether there is a span of this id."""
    result = await session.execute(
        text(f"SELECT EXISTS (SELECT 1 FROM market_tokens WHERE {_ID} = :id)"),  # noqa: S608
        {"id": span_id},
    )
    return bool(result.scalar_one())
