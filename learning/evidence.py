"""What a lesson was weighed against, and what stood out but could not be told from luck: for the record."""

import math

import numpy as np
from scipy import special

from closeloop.learning.candidates import CandidateTests, Weighed
from closeloop.learning.trades import Bools, Floats
from closeloop.models.luck import Clustering, LessonEvidence, LuckWeighed, Untold

EXAMPLES = 3  # of what could not be told from luck
MOST_TIMES = 100.0  # as many clusters: what would take more is not told from no effect at all


def of_candidate(tests: CandidateTests, candidate: int) -> LessonEvidence:
    """The luck that a candidate is weighed against in the present cells."""
    weighed = tests.weighed(candidate)
    return _evidence(tests, _luck(weighed), by=_most(weighed)[0])


def of_group(
    tests: CandidateTests, by_trades: Floats, stood_out: Bools, told: Bools, p_needed: float
) -> LessonEvidence:
    """Of a group before anything is accepted, arrays (candidates,): the p ``by_trades`` alone, by which some
    ``stood_out``, and which of them are ``told`` from luck. ``p_needed``: at which one more would be told."""
    untold = np.flatnonzero(stood_out & ~told & (tests.p > by_trades))
    strongest = untold[np.lexsort((untold, by_trades[untold]))][:EXAMPLES].tolist()
    return _evidence(
        tests,
        [
            LuckWeighed(of=Clustering(name), clusters=count, inside=count, outside=0, effective=0.0, share=0.0)
            for name, count in tests.clusters().items()
        ],
        stood_out=int(stood_out.sum()),
        untold=len(untold),
        examples=[_untold(tests, candidate, float(by_trades[candidate]), p_needed) for candidate in strongest],
    )


def _untold(tests: CandidateTests, candidate: int, by_trades: float, p_needed: float) -> Untold:
    weighed = tests.weighed(candidate)
    by, too_few = _most(weighed)
    p = max(by_trades, float(weighed.by_day.p[0]), float(weighed.by_luck.found.p[0]))
    return Untold(
        scope=dict(sorted(tests.cube.named(candidate).items())),
        effect=float(tests.effect[candidate]),
        p_of_trades=by_trades,
        p=p,
        by=by,
        too_few=too_few,
        times=None if too_few else _times(p, p_needed),
        luck=_luck(weighed),
    )


def _times(p: float, p_needed: float) -> float:
    """How many times as many clusters and trades bring an effect's p down to ``p_needed``, by the normal distribution:
    the squared error falls as they grow. Few clusters have wider tails, so that it is rather less."""
    z, needed = -special.ndtri(p / 2), -special.ndtri(p_needed / 2)
    return float(min(max(needed / z, 1.0) ** 2, MOST_TIMES)) if z > 0 else MOST_TIMES


def _evidence(tests: CandidateTests, luck: list[LuckWeighed], **more: object) -> LessonEvidence:
    mining, days = tests.mining, tests.cube.group.days
    return LessonEvidence.model_validate(
        {
            "luck": luck,
            "weeks": round(float(days.max() - days.min() + 1) / 7, 1),
            "least_days": mining.min_days,
            "least_symbols": math.ceil(mining.min_symbol_freedom) + 2,
            "least_effective_symbols": mining.min_symbol_freedom + 1,
            "quarter_weeks": mining.quarter_weeks,
            **more,
        }
    )


def _most(weighed: Weighed) -> tuple[Clustering, bool]:
    """Which luck raises p most, and whether there are too few of its clusters to tell."""
    by_day, luck = weighed.by_day, weighed.by_luck
    if luck.few_symbols[0] or luck.symbols.unknown[0]:
        return Clustering.symbol, True
    if by_day.p[0] >= luck.found.p[0]:
        return Clustering.day, bool(by_day.p[0] == 1)
    name, period = list(luck.periods.items())[int(luck.found.period[0])]
    if luck.symbols.variance[0] > period.variance[0]:
        return Clustering.symbol, False
    return Clustering(name), bool(period.unknown[0])


def _luck(weighed: Weighed) -> list[LuckWeighed]:
    """Of each period with the luck of symbols, and of symbols with that of the period that makes p largest."""
    luck = weighed.by_luck
    symbols, periods = luck.symbols, luck.periods
    largest = list(periods)[int(luck.found.period[0])]
    found = []
    for name, part in {**periods, "symbol": symbols}.items():
        beside = periods[largest].variance[0] if name == "symbol" else symbols.variance[0]
        total = float(luck.variance[0] + part.variance[0] + beside)
        found.append(
            LuckWeighed(
                of=Clustering(name),
                clusters=int(part.clusters[0]),
                inside=weighed.inside[name],
                outside=weighed.outside[name],
                effective=_finite(float(part.effective[0])),
                share=_finite(float(part.variance[0]) / total) if total > 0 else 0.0,
            )
        )
    return found


def _finite(value: float) -> float:
    """0 where there are too few clusters for a number: JSON holds no other."""
    return value if math.isfinite(value) else 0.0
