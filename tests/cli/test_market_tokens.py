"""``market tokens``: import, list, and what is told at the terminal."""

from pathlib import Path

from tests.faults.stack_process import StackProcess

TOKENS = ("market", "tokens")
TABLE = """asset,bucket,valid_from,valid_to
CLI-TOKEN-A,nano,2026-01-01T00:00:00Z,
CLI-TOKEN-B,huge,2026-01-01T00:00:00Z,
CLI-TOKEN-C,nano,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z
"""


async def test_import_and_list(stack: StackProcess, tmp_path: Path) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text(TABLE)
    told = await stack.cli(*TOKENS, "import", file)
    assert (told.status, told.err) == (1, "refused: row 1: bucket: must be one of nano, small, mid, big\n")
    assert told.out.startswith(
        "2 rows recorded, 0 were on record. Indices of the buckets are computed anew from 2026-01"
    )
    again = await stack.cli(*TOKENS, "import", "-", "--json", stdin=TABLE)
    assert again.status == 1
    assert {name: again.json()[name] for name in ("recorded", "already_recorded", "ended", "changed_from")} == {
        "recorded": 0, "already_recorded": 2, "ended": 0, "changed_from": None,
    }  # fmt: skip
    found = [
        one for one in await stack.json(*TOKENS, "list", "--bucket", "nano") if one["asset"].startswith("CLI-TOKEN")
    ]
    assert found == [
        {"id": f"{asset}@2026-01-01T00:00:00.000000Z", "asset": asset, "bucket": "nano",
         "valid_from": "2026-01-01T00:00:00Z", "valid_to": end, "candles_until": None}
        for asset, end in (("CLI-TOKEN-A", None), ("CLI-TOKEN-C", "2026-02-01T00:00:00Z"))
    ]  # fmt: skip
    shown = await stack.cli(*TOKENS, "list", "--as-of", "2026-03-01T00:00:00Z")
    assert "CLI-TOKEN-A" in shown.out
    assert "until further notice" in shown.out
    assert "have no one-minute candles" in shown.out
    assert "CLI-TOKEN-C" not in shown.out
    before = await stack.cli(*TOKENS, "list", "--bucket", "mid", "--as-of", "2020-01-01T00:00:00Z")
    assert before.out == (
        "No tokens of mid on record as of 2020-01-01 00:00 UTC: 'closeloop market tokens import FILE' says which there "
        "are.\n"
    )


async def test_called_wrongly(no_stack: StackProcess, tmp_path: Path) -> None:
    file = tmp_path / "tokens.csv"
    file.write_text("name\nA\n")
    assert (await no_stack.cli(*TOKENS, "list", "--bucket", "huge")).status == 2
    assert (await no_stack.cli(*TOKENS, "import", tmp_path / "none")).status == 2
