"""A bar at a time, in chunks or at once; cut off, stored and read back: the same bits. And what is refused."""

import struct
import zlib

import numpy as np
import pytest

from closeloop.learning.market import engine
from closeloop.learning.market.bars import Bars
from closeloop.learning.market.carry import Carry
from closeloop.learning.market.engine import Rows, advance
from closeloop.learning.market.uptrend import S3
from closeloop.models.market import Timeframe
from tests.learning.market.series import POLICY, expected_series, random_series

KINDS = ("walk", "up", "down", "coarse", "halting", "still")


def _columns(rows: Rows) -> dict[str, np.ndarray]:
    plain = ("index", "start", "state", "prev_state", "published", "provisional", "ts", "ox", "dx", "edx", "support",
             "resistance", "boost_ema60", "boost_ema333")  # fmt: skip
    columns = {name: getattr(rows, name) for name in plain}
    return columns | dict(rows.indicators) | {f"part {k}": v for k, v in rows.edx_parts.items()} | dict(rows.flags)


def _same(found: list[Rows], wanted: Rows) -> None:
    parts, whole = [_columns(rows) for rows in found], _columns(wanted)
    for name, values in whole.items():
        joined = np.concatenate([part[name] for part in parts])
        assert joined.dtype == values.dtype
        assert np.array_equal(joined, values, equal_nan=values.dtype.kind == "f"), name
    assert [pivot for rows in found for pivot in rows.pivots] == wanted.pivots


def _through(bars: Bars, cuts: list[int], stored: bool = False) -> tuple[list[Rows], Carry]:
    found, carry = [], None
    for begin, end in zip([0, *cuts], [*cuts, len(bars)], strict=True):
        rows, carry = advance(carry, bars[begin:end], Timeframe.m1, POLICY)
        if stored:
            carry = Carry.from_bytes(carry.to_bytes())
        found.append(rows)
    assert carry is not None
    return found, carry


@pytest.mark.parametrize("kind", KINDS)
def test_a_bar_at_a_time_stored_after_each_is_as_all_at_once(kind: str) -> None:
    bars = random_series(7, 1_200, kind)
    whole, carry = advance(None, bars, Timeframe.m1, POLICY)
    found, after = _through(bars, list(range(1, len(bars))), stored=True)
    _same(found, whole)
    assert after.to_bytes() == carry.to_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_any_chunks_are_as_all_at_once(kind: str, seed: int) -> None:
    bars = random_series(seed, 4_000, kind)
    rng = np.random.default_rng(seed)
    cuts = sorted(set(rng.integers(1, len(bars), 30).tolist()) | set(rng.integers(1, 60, 5).tolist()))
    whole, carry = advance(None, bars, Timeframe.m1, POLICY)
    found, after = _through(bars, cuts)
    _same(found, whole)
    assert after.to_bytes() == carry.to_bytes()


def test_what_it_does_at_once_is_cut_into_chunks_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = random_series(3, 3_000, "up")
    whole, carry = advance(None, bars, Timeframe.m1, POLICY)
    monkeypatch.setattr(engine, "CHUNK_BARS", 700)
    chunked, after = advance(None, bars, Timeframe.m1, POLICY)
    _same([chunked], whole)
    assert after.to_bytes() == carry.to_bytes()


@pytest.mark.parametrize("kind", ["walk", "up", "coarse", "halting"])
def test_what_comes_later_changes_nothing(kind: str) -> None:
    bars = random_series(11, 3_000, kind)
    whole, _ = advance(None, bars, Timeframe.m1, POLICY)
    for end in np.random.default_rng(11).integers(20, len(bars), 12).tolist():
        # What follows is of another world altogether.
        other = random_series(end, len(bars), "down")[end:]
        mixed = Bars.joined((bars[:end], other))
        rows, _ = advance(None, mixed, Timeframe.m1, POLICY)
        columns, short = _columns(rows), _columns(whole)
        for name, values in short.items():
            assert np.array_equal(columns[name][:end], values[:end], equal_nan=values.dtype.kind == "f"), name


def test_a_long_uptrend_keeps_sums_of_two_thirds_of_it() -> None:
    # Up by a tenth of its standard deviation a bar, then by more: S3 for thousands of bars.
    bars = random_series(5, 6_000, "up")
    _, carry = advance(None, bars, Timeframe.m1, POLICY)
    assert carry.spell is not None
    assert carry.machine.state == S3
    assert carry.spell.sums.shape[1] <= carry.machine.age * 2 // 3 + 1
    assert len(carry.to_bytes()) <= 8_000 + 27 * carry.machine.age


def test_published_and_provisional() -> None:
    bars = random_series(1, 400)
    for timeframe, first in ((Timeframe.m1, 332), (Timeframe.h1, 332), (Timeframe.d1, 149)):
        rows, _ = advance(None, bars, timeframe, POLICY)
        assert np.flatnonzero(rows.state >= 0).tolist() == list(range(99, 400))
        assert np.flatnonzero(rows.published).tolist() == list(range(first, 400))
        assert np.flatnonzero(rows.provisional).tolist() == list(range(first, 332))


def test_a_margin_makes_fewer_changes_and_leaves_the_starts_of_s3() -> None:
    bars = random_series(2, 20_000)
    counts, starts = [], []
    for margin in (0.0, 0.5):
        rows, _ = advance(None, bars, Timeframe.m1, POLICY.model_copy(update={"flip_atr": margin}))
        between = ((rows.state == 1) & (rows.prev_state == 2)) | ((rows.state == 2) & (rows.prev_state == 1))
        counts.append(int(between.sum()))
        starts.append(int(((rows.state == S3) & (rows.prev_state != S3)).sum()))
    assert counts[1] < 0.7 * counts[0]
    assert abs(starts[1] - starts[0]) <= 0.1 * starts[0]


def test_planted_trends_are_found() -> None:
    shares = {}
    for kind in ("up", "down", "walk"):
        rows, _ = advance(None, random_series(4, 30_000, kind), Timeframe.m1, POLICY)
        shares[kind] = np.bincount(rows.state[rows.state >= 0], minlength=5) / (rows.state >= 0).sum()
    assert shares["up"][3] > 0.75
    assert shares["down"][0] > 0.55
    assert 0.3 < shares["walk"][3] < 0.7
    assert 0.1 < shares["walk"][0] < 0.5


@pytest.mark.parametrize("kind", ["still", "halting"])
def test_where_nothing_moves_nothing_is_divided_by(kind: str) -> None:
    rows, _ = advance(None, random_series(1, 15_000, kind), Timeframe.m1, POLICY)
    later = slice(100, None)
    for name, values in rows.indicators.items():
        assert np.isfinite(values[later]).all(), name
    assert np.isfinite(rows.ts[later]).all()
    assert np.array_equal(np.isfinite(rows.ox), (rows.state == 2) | (rows.state == 3))
    assert np.array_equal(np.isfinite(rows.edx), rows.state == 3)
    assert np.array_equal(np.isfinite(rows.dx), rows.state == 3)
    if kind == "still":
        assert set(rows.state[99:].tolist()) == {4}
        assert set(rows.indicators["rsi"][14:].tolist()) == {50.0}
        assert set(rows.indicators["adx"][27:].tolist()) == {0.0}


def test_scores_stay_within_their_bounds() -> None:
    for kind in KINDS:
        rows, _ = advance(None, random_series(9, 5_000, kind), Timeframe.m1, POLICY)
        for values in (rows.ts, rows.ox, rows.dx, rows.edx, *rows.edx_parts.values()):
            seen = values[np.isfinite(values)]
            assert ((seen >= 0) & (seen <= 1)).all()
        assert (rows.boost_ema333 <= 0.25).all()
        close = random_series(9, 5_000, kind).close
        assert (np.isnan(rows.support) | (rows.support <= close)).all()
        assert (np.isnan(rows.resistance) | (rows.resistance > close)).all()


def test_bars_that_do_not_follow_are_refused() -> None:
    bars = random_series(1, 300)
    _, carry = advance(None, bars[:200], Timeframe.m1, POLICY)
    with pytest.raises(ValueError, match="in order"):
        advance(carry, bars[199:], Timeframe.m1, POLICY)
    with pytest.raises(ValueError, match="in order"):
        advance(None, bars[::-1], Timeframe.m1, POLICY)
    with pytest.raises(ValueError, match="in order"):
        advance(None, bars[np.array([0, 1, 1])], Timeframe.m1, POLICY)
    with pytest.raises(ValueError, match="no bars"):
        advance(carry, bars[:0], Timeframe.m1, POLICY)
    with pytest.raises(ValueError, match="of 1m, not of 1h"):
        advance(carry, bars[200:], Timeframe.h1, POLICY)


def test_a_stored_state_that_is_damaged_is_refused() -> None:
    _, carry = advance(None, expected_series(), Timeframe.h1, POLICY)
    content = carry.to_bytes()
    assert carry.spell is not None
    for at in np.random.default_rng(0).integers(0, len(content), 200).tolist():
        damaged = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
        with pytest.raises(ValueError, match="market's engine"):
            Carry.from_bytes(damaged)
    for short in (b"", content[:10], content[:-1], content + b"\0"):
        with pytest.raises(ValueError, match="market's engine"):
            Carry.from_bytes(short)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"machine":[3,250]', b'"machine":[3,251]'),
        (b'"machine":[3,250]', b'"machine":[1,-1]'),
        (b'"timeframe":"1h"', b'"timeframe":"2h"'),
        (b'"bars":1500', b'"bars":null'),
        (b'"spell":[84,', b'"spell":[83,'),
    ],
)
def test_a_stored_state_that_contradicts_itself_is_refused(old: bytes, new: bytes) -> None:
    _, carry = advance(None, expected_series(), Timeframe.h1, POLICY)
    head = struct.Struct("<4sHIII")
    content = carry.to_bytes()
    magic, version, _, header_size, arrays_size = head.unpack_from(content)
    body = content[head.size :].replace(old, new, 1)
    assert body != content[head.size :]
    grown = header_size + len(new) - len(old)
    forged = head.pack(magic, version, zlib.crc32(body), grown, arrays_size) + body
    with pytest.raises(ValueError, match="market's engine"):
        Carry.from_bytes(forged)


def test_another_version_is_refused() -> None:
    _, carry = advance(None, expected_series()[:10], Timeframe.h1, POLICY)
    content = carry.to_bytes()
    with pytest.raises(ValueError, match="version"):
        Carry.from_bytes(content[:4] + struct.pack("<H", 2) + content[6:])
