"""Research from the command line, by statistics and by a model."""

import json
import re
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from tests.closes import message
from tests.faults.stack_process import StackProcess
from tests.gateways.messages_api import KEY, MessagesApi, messages_api
from tests.workflows.test_llm_research import both_levels


async def closed(stack: StackProcess, book: str, position: str = "p-1", **changes: object) -> None:
    sent = json.dumps(message(book, position, **changes))
    assert (await stack.json("positions", "close", "-", stdin=sent))["closed"]


async def test_without_a_key_statistics_sign(stack: StackProcess) -> None:
    await closed(stack, "cli-research", symbol="[bold]BTC")
    lines = "\n".join(json.dumps(message("cli-research", f"old-{i}")) for i in range(3))
    await stack.json("import", "jsonl", "-", stdin=lines)

    report = await stack.json("research", "run", "--book", "cli-research")
    assert report["books"]["cli-research"]["trades"] == 1  # of the import, nothing
    again = await stack.cli("research", "run", "--book", "cli-research")
    assert (again.status, again.out.strip()) == (0, "research: 0 trades read, 0 hypotheses tested, 0 given up")

    rows = await stack.json("research", "list", "--book", "cli-research")
    assert [(row["kind"], row["level"], row["model"], row["position_id"]) for row in rows] == [
        ("observation", 1, "statistics", "p-1"),
        ("report", 2, "statistics", None),
    ]
    assert all(row["cost_usd"] == "0" for row in rows)
    [report_row] = await stack.json(
        "research", "list", "--book", "cli-research", "--kind", "report", "--status", "stated"
    )
    assert report_row == rows[1]
    assert await stack.json("research", "list", "--book", "cli-research", "--status", "given_up") == []
    assert await stack.json("research", "show", rows[0]["id"]) == rows[0]
    text = (await stack.cli("research", "list", "--book", "cli-research")).out
    assert "[bold]BTC long won (+2.00 R)" in re.sub(r"\s+", " ", text)
    text = (await stack.cli("research", "show", rows[0]["id"])).out
    assert "by statistics" in text
    assert "tags: win, long" in text

    mine = ("research", "list", "--book", "cli-research")
    assert await stack.json(*mine, "--before", rows[-1]["id"], "--last", "1") == rows[-2:-1]
    assert await stack.json(*mine, "--before", rows[0]["id"]) == []
    for unknown in ("999999999", "x"):
        assert f"no research with the id {unknown}" in (await stack.cli(*mine, "--before", unknown)).sentence()

    status = await stack.json("research", "status")
    assert (status["model"], status["calls_today"], status["spent_today_usd"]) == ("statistics", 0, "0")
    text = (await stack.cli("research", "status", ANTHROPIC_API_KEY="sk-of-the-command")).out
    assert f"worker {stack.child('worker').pid}@" in text
    assert "no model is asked" in text  # the worker has no key, whatever the command has


async def test_as_of(stack: StackProcess) -> None:
    await closed(stack, "cli-as-of")
    before = await stack.json("research", "run", "--book", "cli-as-of", "--as-of", "2025-12-31T00:00:00Z")
    assert before["books"]["cli-as-of"]["trades"] == 0
    after = await stack.json("research", "run", "--book", "cli-as-of", "--as-of", "2026-01-02T00:00:00Z")
    assert after["books"]["cli-as-of"]["trades"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--as-of", "2026-01-01T00:00:00"),
        ("run", "--as-of", "now"),
        ("run", "--book", "no such name!"),
        ("list", "--kind", "rumour"),
        ("list", "--status", "true"),
        ("show", "x"),
        ("show",),
    ],
)
async def test_called_wrongly(arguments: tuple[str, ...], stack: StackProcess) -> None:
    assert (await stack.cli("research", *arguments)).status == 2


async def test_there_is_no_such_row(stack: StackProcess) -> None:
    assert "no research with the id 999999999" in (await stack.cli("research", "show", "999999999")).sentence()


async def test_without_a_stack(no_stack: StackProcess) -> None:
    for command in (("run",), ("list",), ("show", "1"), ("status",)):
        assert "closeloop dev" in (await no_stack.cli("research", *command)).sentence()


SETTINGS = {
    "a model without its price": ({"CLOSELOOP_LLM_MODEL": "another"}, "CLOSELOOP_LLM_INPUT_USD_PER_MILLION"),
    "no such file": ({"ANTHROPIC_API_KEY_FILE": "/no/such/file"}, "file of the API key cannot be read"),
    "no URL": ({"CLOSELOOP_LLM_BASE_URL": "ftp://x"}, "must be a URL"),
    "a key of two lines": ({"ANTHROPIC_API_KEY": "sk-secret\nsk-other"}, "one line of ASCII"),
    "a negative budget": ({"CLOSELOOP_LLM_BUDGET_USD_PER_DAY": "-1"}, "greater than or equal to 0"),
    "no number": ({"CLOSELOOP_LLM_BUDGET_USD_PER_DAY": "nan"}, "finite"),
}


@pytest.mark.parametrize(("env", "said"), SETTINGS.values(), ids=SETTINGS.keys())
async def test_a_setting_that_cannot_be_used(env: dict[str, str], said: str, stack: StackProcess) -> None:
    command = await stack.begin("worker", **env)
    sentence = (await command.result()).sentence()
    assert said in sentence
    assert "sk-" not in sentence


@pytest.fixture
async def api() -> AsyncIterator[MessagesApi]:
    async with messages_api() as api:
        api.otherwise = both_levels
        yield api


async def test_a_stack_with_a_model(
    api: MessagesApi, new_stack: Callable[[], StackProcess], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """``closeloop dev`` with a key in a file: asked, paid, shown; the key is nowhere to be read."""
    key = tmp_path_factory.mktemp("secrets") / "key"
    key.write_text(f"{KEY}\n")
    env = {
        "ANTHROPIC_API_KEY_FILE": str(key),
        "CLOSELOOP_LLM_BASE_URL": api.url,
        "CLOSELOOP_LLM_MODEL": "claude-test",
        "CLOSELOOP_LLM_INPUT_USD_PER_MILLION": "3",
        "CLOSELOOP_LLM_OUTPUT_USD_PER_MILLION": "15",
        "CLOSELOOP_LLM_BUDGET_USD_PER_DAY": "0.5",
    }
    stack = new_stack()
    await stack.start(**env)
    await closed(stack, "b")
    report = await stack.json("research", "run")
    assert report["books"]["b"]["trades"] == 1
    rows = await stack.json("research", "list")
    assert [(row["model"], row["cost_usd"]) for row in rows] == [("claude-test", "0.006")] * 2
    status = await stack.json("research", "status")  # the worker's word: the command is given no such settings
    assert status == {
        "model": "claude-test",
        "budget_usd_per_day": "0.5",
        "spent_today_usd": "0.012",
        "left_today_usd": "0.488",
        "calls_today": 2,
        "outcomes_today": {"answered": 2},
        "workers": {
            f"{stack.child('worker').pid}@{socket.gethostname()}": {
                "model": "claude-test",
                "key_present": True,
                "budget_usd_per_day": "0.5",
            }
        },
    }
    assert KEY not in (await stack.cli("status", "--json")).out + (await stack.cli("research", "status")).out
    text = (await stack.cli("research", "show", rows[0]["id"])).out
    assert "1000 tokens in, 200 out, 0.0060 USD" in text
    for file in (stack.home / "logs").rglob("*"):
        assert KEY not in file.read_text(errors="replace"), file
