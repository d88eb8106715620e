"""``market history``: stretches of one state, and the picture of price, states, A and E."""

from decimal import Decimal
from pathlib import Path

from closeloop.models.market import Driver, RegimeBar, Timeframe
from closeloop.store.database import Sessions
from closeloop.store.rows import execute, insertion
from tests.cli.markets import NOON, market_of
from tests.faults.stack_process import StackProcess
from tests.services.markets import put_state

HISTORY = ("market", "history", "--until", "2026-05-04T12:00:30Z")
BTC = ("--driver", "BTC", "--timeframe", "1h")
STEP = Timeframe.h1.step


async def course(sessions: Sessions) -> None:
    names = [None] * 2 + ["S1"] * 3 + ["S3"] * 4
    rows = [
        {
            "driver": "BTC",
            "timeframe": "1h",
            "timestamp": NOON - (len(names) - place) * STEP,
            **dict.fromkeys(("open_usd", "high_usd", "low_usd", "close_usd"), Decimal(100 + place)),
        }
        for place in range(len(names))
    ]
    async with sessions.begin() as session:
        await execute(session, insertion(RegimeBar, rows))
    for place, name in enumerate(names):
        end = NOON - (len(names) - 1 - place) * STEP
        before = names[place - 1] if place else None
        await put_state(sessions, Driver.btc, Timeframe.h1, end, name, prev_state=before, flags=["trim_flag"])


async def test_history_and_its_picture(stack: StackProcess, no_stack: StackProcess, tmp_path: Path) -> None:
    picture = tmp_path / "btc.svg"
    async with market_of(stack) as (dsn, sessions):
        empty = await no_stack.cli(*HISTORY, DATABASE_URL=dsn)
        nothing = await no_stack.cli(*HISTORY, *BTC, "--plot", picture, DATABASE_URL=dsn)
        await course(sessions)
        found = (
            await no_stack.cli(*HISTORY, *BTC, "--plot", picture, "--bucket", "nano", "--json", DATABASE_URL=dsn)
        ).json()
        told = await no_stack.cli(*HISTORY, "--last", "1", DATABASE_URL=dsn)
        huge = await no_stack.cli(*HISTORY, *BTC, "--plot", picture, "--bucket", "huge", DATABASE_URL=dsn)
        nowhere = await no_stack.cli(*HISTORY, *BTC, "--plot", tmp_path / "no" / "btc.svg", DATABASE_URL=dsn)
    assert (empty.status, empty.out[:38]) == (0, "No states from then until 2026-05-04 1")
    assert (nothing.status, "no bars of BTC 1h" in nothing.err) == (1, True)
    assert [(one["state"], one["prev_state"], one["from"], one["to"], one["bars"]) for one in found] == [
        ("S1", None, "2026-05-04T05:00:00Z", "2026-05-04T08:00:00Z", 3),
        ("S3", "S1", "2026-05-04T08:00:00Z", "2026-05-04T12:00:00Z", 4),
    ]
    assert found[1]["flags"] == {"trim_flag": 4}
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    for said in ("S1 early uptrend", "S3 uptrend", "A, aggressiveness", "BTC 1h; A and E of nano, traded on 1h"):
        assert f"<!-- {said} -->" in drawn, said
    [row] = [line for line in told.out.splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "BTC", "1h", "2026-05-04 08:00", "2026-05-04 12:00", "4", "S3 uptrend", "S1", "trim_flag 4", "",
    ]  # fmt: skip
    assert (huge.status, "nano, small, mid, big" in huge.err) == (1, True)
    assert (nowhere.status, "was not written" in nowhere.err) == (1, True)


async def test_called_wrongly(no_stack: StackProcess) -> None:
    for arguments, said in (
        (("--plot", "x.svg"), "is of one --driver and one --timeframe"),
        (("--bucket", "nano"), "goes with --plot"),
        (("--traded", "1h"), "goes with --plot"),
    ):
        told = await no_stack.cli(*HISTORY, *arguments)
        assert (told.status, said in told.err) == (2, True), told
