"""The minutes of a driver from its components' candles, and what is remembered of them between two calls."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from closeloop.learning.market.bars import Bars, Counters, Ints, SpikeCarry, accept
from closeloop.learning.market.composite import CompositeCarry, Spans, belonging, composite
from closeloop.models.market import BUCKETS, DOMINANCES, Driver, Timeframe
from closeloop.models.market_policy import MarketPolicy

_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class MinutesCarry:
    """What is remembered of a driver's components: their ``spikes`` and what was refused, mended or dropped of each
    since its first bar (``counters``), by asset, and of a composite what its ``index`` needs."""

    spikes: Mapping[str, SpikeCarry] = field(default_factory=dict)
    counters: Mapping[str, Counters] = field(default_factory=dict)
    index: CompositeCarry = field(default_factory=CompositeCarry)

    def to_bytes(self) -> bytes:
        """About 200 bytes a component."""
        body = _CARRIES.dump_json(self)
        return zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little") + body

    @classmethod
    def from_bytes(cls, content: bytes) -> "MinutesCarry":
        """Raises ValueError for what is damaged or no carry: compute the minutes again."""
        checksum, body = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
            raise ValueError("what was remembered of a driver's minutes is damaged")
        try:
            return _CARRIES.validate_json(body)
        except ValidationError as error:
            raise ValueError(f"what was remembered of a driver's minutes is not as written: {error}") from None


_CARRIES = TypeAdapter(MinutesCarry)


@dataclass(frozen=True, eq=False)
class Minutes:
    """``bars`` of a driver, of a composite also of how many components each is made, and the carry after them.

    ``newest_end``: when the newest candle ended that was taken, whatever became of it (seconds since 1970); None of
    none.
    """

    bars: Bars
    component_count: Ints | None
    carry: MinutesCarry
    newest_end: int | None


def minutes(
    driver: Driver,
    candles: Mapping[str, Bars],
    now: int,
    policy: MarketPolicy,
    carry: MinutesCarry | None = None,
    memberships: Mapping[str, Spans] | None = None,
) -> Minutes:
    """The next minutes of a driver from its components' ``candles``, by asset, as of ``now``.

    ``memberships``: when each asset belongs to a bucket (None: all always do); candles of other times are passed over.
    Candles of BTC and of a dominance become its bars; those of the others make an index, for which their volumes, in
    the asset, are taken times the close. The same bars come out, bit for bit, in whatever parts of time the candles
    are given.

    Raises ValueError for candles that are not after those taken before.
    """
    carry = carry or MinutesCarry()
    spikes, counters = dict(carry.spikes), dict(carry.counters)
    accepted: dict[str, Bars] = {}
    ends = []
    for asset in sorted(candles):
        given = belonging(candles[asset], None if memberships is None else memberships.get(asset, ()))
        if not len(given):
            continue
        ends.append(int(given.start.max()) + Timeframe.m1.seconds)
        found = accept(given, Timeframe.m1.seconds, _limit(driver, policy), now, spikes.get(asset))
        accepted[asset], spikes[asset] = found.bars, found.carry
        counters[asset] = counters.get(asset, Counters()) + found.counters
    newest_end = max(ends, default=None)
    if driver == Driver.btc or driver in DOMINANCES:
        bars = Bars.joined(accepted.values())
        return Minutes(bars, None, MinutesCarry(spikes, counters), newest_end)
    in_quote = {asset: replace(bars, volume=bars.volume * bars.close) for asset, bars in accepted.items()}
    made = composite(in_quote, policy, carry.index, memberships)
    return Minutes(made.bars, made.component_count, MinutesCarry(spikes, counters, made.carry), newest_end)


def _limit(driver: Driver, policy: MarketPolicy) -> float:
    """How far a component's minute may move (log return)."""
    kind = "token" if driver in BUCKETS else "dominance" if driver in DOMINANCES else "major"
    return policy.spike_limits[kind]
