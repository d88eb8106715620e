"""The HTTP door of ``closeloop dev``: its URL, its token, its death, ``closeloop status``, and an example's engine."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.faults.stack_process import ROOT, StackProcess
from tests.waiting import eventually, until


@pytest.fixture(scope="module")
async def stack() -> AsyncIterator[StackProcess]:
    stack = StackProcess(with_api=True)
    try:
        yield await stack.start()
    finally:
        await stack.close()


def url_of(stack: StackProcess) -> str:
    [ready] = [line for line in stack.lines if line.startswith("ready")]
    found = re.search(r"http://127\.0\.0\.1:\d+", ready[ready.index("API") :])
    assert found is not None, ready
    return found.group()


async def test_the_ready_line_names_it_and_the_token_is_its_owners(stack: StackProcess) -> None:
    assert url_of(stack) == f"http://127.0.0.1:{stack.ports['api']}"
    file = stack.home / "api.token"
    assert file.stat().st_mode & 0o77 == 0
    token = file.read_text().strip()
    async with httpx.AsyncClient(base_url=url_of(stack)) as client:
        assert (await client.get("/healthz")).json() == {"alive": True}
        assert (await client.get("/v1/books")).status_code == 401
        allowed = await client.get("/v1/books", headers={"Authorization": f"Bearer {token}"})
        assert allowed.status_code == 200
    [local] = await stack.json("tokens", "list")
    assert (local["name"], sorted(local["scopes"])) == ("local", ["ingest", "operate", "read"])


async def test_status_tells_of_it_also_when_it_hangs(stack: StackProcess) -> None:
    up = await stack.json("status")
    assert (up["up"], up["api"]["up"], up["api"]["url"]) == (True, True, url_of(stack))
    assert url_of(stack) in (await stack.cli("status")).out
    child = stack.child("api")
    child.suspend()
    try:
        hangs = await stack.cli("status", "--json")
        assert hangs.status == 1
        assert (hangs.json()["up"], hangs.json()["api"]["up"]) == (False, False)
        assert "does not answer" in hangs.json()["api"]["reason"]
    finally:
        child.resume()


async def test_killed_it_is_started_again_on_its_port_and_the_others_stay(stack: StackProcess) -> None:
    others = {name: stack.child(name).pid for name in ("postgres", "temporal", "worker")}
    before = stack.child("api").pid
    stack.child("api").kill()

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(base_url=url_of(stack)) as client:
                return (await client.get("/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    await until("it answers again", answers)
    assert stack.child("api").pid != before
    assert {name: stack.child(name).pid for name in others} == others


async def test_the_example_is_an_engine(stack: StackProcess, tmp_path: Path) -> None:
    token = (stack.home / "api.token").read_text().strip()
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "engine_http.py"), url_of(stack)],
        env={**os.environ, "CLOSELOOP_TOKEN": token, "PYTHONPATH": str(ROOT / "client")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    said = re.fullmatch(r"accepted (http-\S+)\n", ran.stdout)
    assert said is not None, ran.stdout
    # What it did not send before it ended, its spool holds.
    drained = subprocess.run(
        [sys.executable, "-m", "closeloop_client.command", "drain", "engine.spool", "--url", url_of(stack)],
        env={**os.environ, "CLOSELOOP_TOKEN": token, "PYTHONPATH": str(ROOT / "client")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert drained.returncode == 0, drained.stderr

    async def outcomes() -> list[str]:
        return [one["position_id"] for one in await stack.json("outcomes")]

    assert await eventually(outcomes, lambda found: said.group(1) in found) == [said.group(1)]
