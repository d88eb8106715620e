"""Which tokens the buckets are made of: an engine says it, and the buckets' indices follow."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.membership import Span, first_differences, placed
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.market import Driver
from closeloop.models.market_tokens import MAX_TOKEN_ROWS, RejectedToken, TokenSpan, TokensReport, TokenView
from closeloop.store.market import changes, tokens


async def record(session: AsyncSession, rows: Iterable[tuple[int, TokenSpan | str]]) -> TokensReport:
    """Record rows (number, span; or why it was refused), in the caller's transaction.

    Buckets that have other members now are marked, from the earliest instant on: their indices are computed anew.
    Said twice, the second time changes nothing. Raises NotAcceptable for more than MAX_TOKEN_ROWS rows.
    """
    report = TokensReport()
    by_asset = _accepted(rows, report)
    await tokens.lock(session)
    on_record = await tokens.of_assets(session, list(by_asset))
    gone: list[tuple[str, datetime]] = []
    written: list[TokenSpan] = []
    marks: dict[Driver, datetime] = {}
    for asset, given in by_asset.items():
        before = [_span(each) for each in on_record.get(asset, [])]
        after = before
        differing = 0
        for row in sorted(given, key=lambda row: row.valid_from):  # whatever the order of the rows
            spans = placed(after, _span(row))
            differing += spans != after
            after = spans
        if after == before:
            report.already_recorded += len(given)
            continue
        report.recorded += differing
        report.already_recorded += len(given) - differing
        report.ended += _ended(before, after)
        gone += [(asset, span.begin) for span in before if span not in after]
        written += [
            TokenSpan.model_construct(asset=asset, bucket=span.bucket, valid_from=span.begin, valid_to=span.end)
            for span in after
            if span not in before
        ]
        for bucket, instant in first_differences(before, after).items():
            marks[bucket] = min(instant, marks.get(bucket, instant))
    if marks:
        await tokens.replace(session, gone, written)
        await changes.mark(session, {changes.of_bucket(bucket.value): instant for bucket, instant in marks.items()})
        report.changed_from = min(marks.values())
    return report


async def listing(
    session: AsyncSession,
    bucket: Driver | None = None,
    as_of: datetime | None = None,
    last: int | None = None,
    before: str | None = None,
) -> list[TokenView]:
    """Tokens and since when they have been in which bucket, by asset: all, those of a bucket, those of an instant; at
    most the ``last`` of those before the id ``before``. Raises NotOnRecord for an id that there is not."""
    if before is not None and not await tokens.has(session, before):
        raise NotOnRecord(f"There is no {before}: 'closeloop market tokens list --json' names them by their id.")
    return await tokens.listing(session, bucket, as_of, last, before)


def _accepted(rows: Iterable[tuple[int, TokenSpan | str]], report: TokensReport) -> dict[str, list[TokenSpan]]:
    by_asset: dict[str, list[TokenSpan]] = defaultdict(list)
    said: dict[tuple[str, datetime], tuple[int, TokenSpan]] = {}
    for count, (number, row) in enumerate(rows, 1):
        if count > MAX_TOKEN_ROWS:
            raise NotAcceptable(f"Nothing was recorded: more than {MAX_TOKEN_ROWS:,} rows at once; send them in parts.")
        if isinstance(row, str):
            report.rejected.append(RejectedToken(row=number, reason=row))
            continue
        first, earlier = said.setdefault((row.asset, row.valid_from), (number, row))
        if earlier == row:
            by_asset[row.asset].append(row)
        else:
            reason = f"{row.asset} is said another thing of from the same instant on in row {first}: one of them holds"
            report.rejected.append(RejectedToken(row=number, reason=reason))
    return by_asset


def _span(row: TokenSpan) -> Span:
    return Span(row.valid_from, row.valid_to, row.bucket)


def _ended(before: list[Span], after: list[Span]) -> int:
    """How many of the spans before end earlier now."""
    ends = {span.begin: span.end for span in after}
    return sum(
        span.begin in ends and (end := ends[span.begin]) is not None and (span.end is None or end < span.end)
        for span in before
    )
