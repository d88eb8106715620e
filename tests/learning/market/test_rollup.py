"""Hours and days from minutes: expected values, late minutes, gaps."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.market.bars import Bars, accept
from closeloop.learning.market.rollup import Rolled, rollup
from tests.learning.market.golden import golden

EXPECTED = golden("rollup")
_MINUTES = st.dictionaries(
    st.integers(0, 5000), st.tuples(st.floats(1, 2), st.floats(1, 2), st.floats(0, 1e9)), max_size=60
)


def read(found: Rolled) -> list[Any]:
    columns = [getattr(found.bars, name) for name in Bars.__dataclass_fields__] + [found.n_source]
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize(("received", "wanted"), [(("stage1",), "expected1"), (("stage1", "stage2_late"), "expected2")])
def test_expected(received: tuple[str, ...], wanted: str) -> None:
    rows = [tuple(row) for stage in received for row in EXPECTED[stage]]
    found = read(rollup(accept(Bars.of(rows), 60, 1.0, 2**40).bars, 3600))
    for each, right in zip(found, EXPECTED[wanted], strict=True):
        assert each == pytest.approx(tuple(right[key] for key in ("t", "o", "h", "l", "c", "v", "n_source")), rel=1e-12)


@given(_MINUTES, st.sampled_from([3600, 86_400]))
def test_as_the_rule_says(minutes: dict[int, tuple[float, float, float]], seconds: int) -> None:
    rows = [(60 * m, o, max(o, c) + 1, min(o, c) / 2, c, v) for m, (o, c, v) in sorted(minutes.items())]
    count = np.array([row[0] // 60 % 7 for row in rows], np.int64)
    found = rollup(Bars.of(rows), seconds, count)
    wanted, most = [], []
    for start in sorted({row[0] // seconds * seconds for row in rows}):
        inside = [row for row in rows if start <= row[0] < start + seconds]
        highest, lowest = max(row[2] for row in inside), min(row[3] for row in inside)
        volume = math.fsum(row[5] for row in inside)
        wanted.append((start, inside[0][1], highest, lowest, inside[-1][4], volume, len(inside)))
        most.append(max(row[0] // 60 % 7 for row in inside))
    assert read(found) == wanted
    assert found.component_count is not None
    assert found.component_count.tolist() == most
    # A part of whole bars gives the same ones.
    half = len(wanted) // 2
    if half:
        of_part = Bars.of([row for row in rows if row[0] >= wanted[half][0]])
        assert read(rollup(of_part, seconds)) == wanted[half:]


def test_nothing() -> None:
    found = rollup(Bars.of(()), 3600, np.empty(0, np.int64))
    assert read(found) == []
