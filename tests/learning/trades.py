"""Made-up trades for the tests of mining, with the generators of the simulations."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from closeloop.learning.scope import TOKEN_DIMENSIONS
from closeloop.learning.trades import Column, Group, Trade, group_of

DAY = 86_400.0
EIGHT = sorted(TOKEN_DIMENSIONS)[:8]


def trades_of(
    codes: NDArray[np.int64], rr: NDArray[np.float64], day: NDArray[np.int64], names: Sequence[str] = EIGHT
) -> list[Trade]:
    """A trade for each row of ``codes`` (n, k): value ``v<code>``, none where the code is negative."""
    return [
        Trade(
            f"t{number:06d}",
            f"S{number % 5}",
            float(r),
            20_000 * DAY + float(d) * DAY + number % 1000,
            1.0 + number % 7,
            {name: f"v{code}" for name, code in zip(names, row, strict=False) if code >= 0},
        )
        for number, (row, r, d) in enumerate(zip(codes.tolist(), rr, day, strict=True))
    ]


def grouped(
    codes: NDArray[np.int64], rr: NDArray[np.float64], day: NDArray[np.int64], names: Sequence[str] = EIGHT
) -> Group:
    """The same as a group."""
    return group_of("k", "entry", trades_of(codes, rr, day, names))


def columns_of(
    codes: NDArray[np.int64],
    rr: NDArray[np.float64],
    day: NDArray[np.int64],
    names: Sequence[str] = EIGHT,
    symbol: NDArray[np.int64] | None = None,
) -> Group:
    """The same without a detour over trades, for many; of five symbols where none are given."""
    n, values = len(rr), tuple(f"v{code}" for code in range(int(codes.max()) + 1))
    columns = {name: Column(codes[:, place].astype(np.int32), values) for place, name in enumerate(names)}
    ids = tuple(f"t{number:07d}" for number in range(n))
    entered = 20_000 * DAY + day * DAY + np.arange(n) % 1000
    symbol = np.arange(n) % 5 if symbol is None else symbol
    symbols = Column(symbol.astype(np.int32), tuple(f"S{number:02d}" for number in range(int(symbol.max()) + 1)))
    return Group("k", "entry", ids, rr, entered, 1.0 + np.arange(n) % 7, symbols, dict(sorted(columns.items())))


def noise(kind: str, seed: int, n: int = 5000, dimensions: int = 8, days: int = 200) -> Group:
    """Trades without any edge: ``normal``; ``skewed`` (-1 R stops, exponential winners, 38 % wins); ``day`` (normal,
    with an effect of sd 0.5 of each day, and half of the dimensions constant within a day)."""
    rng = np.random.default_rng(seed)
    codes, day = rng.integers(0, 4, (n, dimensions)), rng.integers(0, days, n)
    rr = rng.normal(0.0, 1.0, n)
    if kind == "skewed":
        rr = np.where(rng.random(n) < 0.38, rng.exponential(1.7, n), -1.0)
    if kind == "day":
        rr = rr + rng.normal(0.0, 0.5, days)[day]
        codes[:, : dimensions // 2] = rng.integers(0, 4, (days, dimensions // 2))[day]
    names = EIGHT if dimensions == 8 else [f"d{number:02d}" for number in range(dimensions)]
    return columns_of(codes, rr, day, names)


def planted(edges: Sequence[tuple[Mapping[str, str], float]], n: int, sd: float, seed: int) -> Group:
    """Trades of rr ~ N(1, sd) in eight dimensions of four values, with edges added where their conditions hold."""
    rng = np.random.default_rng(seed)
    codes, rr, day = rng.integers(0, 4, (n, 8)), rng.normal(1.0, sd, n), rng.integers(0, 200, n)
    for conditions, lift in edges:
        holds = [codes[:, EIGHT.index(name)] == int(value[1:]) for name, value in conditions.items()]
        rr = rr + lift * np.all(holds, axis=0)
    return columns_of(codes, rr, day)
