"""``closeloop tokens``, and decisions by them on a stack whose policy asks for one."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.stack_process import StackProcess


@pytest.fixture(scope="module")
async def strict(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StackProcess]:
    """A stack whose workers take decisions with a token only."""
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text("approvals: {require_token: true}\n")
    stack = StackProcess(CLOSELOOP_POLICY=str(policy))
    try:
        yield await stack.start()
    finally:
        await stack.close()


async def proposed(stack: StackProcess, book: str) -> str:
    await stack.json("books", "add", book)
    await stack.json("meta", "propose", "--book", book)
    return f"meta/{book}/1"


async def test_no_tokens_yet(strict: StackProcess) -> None:
    """The first test of this stack."""
    assert "closeloop tokens add NAME --scope operate" in (await strict.cli("tokens", "list")).out
    assert await strict.json("tokens", "list") == []


async def test_a_decision_by_token(strict: StackProcess, tmp_path: Path) -> None:
    name = await proposed(strict, "tokens-a")
    bare = await strict.cli("approvals", "approve", name, "--by", "mallory")
    assert bare.status == 1
    for said in (
        "not accepted",
        "a token is needed",
        "CLOSELOOP_TOKEN",
        "closeloop tokens add NAME --scope operate",
    ):
        assert said in " ".join(bare.out.split())
    made = await strict.cli("tokens", "add", "ann", "--scope", "operate", "--book", "tokens-a", "--expires", "90d")
    secret = made.out.strip()
    assert secret.startswith("clp_")
    assert "shown this once" in made.err
    file = tmp_path / "token"
    file.write_text(f"{secret}\n")
    file.chmod(0o644)
    readable = await strict.cli("approvals", "approve", name, CLOSELOOP_TOKEN_FILE=str(file))
    assert f"chmod 600 {file}" in readable.sentence()
    file.chmod(0o600)
    other = await strict.cli("approvals", "approve", name, "--by", "bob", CLOSELOOP_TOKEN_FILE=str(file))
    assert "The token is that of ann: leave --by away" in other.sentence()
    approving = ("approvals", "approve", name, "--note", "fine", "--json")
    answer = (await strict.cli(*approving, CLOSELOOP_TOKEN_FILE=str(file))).json()
    assert (answer["accepted"], answer["operator"]) == (True, "ann")
    shown = await strict.json("approvals", "show", name)
    assert (shown["decision"]["operator"], shown["decision"]["token"]) == ("ann", secret.split("_")[1])
    assert f"known by the token {secret.split('_')[1]}; sent by " in (await strict.cli("approvals", "show", name)).out

    elsewhere = await proposed(strict, "tokens-b")
    not_for = await strict.cli("approvals", "approve", elsewhere, CLOSELOOP_TOKEN=secret)
    assert "not for book tokens-b: it is for tokens-a" in not_for.sentence()
    assert (await strict.json("approvals", "show", elsewhere))["state"] == "pending"
    assert (await strict.cli("tokens", "revoke", "ann")).out.startswith("The token ann (")
    revoked = await strict.cli("approvals", "reject", elsewhere, CLOSELOOP_TOKEN=secret)
    assert "The token ann was revoked at" in revoked.sentence()
    for path, _, files in os.walk(strict.home / "logs"):
        for log in files:
            assert secret.split("_", 2)[2] not in (Path(path) / log).read_text(errors="replace")
    assert secret.split("_", 2)[2] not in (await strict.cli("events")).out


async def test_tokens_are_listed_without_their_secrets(strict: StackProcess) -> None:
    made = await strict.json("tokens", "add", "lister", "--scope", "read", "--scope", "operate")
    listed = await strict.json("tokens", "list")
    [ours] = [view for view in listed if view["name"] == "lister"]
    assert ours == {key: value for key, value in made.items() if key != "token"}
    assert (ours["scopes"], ours["books"], ours["state"]) == (["read", "operate"], None, "valid")
    text = (await strict.cli("tokens", "list")).out
    assert "lister" in text
    assert made["token"] not in text
    again = await strict.cli("tokens", "add", "lister", "--scope", "read")
    assert "closeloop tokens revoke lister" in again.sentence()
    assert "no token nobody that could be revoked" in (await strict.cli("tokens", "revoke", "nobody")).sentence()


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "ann"),
        ("add", "ann", "--scope", "rule"),
        ("add", "", "--scope", "operate"),
        ("add", "ann\x1b[2J", "--scope", "operate"),
        ("add", "ann", "--scope", "operate", "--book", "no such name!"),
        ("add", "ann", "--scope", "operate", "--expires", "soon"),
        ("add", "ann", "--scope", "operate", "--expires", "2027-01-01T00:00:00"),
    ],
)
async def test_called_wrongly(arguments: tuple[str, ...], stack: StackProcess) -> None:
    assert (await stack.cli("tokens", *arguments)).status == 2
    assert "ann" not in [view["name"] for view in await stack.json("tokens", "list")]


async def test_somebody_has_to_decide(stack: StackProcess) -> None:
    for command in (("approvals", "approve", "meta/x/1"), ("weights", "revert", "x/2026-W15"), ("meta", "reject")):
        asked = await stack.cli(*command)
        assert asked.status == 2
        assert "--by" in asked.err
