"""``market evidence``: what cannot be said comes first, then a table; an empty book gets a sentence."""

import json
from pathlib import Path

from tests.faults.stack_process import StackProcess
from tests.services.test_market_evidence import switching


async def test_what_cannot_be_said_comes_first(stack: StackProcess, tmp_path: Path) -> None:
    file = tmp_path / "closes.jsonl"
    file.write_text("\n".join(each.model_dump_json(exclude_unset=True) for each in switching("market-evidence", 240)))
    assert (await stack.cli("import", "jsonl", file)).status == 0
    asked = ("market", "evidence", "--book", "market-evidence")
    told = await stack.cli(*asked)
    assert told.status == 0, told
    assert told.out.startswith("This cannot say:\n- what trades would have made that were not opened"), told.out
    assert "240 trades with states (240 sent them" in told.out
    [row] = [line for line in told.out.splitlines() if "│ S3 " in line]
    assert "10 / 10" in row
    assert "told from noise" in row
    found = json.loads((await stack.cli(*asked, "--json")).out)
    assert [each["state"] for each in found["states"]] == ["S0", "S3"]
    before = await stack.cli(*asked, "--as-of", "2020-01-01T00:00:00Z")
    assert "no closed trade whose R is known as of 2020-01-01" in before.out
