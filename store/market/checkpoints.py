"""Checkpoints: what a computation remembers of a series, so that it goes on from there, or from before a change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import Driver, Timeframe

NEWEST = 3
"""So many of the newest are kept whatever their age: most late minutes are late by a few."""
SLOT_BARS = (60, 1_440, 43_200)
"""Of the older ones the newest of each slot is kept, which is so many bars long: of minutes that of each hour for a
day, of each day for a month, of each month for ever."""


class Stage(StrEnum):
    """What a checkpoint is of: a driver's minutes from its components, or its states."""

    bars = "bars"
    engine = "engine"


@dataclass(frozen=True)
class Asked:
    """The newest checkpoint of a series' stage that was computed with these numbers and ended by an instant
    (``before``; None: the newest)."""

    driver: Driver
    stage: Stage
    fingerprint: str
    before: datetime | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What is remembered after the bars that ended by ``bar_end``."""

    bar_end: datetime
    carry: bytes


@dataclass(frozen=True)
class NewCheckpoint:
    """A checkpoint that follows from the one at ``base`` (None: from none). Any other after that does not hold."""

    driver: Driver
    stage: Stage
    fingerprint: str
    base: datetime | None
    checkpoint: Checkpoint


_LOAD = text(
    """
    SELECT w.driver, w.stage, c.bar_end, c.carry
    FROM unnest(CAST(:drivers AS text[]), CAST(:stages AS text[]), CAST(:fingerprints AS text[]),
                CAST(:befores AS timestamptz[])) AS w (driver, stage, fingerprint, before)
    CROSS JOIN LATERAL (
        SELECT bar_end, carry FROM market_checkpoints m
        WHERE m.driver = w.driver AND m.timeframe = :timeframe AND m.stage = w.stage
          AND m.bar_end <= coalesce(w.before, 'infinity') AND m.fingerprint = w.fingerprint
        ORDER BY bar_end DESC LIMIT 1
    ) c
    """
)
_WRITE = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:drivers AS text[]), CAST(:stages AS text[]), CAST(:fingerprints AS text[]),
            CAST(:bases AS timestamptz[]), CAST(:ends AS timestamptz[]), CAST(:carries AS bytea[]))
            AS g (driver, stage, fingerprint, base, bar_end, carry)
    ), every AS (
        SELECT c.driver, c.stage, c.bar_end FROM market_checkpoints c JOIN given g USING (driver, stage)
        WHERE c.timeframe = :timeframe AND c.bar_end <= g.base AND c.fingerprint = g.fingerprint
        UNION SELECT driver, stage, bar_end FROM given
    ), aged AS (
        SELECT *, extract(epoch FROM bar_end) / :step AS at,
               extract(epoch FROM max(bar_end) OVER of_series - bar_end) / :step AS age,
               row_number() OVER (of_series ORDER BY bar_end DESC) AS place
        FROM every WINDOW of_series AS (PARTITION BY driver, stage)
    ), slotted AS (
        SELECT *, CASE WHEN age < {SLOT_BARS[1]} THEN {SLOT_BARS[0]} WHEN age < {SLOT_BARS[2]} THEN {SLOT_BARS[1]}
                  ELSE {SLOT_BARS[2]} END AS slot FROM aged
    ), kept AS MATERIALIZED (
        SELECT driver, stage, bar_end FROM (
            SELECT *, row_number() OVER (PARTITION BY driver, stage, slot, ceil(at / slot) ORDER BY bar_end DESC) AS n
            FROM slotted
        ) ranked WHERE place <= {NEWEST} OR n = 1
    ), gone AS (
        DELETE FROM market_checkpoints c USING given g
        WHERE c.driver = g.driver AND c.stage = g.stage AND c.timeframe = :timeframe
          AND NOT EXISTS (SELECT 1 FROM kept k WHERE k.driver = c.driver AND k.stage = c.stage
                          AND k.bar_end = c.bar_end)
    )
    INSERT INTO market_checkpoints AS c (driver, timeframe, stage, bar_end, fingerprint, carry)
    SELECT driver, :timeframe, stage, bar_end, fingerprint, carry FROM given
    ON CONFLICT (driver, timeframe, stage, bar_end) DO UPDATE
    SET fingerprint = excluded.fingerprint, carry = excluded.carry, written_at = clock_timestamp()
    """  # noqa: S608
)


async def load(
    session: AsyncSession, timeframe: Timeframe, asked: Sequence[Asked]
) -> dict[tuple[Driver, Stage], Checkpoint]:
    """The checkpoints that are asked for; one that is not there is left out."""
    if not asked:
        return {}
    result = await session.execute(
        _LOAD,
        {
            "timeframe": timeframe.value,
            "drivers": [each.driver.value for each in asked],
            "stages": [each.stage.value for each in asked],
            "fingerprints": [each.fingerprint for each in asked],
            "befores": [each.before for each in asked],
        },
    )
    return {(Driver(row.driver), Stage(row.stage)): Checkpoint(row.bar_end, row.carry) for row in result}


async def write(session: AsyncSession, timeframe: Timeframe, new: Sequence[NewCheckpoint]) -> None:
    """Write checkpoints, one of a stage; those that do not hold any more, and old ones but a few, are deleted."""
    if not new:
        return
    await session.execute(
        _WRITE,
        {
            "timeframe": timeframe.value,
            "step": timeframe.seconds,
            "drivers": [each.driver.value for each in new],
            "stages": [each.stage.value for each in new],
            "fingerprints": [each.fingerprint for each in new],
            "bases": [each.base for each in new],
            "ends": [each.checkpoint.bar_end for each in new],
            "carries": [each.checkpoint.carry for each in new],
        },
    )


async def drop(
    session: AsyncSession, timeframe: Timeframe, after: Sequence[tuple[Driver, Stage, datetime | None]]
) -> None:
    """Delete the checkpoints of a stage that ended after an instant (None: all): what they remember has changed."""
    if not after:
        return
    await session.execute(
        text(
            "DELETE FROM market_checkpoints c USING unnest(CAST(:drivers AS text[]), CAST(:stages AS text[]), "
            "CAST(:afters AS timestamptz[])) AS w (driver, stage, after) WHERE c.timeframe = :timeframe "
            "AND c.driver = w.driver AND c.stage = w.stage AND (w.after IS NULL OR c.bar_end > w.after)"
        ),
        {
            "timeframe": timeframe.value,
            "drivers": [driver.value for driver, _, _ in after],
            "stages": [stage.value for _, stage, _ in after],
            "afters": [instant for _, _, instant in after],
        },
    )
