"""Mining: the first pass over all candidates against recursion over pandas frames, and how large it may get."""

import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from bench.peak import peak_mebibytes
from closeloop.learning.candidates import CandidateTests
from closeloop.learning.cube import iceberg_cube
from closeloop.learning.mining import mine
from closeloop.learning.trades import Column, Group
from closeloop.models.policy import MiningPolicy

UNLIMITED = MiningPolicy(max_conditions=None)
ROUNDS = 5
MANY_TRADES, DIMENSIONS = 100_000, 28
FEWER_DIMENSIONS = 12


@dataclass(frozen=True)
class MiningFigures:
    """``ratio`` of times, pandas / first pass; of 100,000 trades in 28 dimensions ``seconds`` of the whole of mine()
    and ``mebibytes`` at most; ``growth`` of its processor time for ten times the trades (10: as the trades)."""

    ratio: float
    seconds: float
    mebibytes: float
    growth: float


def mining() -> MiningFigures:
    """Print and return the figures. Each size runs in a process of its own, so that its memory is its own."""
    ratio = _first_pass()
    seconds, _, mebibytes = _apart(MANY_TRADES, DIMENSIONS)
    print(f"Mining of {MANY_TRADES} trades in {DIMENSIONS} dimensions, at most 3 conditions")
    print(f"  mine()                   {seconds:7.1f} s, at most {mebibytes:.0f} MiB")
    # By processor time, as other work of the machine would lengthen the longer run by more.
    pairs = [
        (_apart(MANY_TRADES, FEWER_DIMENSIONS)[1], _apart(10 * MANY_TRADES, FEWER_DIMENSIONS)[1]) for _ in range(3)
    ]
    growth = statistics.median(large / small for small, large in pairs)
    print(f"  ten times the trades     {growth:7.1f} times the processor time ({FEWER_DIMENSIONS} dimensions)")
    return MiningFigures(ratio, seconds, mebibytes, growth)


def simulated_group(n: int, dimensions: int, seed: int = 0) -> Group:
    """Noise with one planted edge: ``dimensions`` of four values."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (dimensions, n), dtype=np.int32)
    rr = rng.normal(0.0, 1.0, n) + 0.5 * ((codes[0] == 0) & (codes[1] == 3))
    values = ("v0", "v1", "v2", "v3")
    return Group(
        "k",
        "entry",
        tuple(f"{number:08d}" for number in range(n)),
        rr,
        1.7e9 + rng.integers(0, 400 * 86_400, n).astype(np.float64),
        np.ones(n),
        Column(np.zeros(n, np.int32), ("X",)),
        {f"d{place:02d}": Column(each, values) for place, each in enumerate(codes)},
    )


def _first_pass() -> float:
    """Ratio of times; both must find the same candidates with the same numbers."""
    ours, theirs = [], []
    for number in range(ROUNDS):
        group = simulated_group(5_000, 8, number)
        frame = pd.DataFrame(
            {name: np.array(each.values)[each.codes] for name, each in group.columns.items()} | {"rr": group.rr}
        )
        started = time.perf_counter()
        tests = CandidateTests(iceberg_cube(group, UNLIMITED), UNLIMITED)
        tests.run()
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        rows = _recursion(frame, UNLIMITED)
        theirs.append(time.perf_counter() - started)
        _check(tests, rows)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print(
        f"Mining, first pass over all candidates: 5000 trades, 8 dimensions, any number of conditions, {ROUNDS} rounds"
    )
    print(f"  iceberg cube             {statistics.median(ours) * 1000:7.0f} ms")
    print(f"  recursion over pandas    {statistics.median(theirs) * 1000:7.0f} ms")
    return ratio


def _recursion(frame: pd.DataFrame, mining: MiningPolicy) -> dict[tuple[tuple[str, str], ...], tuple[float, ...]]:
    """(n, mean, effect, p) of every conjunction with enough trades on both sides: the plain recursion over frames."""
    found = {}
    dimensions = [name for name in frame.columns if name != "rr"]
    n, total, squares = len(frame), frame["rr"].sum(), (frame["rr"] ** 2).sum()

    def refine(inside: pd.DataFrame, conditions: tuple[tuple[str, str], ...], start: int) -> None:
        for place in range(start, len(dimensions)):
            name = dimensions[place]
            for value in inside[name].unique():
                chosen = inside[inside[name] == value]
                if len(chosen) < mining.min_trades:
                    continue
                if n - len(chosen) >= mining.min_trades:
                    rr = chosen["rr"]
                    found[*conditions, (name, value)] = _statistics(len(rr), rr.sum(), (rr**2).sum(), n, total, squares)
                refine(chosen, (*conditions, (name, value)), place + 1)

    refine(frame, (), 0)
    return found


def _statistics(n1: int, s1: float, q1: float, n: int, s: float, q: float) -> tuple[float, ...]:
    n0, m1, m0 = n - n1, s1 / n1, (s - s1) / (n - n1)
    d1, d0 = q1 - s1 * m1, q - q1 - (s - s1) * m0
    e1, e0 = d1 / (n1 - 1) / n1, d0 / (n0 - 1) / n0
    free = (e1 + e0) ** 2 / (e1**2 / (n1 - 1) + e0**2 / (n0 - 1))
    pooled = math.sqrt((d1 + d0) / (n - 2) * (1 / n1 + 1 / n0))
    size = abs(m1 - m0)
    p = max(2 * special.stdtr(free, -size / math.sqrt(e1 + e0)), 2 * special.ndtr(-size / pooled))
    return n1, m1, m1 - m0, float(p)


def _check(tests: CandidateTests, rows: dict[tuple[tuple[str, str], ...], tuple[float, ...]]) -> None:
    """Candidates that select the same trades are one in the cube; ``rows`` has each, with the same numbers."""
    cube = tests.cube
    names = [tuple(cube.named(number).items()) for number in range(cube.size)]
    wanted = np.array([rows[name] for name in names])
    mean = tests.middle + tests.sums[1] / tests.sums[0]
    assert np.allclose(np.stack((tests.sums[0], mean, tests.effect, tests.p), axis=1), wanted, rtol=1e-7, atol=1e-12)
    assert len({cube.group.rows(dict(conditions)).tobytes() for conditions in rows}) == cube.size


def _apart(n: int, dimensions: int) -> tuple[float, float, float]:
    """(seconds, seconds of the processor, MiB) of mine() in a process of its own."""
    command = [sys.executable, "-m", "bench.mining", str(n), str(dimensions)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603
    return float(printed[0]), float(printed[1]), float(printed[2])


if __name__ == "__main__":
    if len(sys.argv) == 1:
        mining()
    else:
        group = simulated_group(int(sys.argv[1]), int(sys.argv[2]))
        started, worked = time.perf_counter(), time.process_time()
        mined = mine([group], MiningPolicy())
        assert any(dict(each.conditions) == {"d00": "v0", "d01": "v3"} for each in mined.lessons)
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        print(seconds, worked, peak_mebibytes())
