"""The scope of a trade: a flat set of dimensions and values out of what an engine knew at entry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.policy import LearningPolicy

REGIME_DIMENSIONS = tuple(
    f"{driver}_{horizon}"
    for driver in ("btc", "alt", "bucket", "btcd", "usdtd")
    for horizon in ("macro", "meso", "micro")
)
TOKEN_DIMENSIONS = (
    "curator",
    "chain",
    "mcap_bucket",
    "vol_bucket",
    "age_bucket",
    "intent",
    "mcap_vol_ratio_bucket",
    "market_family",
    "timeframe",
    "A_mode",
    "E_mode",
    "bucket_leader",
    "bucket_rank_position",
)
DIMENSIONS = frozenset(REGIME_DIMENSIONS + TOKEN_DIMENSIONS)


@dataclass(frozen=True)
class Scope:
    """``values``: dimension to value, by dimension. ``unknown``: those of them that nobody told the service of."""

    values: dict[str, str]
    unknown: tuple[str, ...]


def flatten(entry_context: Mapping[str, Any] | None, policy: LearningPolicy) -> Scope:
    """The scope of a trade from its ``entry_context`` (see README, "Messages"); never raises."""
    raise NotImplementedError
