"""Luck: what a lesson's effect was weighed against, and on how many days, blocks of weeks and symbols it rests."""

from enum import StrEnum

from pydantic import BaseModel, Field

from closeloop.models.patterns import Scope


class Clustering(StrEnum):
    """What has luck of its own: UTC entry days; blocks of 1, 4 and 12 ISO weeks; symbols."""

    day = "day"
    week = "week"
    four_weeks = "four_weeks"
    quarter = "quarter"
    symbol = "symbol"


class LuckWeighed(BaseModel):
    """The luck of one clustering, as far as a difference rests on it."""

    of: Clustering
    clusters: int = Field(description="With trades that are compared.")
    inside: int = Field(description="With trades in the scope.")
    outside: int = Field(description="With comparable trades outside it.")
    effective: float = Field(
        description="On how many of them the difference effectively rests; 0 where it lies within them altogether."
    )
    share: float = Field(description="Of the effect's squared error that is this luck.")


class Untold(BaseModel):
    """What stood out by its trades alone, and could not be told from luck: its effect in R, the p by its trades and the
    one with luck, and the clustering whose luck explains it."""

    scope: Scope
    effect: float
    p_of_trades: float
    p: float
    by: Clustering
    too_few: bool = Field(description="There are too few of these clusters to tell; p is 1 then.")
    times: float | None = Field(
        default=None,
        description="About how many times as many of them, and of trades, would tell this effect from luck, at most "
        "100; null where there are too few to tell.",
    )
    luck: list[LuckWeighed]


class LessonEvidence(BaseModel):
    """Of an accepted lesson the ``luck`` that was weighed, and which of it weighed most (``by``).

    Of a group's baseline the clusters that there are (``luck``, everything inside), how many candidates ``stood_out``
    by their trades alone, and how many of these could not be told from luck: ``untold``, of which ``examples`` are the
    strongest. ``weeks`` from the first entry to the last. What the policy asked for: ``least_days`` inside and outside,
    ``least_symbols`` in all and ``least_effective_symbols``, ``quarter_weeks`` from which blocks of 12 weeks count.
    """

    luck: list[LuckWeighed]
    by: Clustering | None = None
    stood_out: int | None = None
    untold: int | None = None
    examples: list[Untold] = []
    weeks: float
    least_days: int
    least_symbols: int
    least_effective_symbols: float
    quarter_weeks: int
