"""``market replay``: a file of candles through the engine, without a stack."""

import csv
import gzip
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.faults.stack_process import StackProcess
from tests.learning.market.golden import FOLDER, golden

WANT = golden("engine")
HOURLY = ("--driver", "BTC", "--timeframe", "1h")
T0 = 1_700_000_040


def rows() -> list[list[str]]:
    with (FOLDER / "engine_series.csv").open() as file:
        return list(csv.reader(file))[1:]


def write(path: Path, lines: Iterable[Iterable[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("date", "open", "high", "low", "close", "volume"))
        writer.writerows(lines)
    return path


def minutes(count: int) -> list[list[Any]]:
    """Minutes that rise and fall."""
    closes = [100 + abs(i % 40 - 20) / 10 for i in range(count)]
    return [[T0 + 60 * i, c, c + 0.1, c - 0.1, c, 5] for i, c in enumerate(closes)]


async def test_a_document_for_each_bar(no_stack: StackProcess, tmp_path: Path) -> None:
    found = await no_stack.json("market", "replay", write(tmp_path / "c.csv", rows()), *HOURLY)
    assert [bar["bar"] for bar in found] == list(range(1500))
    assert found[0]["bar_end"] == "2023-11-14T23:00:00Z"
    states = [bar["state"] or "warming_up" for bar in found]
    assert [[i, s] for i, s in enumerate(states) if i == 0 or states[i - 1] != s] == WANT["states"]
    assert [bar["bar"] for bar in found if not bar["published"]] == list(range(332))
    for want in WANT["bars"]:
        bar = found[want["bar"]]
        assert sorted(flag for flag, raised in bar["flags"].items() if raised) == sorted(want["flags"])
        for wanted, values in ((want["ta"], bar["indicators"]), (want["scores"], bar["scores"])):
            assert values == {n: v if v is None else pytest.approx(v, rel=1e-9, abs=1e-12) for n, v in wanted.items()}
    assert not no_stack.home.exists()


async def test_a_file_that_ends_sooner_begins_the_same(no_stack: StackProcess, tmp_path: Path) -> None:
    whole = await no_stack.json("market", "replay", write(tmp_path / "c.csv", rows()), *HOURLY)
    packed = tmp_path / "d.csv.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "d.csv", rows()[:900]).read_bytes()))
    assert await no_stack.json("market", "replay", packed, *HOURLY) == whole[:900]
    assert await no_stack.json("market", "replay", packed, *HOURLY, "--last", "3") == whole[897:900]


async def test_stretches_of_states(no_stack: StackProcess, tmp_path: Path) -> None:
    done = await no_stack.cli("market", "replay", write(tmp_path / "c.csv", rows()), *HOURLY)
    assert done.status == 0
    assert "1,500 bars of BTC 1h: none yet 6.6%, S0 39.8%" in done.out
    assert "28 changes" in done.out
    lines = [line for line in done.out.splitlines() if line.startswith("│")]
    assert len(lines) == len(WANT["states"])
    assert "2024-01-05 23:00" in lines[-1]
    assert "emergency_exit 78" in lines[-1]


async def test_what_is_refused_and_mended_is_counted(no_stack: StackProcess, tmp_path: Path) -> None:
    lines = minutes(30)
    lines[3][4] = -1  # not positive
    lines[4][1:5] = 1, 0, 1, 0.5
    lines[5][2], lines[5][3] = 99, 101  # high below low
    lines[6][2] = lines[6][4] - 0.05  # close above the high
    lines[7][5] = "lots"
    lines[8][1:5] = [500] * 4  # a spike
    lines.append([T0 + 60 * 9, 101, 101, 101, 101, 7])  # again, otherwise
    lines.append([T0 + 60 * 9 + 20, 101, 101, 101, 101, 7])  # off the grid
    lines.append([T0 + 60 * 11, 101, 101])
    lines.append([int(datetime.now(UTC).timestamp()) // 60 * 60, 101, 101, 101, 101, 7])  # going on
    file = write(tmp_path / "c.csv", lines)
    done = await no_stack.cli("market", "replay", file, "--driver", "BTC", "--timeframe", "1m", "--json")
    found = json.loads(done.out)
    assert len(found) == 26
    again = next(bar for bar in found if bar["bar_end"] == "2023-11-14T22:24:00Z")
    assert again["indicators"]["ema20"] < 102
    for sentence in (
        "2 refused: a price is not positive",
        "1 refused: the high is below the low",
        "1 refused: not ended",
        "2 repaired",
        "1 replaced by a later line",
        "1 dropped as spikes",
    ):
        assert sentence in done.err
    assert "line 33: date: must be a multiple of the interval" in done.err
    assert "line 34: the line has 3 fields" in done.err


async def test_the_last_of_one_time_counts(no_stack: StackProcess, tmp_path: Path) -> None:
    plain, again = minutes(20), minutes(20)
    again[5][4] = again[5][2] = 150.0
    again.append(plain[5])
    args = ("--driver", "nano", "--timeframe", "1m")
    assert await no_stack.json("market", "replay", write(tmp_path / "a.csv", again), *args) == await no_stack.json(
        "market", "replay", write(tmp_path / "b.csv", plain), *args
    )


async def test_what_was_going_on_when_the_file_was_written_is_left_out(no_stack: StackProcess, tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", minutes(20))
    os.utime(file, (T0 + 20 * 60 - 1,) * 2)
    done = await no_stack.cli("market", "replay", file, "--driver", "BTC", "--timeframe", "1m", "--json")
    assert len(json.loads(done.out)) == 19
    assert "1 refused: not ended when the file was written" in done.err


async def test_shorter_candles_are_rolled_up(no_stack: StackProcess, tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", minutes(150))  # from 22:14 on: two hours that began, one that has not ended
    done = await no_stack.cli("market", "replay", file, *HOURLY, "--interval", "1m", "--json")
    found = json.loads(done.out)
    assert [bar["bar_end"] for bar in found] == ["2023-11-14T23:00:00Z", "2023-11-15T00:00:00Z"]
    assert found[0]["indicators"]["ema20"] == float(minutes(150)[45][4])  # the close of 22:59
    assert "1 refused: not ended" in done.err


async def test_a_picture(no_stack: StackProcess, tmp_path: Path) -> None:
    file, picture = write(tmp_path / "c.csv", rows()), tmp_path / "states.svg"
    done = await no_stack.cli("market", "replay", file, *HOURLY, "--plot", picture)
    assert done.status == 0
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 (we drew it)
    refused = await no_stack.cli("market", "replay", file, *HOURLY, "--plot", tmp_path / "states.txt")
    assert "was not written" in refused.sentence()


async def test_what_cannot_be_replayed(no_stack: StackProcess, tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", minutes(100))
    wrong = await no_stack.cli("market", "replay", file, *HOURLY)
    assert "its candles start 1m apart, not 1h: --interval 1m?" in wrong.sentence()
    longer = await no_stack.cli("market", "replay", file, *HOURLY, "--interval", "1d")
    assert longer.status == 2
    assert "must divide 1h evenly" in longer.err
    for args in (("--driver", "DOGE", "--timeframe", "1h"), ("--driver", "BTC", "--timeframe", "5m")):
        done = await no_stack.cli("market", "replay", file, *args)
        assert done.status == 2
    worthless = write(tmp_path / "w.csv", [[T0 + 60 * i, 0, 0, 0, 0, 1] for i in range(5)])
    none = await no_stack.cli("market", "replay", worthless, "--driver", "BTC", "--timeframe", "1m", "--json")
    assert none.status == 1
    assert none.out == ""
    assert "no bar that could be used" in none.err
