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


async def test_other_weights_are_proposed_approved_and_reverted(stack: StackProcess, tmp_path: Path) -> None:
    name, of_book = "market-drivers", ("--book", "market-drivers")
    file = tmp_path / "closes.jsonl"
    file.write_text("\n".join(each.model_dump_json(exclude_unset=True) for each in switching(name, 480)))
    assert (await stack.cli("import", "jsonl", file)).status == 0
    assert "nobody has decided otherwise" in (await stack.cli("market", "drivers", *of_book)).out
    told = await stack.cli("market", "propose", *of_book)
    assert "closeloop approvals approve drivers/market-drivers/1 --by NAME" in told.out, told
    assert "drivers/market-drivers/1" in (await stack.cli("approvals", "list")).out
    approved = await stack.cli("approvals", "approve", "drivers/market-drivers/1", "--by", "ann", "--note", "a try")
    assert approved.status == 0, approved
    found = json.loads((await stack.cli("market", "drivers", *of_book, "--json")).out)
    assert (found["weights"]["BTC"], found["operator"], found["note"]) == (1.25, "ann", "a try")
    assert (
        "proposal drivers/market-drivers/1, approved by ann: a try"
        in (await stack.cli("market", "drivers", *of_book)).out
    )
    assert "from now on" in (await stack.cli("market", "revert", *of_book, "--by", "bob")).out
    assert "has them already" in (await stack.cli("market", "revert", *of_book, "--by", "bob")).out
    assert "decided by bob" in (await stack.cli("market", "drivers", *of_book)).out
