"""``market levers`` on a file of states: a document, a table that adds up by hand, and refusals."""

import json
from pathlib import Path

import pytest

from tests.faults.stack_process import StackProcess
from tests.learning.market.golden import golden

EXAMPLE = golden("levers")[0]
NANO = ("market", "levers", "--bucket", "nano", "--timeframe", "1h")


@pytest.fixture
def states(tmp_path: Path) -> Path:
    file = tmp_path / "states.json"
    file.write_text(json.dumps(EXAMPLE["states"]))
    return file


async def test_the_worked_example(no_stack: StackProcess, states: Path) -> None:
    found = (await no_stack.cli(*NANO, "--states", states, "--json")).json()
    assert (found["A"], found["E"]) == pytest.approx((0.533, 0.6425))
    assert found["regime"] == pytest.approx({"A": 0.033, "E": 0.1425})
    assert found["intent"] == {"A": 0.0, "E": 0.0}
    alt = found["contributions"][1]
    assert {name: alt[name] for name in ("driver", "timeframe", "state", "flags", "transition")} == {
        "driver": "ALT", "timeframe": "1h", "state": "S1", "flags": ["buy_signal"], "transition": None,
    }  # fmt: skip
    assert (alt["weight"], alt["dA"], alt["dE"]) == pytest.approx((0.33, 0.1485, -0.0825))
    assert alt["parts"][1] == {"name": "S1+buy_signal", "dA": 0.2, "dE": -0.1}


async def test_the_table_adds_up_by_hand(no_stack: StackProcess, states: Path) -> None:
    context = '{"rank": 1, "slope": 0.1, "confidence": 0.8}'
    told = await no_stack.cli(*NANO, "--states", states, "--intent", "hi_buy=0.4", "--context", context)
    assert told.status == 0, told
    rows = [line.split("│")[1:-1] for line in told.out.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    drivers, sums = [row for row in cells if row[0]], {row[2]: row for row in cells if not row[0]}
    assert [row[:3] for row in drivers] == [
        ["BTC", "1d", "S3"], ["ALT", "1h", "S1, S1+buy_signal"], ["nano", "1h", "S3, S3+trim_flag"],
        ["USDT.d", "1d", "S1"],
    ]  # fmt: skip
    for points, total in ((3, 6), (4, 7)):
        assert all(float(row[points]) * float(row[5]) == pytest.approx(float(row[total])) for row in drivers)
        of_drivers = sum(float(row[total]) for row in drivers)
        assert float(sums["sum of the drivers"][total]) == pytest.approx(of_drivers)
        whole = of_drivers + float(sums["+ intent"][total]) + float(sums["+ neutral"][total])
        assert float(sums["before limits"][total]) == pytest.approx(whole)
    assert "A = 0.633000 x 1.1600 of the bucket = 0.734280" in told.out
    assert "adding nothing: BTC/1h, BTC/1m" in told.out


async def test_nothing_known(no_stack: StackProcess) -> None:
    told = await no_stack.cli(*NANO, "--states", "-", stdin="[]")
    assert "No driver has a state" in told.out
    assert "Position size: 35.00 %" in told.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--bucket", "huge", "--timeframe", "1h"), "nano, small, mid, big"),
        (("--bucket", "nano", "--timeframe", "2h"), "1m, 5m, 15m, 1h, 4h, 1d"),
        (("--timeframe", "1h", "--intent", "buy=1"), "hi_buy, med_buy, profit, sell, mock"),
    ],
)
async def test_what_there_is_not(no_stack: StackProcess, arguments: tuple[str, ...], said: str) -> None:
    assert said in (await no_stack.cli("market", "levers", *arguments)).sentence()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--intent", "sell"), "NAME=VALUE"),
        (("--intent", "sell=2"), "sell"),
        (("--intent", "sell=1", "--intent", "sell=0"), "twice"),
        (("--context", "{"), "--context"),
        (("--context", '{"rank": 0}'), "rank"),
        (("--states", "-"), "prev_sate"),
        (("--states", "-", "--as-of", "2026-01-01T00:00:00Z"), "--as-of"),
        (("--tokens", "-"), "--timeframe"),
    ],
)
async def test_called_wrongly(no_stack: StackProcess, arguments: tuple[str, ...], said: str) -> None:
    wrong = '[{"driver": "BTC", "timeframe": "1h", "state": "S1", "prev_sate": "S3"}]'
    found = await no_stack.cli("market", "levers", "--timeframe", "1h", *arguments, stdin=wrong)
    assert (found.status, found.out) == (2, ""), found
    assert said in found.err


async def test_levers_of_many_tokens(stack: StackProcess) -> None:
    lines = ['{"token": "A", "bucket": "nano", "timeframe": "1h"}', '{"token": "B", "timeframe": "7h"}', "{"]
    asked = ("market", "levers", "--tokens", "-")
    found = await stack.cli(*asked, "--json", stdin="\n".join(lines))
    assert found.status == 1
    assert [each["token"] for each in found.json()["tokens"]] == ["A"]
    assert found.json()["tokens"][0]["levers"]["A"] == 0.5
    assert [each["index"] for each in found.json()["refused"]] == [1, 2]
    assert "line 2 (B): there is no timeframe '7h'" in found.err
    told = await stack.cli(*asked, stdin=lines[0])
    assert (told.status, "│ A " in told.out) == (0, True), told


async def test_a_timeframe_has_to_be_said(no_stack: StackProcess) -> None:
    found = await no_stack.cli("market", "levers", "--bucket", "nano")
    assert (found.status, "--timeframe" in found.err) == (2, True)
