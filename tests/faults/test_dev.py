"""``closeloop dev`` starts, stops, refuses to start, and recovers from ``kill -9``."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from tests.faults.stack_process import StackProcess, alive, names
from tests.faults.trades import assert_attributed_once, start_close, trades
from tests.waiting import until

NewStack = Callable[[], StackProcess]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL changes its user only when started as root")


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[StackProcess]:
    """One home for tests that leave it in order, whose name has a blank and an umlaut."""
    stack = StackProcess()
    stack.move("a home of trödel")
    try:
        yield stack
    finally:
        await stack.close()


@pytest.fixture
async def stack(shared: StackProcess) -> StackProcess:
    """The same, running."""
    return shared if shared.running else await shared.start()


def assert_nothing_left(stack: StackProcess, before: list[psutil.Process]) -> None:
    assert names([process for process in before if alive(process)]) == []
    assert names(stack.family()) == []
    assert stack.listening() == []


async def test_it_says_when_it_is_ready(stack: StackProcess) -> None:
    assert [line.split()[0] for line in stack.lines[:6]] == [
        *("postgres", "schema", "temporal", "schedules", "worker", "ready")
    ]
    assert [line for line in stack.lines if line.startswith("ready")] == [stack.lines[5]]
    url = f"http://127.0.0.1:{stack.ports['ui']}"
    assert url in stack.lines[5]
    with await asyncio.to_thread(urlopen, url) as page:
        assert page.status == 200
    assert stack.listening() == ["temporal", "ui", "postgres"]
    assert stack.errors == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_signal_stops_every_child_and_the_data_stays(stack: StackProcess, number: signal.Signals) -> None:
    row = trades(f"kept-{number.name}", 1)[0]
    report = await (await start_close(await stack.client(), row)).result()
    everyone = stack.family()
    assert len(everyone) > 4
    result = await stack.stop(number)
    assert (result.status, result.err) == (0, "")
    assert_nothing_left(stack, everyone)

    await stack.start()
    assert await stack.json("outcomes", "--book", row["book"]) == [report["outcome"]]
    client = await stack.client()
    name = f"position-close/{row['book']}/{row['position_id']}/{row['closed_at']}"
    assert await client.get_workflow_handle(name).result() == report
    assert (await (await start_close(client, row)).result())["already_attributed"] is True
    await assert_attributed_once(stack, row["book"], [row])


async def test_supervisor_killed_alone(stack: StackProcess) -> None:
    """Its children live on (they get no signal); the next start ends them and takes over their ports and data."""
    row = trades("orphaned", 1)[0]
    await (await start_close(await stack.client(), row)).result()
    children = [stack.child(name) for name in ("postgres", "temporal", "worker")]
    os.kill(stack.pid, signal.SIGKILL)
    assert (await stack.result()).status == -signal.SIGKILL
    assert all(alive(child) for child in children)
    assert stack.listening() == ["temporal", "ui", "postgres"]

    await stack.start()
    assert names([child for child in children if alive(child)]) == []
    assert {child.pid for child in psutil.Process(stack.pid).children()}.isdisjoint(child.pid for child in children)
    await assert_attributed_once(stack, "orphaned", [row])
    await (await start_close(await stack.client(), row)).result()


async def test_a_second_stack_in_the_same_home(stack: StackProcess) -> None:
    other = await stack.begin("dev", *(x for n, p in stack.ports.items() for x in (f"--{n}-port", p + 1)))
    sentence = (await other.result()).sentence()
    assert str(stack.home) in sentence
    assert "--home" in sentence
    assert (await stack.json("status"))["up"] is True


async def test_a_port_in_use(new_stack: NewStack) -> None:
    async def refusal(stack: StackProcess, part: str) -> None:
        with socket.create_server(("127.0.0.1", stack.ports[part])):
            sentence = await stack.refused()
        assert f"--{part}-port" in sentence
        assert str(stack.ports[part]) in sentence

    async with asyncio.TaskGroup() as together:
        for part in ("temporal", "ui", "postgres"):
            together.create_task(refusal(new_stack(), part))


async def test_one_port_for_two_parts(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.ports["ui"] = stack.ports["temporal"]
    assert "-port" in await stack.refused()


async def test_a_home_that_is_a_file(new_stack: NewStack) -> None:
    stack = new_stack()
    stack.home.write_text("")
    sentence = await stack.refused()
    assert str(stack.home) in sentence
    assert "--home" in sentence
    below = await stack.cli("dev", "--home", stack.home / "below")
    assert "--home" in below.sentence()


async def test_a_start_leaves_processes_alone_that_only_name_its_home(new_stack: NewStack) -> None:
    """``sudo closeloop dev --home=X`` and ``closeloop --home=X import ...`` have the same word in their command."""
    stack = new_stack()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", f"--home={stack.home}"]
    bystander = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
    try:
        with socket.create_server(("127.0.0.1", stack.ports["ui"])):  # so that the start ends soon
            await stack.launch()
            await stack.result()
        assert bystander.returncode is None, f"it was ended with status {bystander.returncode}"
    finally:
        if bystander.returncode is None:
            bystander.kill()
        await bystander.communicate()


async def test_sigterm_during_the_start(new_stack: NewStack) -> None:
    async def stop_at(moment: str, stack: StackProcess) -> None:
        await stack.launch()
        if moment == "initdb":
            await until("initdb runs", (stack.home / "postgres.new" / "base").exists, every=0.005)
        else:
            await stack.until_line(moment)
        everyone = stack.family()
        assert len(everyone) > 1
        result = await stack.stop(signal.SIGTERM)
        assert (result.status, result.err) == (0, ""), moment
        assert not any(line.startswith("ready") for line in stack.lines)
        assert_nothing_left(stack, everyone)

    async with asyncio.TaskGroup() as together:
        for moment in ("initdb", "postgres", "temporal", "schedules"):
            together.create_task(stop_at(moment, new_stack()))


async def test_supervisor_killed_while_it_makes_the_cluster(new_stack: NewStack) -> None:
    """An ``initdb`` of the killed run goes on beside the next start, which must not trip over it."""
    stack = new_stack()
    await stack.launch()
    await until("initdb runs", (stack.home / "postgres.new" / "base").exists, every=0.005)
    os.kill(stack.pid, signal.SIGKILL)
    await stack.result()
    await stack.launch()
    await stack.until_line("schema")


@root_only
async def test_a_home_that_the_server_user_cannot_reach(new_stack: NewStack) -> None:
    fallback = Path("/var/lib/closeloop")
    existed, before = fallback.exists(), set(fallback.glob("*"))

    async def start_and_stop(stack: StackProcess, umask: int) -> None:
        stack.home.parent.chmod(0o700)
        await stack.launch(umask=umask)
        await stack.until_line("schedules")
        data = Path((await stack.cli("status", "--json")).json()["postgres"]["data"])
        stack.places.append(str(data))
        assert data.is_relative_to(fallback)
        assert (data / "PG_VERSION").exists()
        assert str(data) in stack.lines[0]
        assert (await stack.stop()).status == 0
        assert_nothing_left(stack, [])

    stacks = {umask: new_stack() for umask in (0o022, 0o077)}
    try:
        async with asyncio.TaskGroup() as together:
            for umask, stack in stacks.items():
                together.create_task(start_and_stop(stack, umask))
    finally:
        for stack in stacks.values():
            await stack.close()
        for made in set(fallback.glob("*")) - before:
            if not made.name.startswith("pginstall"):
                shutil.rmtree(made)
        if not existed and fallback.exists() and not any(fallback.iterdir()):
            fallback.rmdir()


async def test_what_the_environment_names_is_used_and_not_started(stack: StackProcess, new_stack: NewStack) -> None:
    second = new_stack()
    url = (await stack.cli("db", "url")).out.strip()
    address = f"127.0.0.1:{stack.ports['temporal']}"
    await second.start(DATABASE_URL=url, TEMPORAL_ADDRESS=address)
    assert [c.cmdline()[1:5] for c in psutil.Process(second.pid).children()] == [["-P", "-m", "closeloop", "worker"]]
    assert second.listening() == []
    assert (await second.stop()).status == 0
    assert (await stack.json("status"))["up"] is True


@pytest.mark.parametrize("url", ["postgresql://a:secret@127.0.0.1:9/c", "localhost/c"])
async def test_a_database_that_does_not_answer(new_stack: NewStack, url: str) -> None:
    sentence = await new_stack().refused(DATABASE_URL=url)
    assert "DATABASE_URL" in sentence
    assert "secret" not in sentence


async def test_a_wrong_password_for_the_database(stack: StackProcess, new_stack: NewStack) -> None:
    url = f"postgresql://closeloop:wrong@127.0.0.1:{stack.ports['postgres']}/closeloop"
    sentence = await new_stack().refused(DATABASE_URL=url)
    assert "DATABASE_URL" in sentence
    assert "wrong" not in sentence


async def test_temporal_address_at_which_nothing_answers(new_stack: NewStack) -> None:
    """It says that it starts a server of its own then; so it must come up on that one."""
    stack = await new_stack().start(TEMPORAL_ADDRESS="127.0.0.1:9")
    assert f"127.0.0.1:{stack.ports['temporal']}" in await stack.until_line("ready")


async def test_a_home_with_a_number_sign(new_stack: NewStack) -> None:
    """Temporal makes a URI of its file's name: what such a sign begins is no part of the path in there."""
    stack = new_stack()
    stack.move("run#1")
    await stack.launch()
    await stack.until_line("temporal")
    assert [path.name for path in stack.home.parent.iterdir()] == ["run#1"]
    assert (stack.home / "temporal.db").exists()


async def test_a_part_that_ends_again_and_again(stack: StackProcess) -> None:
    for count in range(1, 6):
        server = stack.child("temporal")
        server.kill()
        if count < 5:
            await stack.until_line("temporal  up again", count)
    result = await stack.result()
    assert "five times" in result.sentence()
    assert_nothing_left(stack, [])


# A worker that is broken when the file beside it says so: a start that is killed at once, or code that is not there.
BREAKING = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from pathlib import Path

how = Path(__file__).with_name("how")
if sys.orig_argv[-2:-1] == ["worker"] and how.exists():
    if how.read_text() == "kill":
        os.kill(os.getpid(), signal.SIGKILL)

    class Missing(MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "closeloop.workers.wiring":
                raise ImportError("the wiring is gone")

    sys.meta_path.insert(0, Missing())
"""


def servers(stack: StackProcess) -> list[int]:
    return [stack.child(name).pid for name in ("postgres", "temporal")]


async def test_settings_that_became_impossible(new_stack: NewStack, tmp_path: Path) -> None:
    """The worker is tried again, the servers stay, status says why and until when; once mended, work goes on."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("no_such_number: 1\n")
    stack = new_stack()
    assert "no_such_number" in await stack.refused(CLOSELOOP_POLICY=str(policy))
    assert stack.listening() == []

    policy.write_text("")
    await stack.start(CLOSELOOP_POLICY=str(policy))
    before = servers(stack)
    policy.write_text("no_such_number: 1\n")
    stack.child("worker").kill()
    assert "(SIGKILL" in await stack.until_line("worker    ended, ")
    lines = [await stack.until_line(f"worker    ended {n} times") for n in (2, 3)]
    assert all("exit status 1" in line and "no_such_number" in line for line in lines)
    status, text = await asyncio.gather(stack.cli("status", "--json"), stack.cli("status"))
    assert (status.status, text.status) == (1, 1)
    found = status.json()
    assert [found[part]["up"] for part in ("postgres", "schema", "temporal")] == [True] * 3
    ends = found["worker"]["ends"]
    assert ends["times"] >= 3
    assert (ends["how"], "no_such_number" in ends["last_line"]) == ("exit status 1", True)
    assert datetime.fromisoformat(ends["next_at"]) > datetime.fromisoformat(ends["ended_at"])
    assert ends["wait_seconds"] == 2.0 ** (ends["times"] - 1)
    assert "times in a row" in text.out
    assert "no_such_number" in text.out
    assert servers(stack) == before

    policy.write_text("")
    await stack.until_line("worker    up again")
    row = trades("mended", 1)[0]
    await (await start_close(await stack.client(), row)).result()
    await assert_attributed_once(stack, "mended", [row])
    after = await stack.json("status")
    assert after["worker"]["ends"]["next_at"] is None
    assert after["worker"]["ends"]["times"] >= 3
    assert servers(stack) == before


@pytest.mark.parametrize(("how", "said"), [("kill", "SIGKILL, without a word"), ("import", "the wiring is gone")])
async def test_a_worker_that_never_comes_up(new_stack: NewStack, tmp_path: Path, how: str, said: str) -> None:
    """What is no wrong setting takes nothing down, also at the first start; Ctrl-C between two attempts is clean."""
    (tmp_path / "sitecustomize.py").write_text(BREAKING)
    (tmp_path / "how").write_text(how)
    stack = new_stack()
    await stack.start(PYTHONPATH=str(tmp_path))
    assert "No worker runs yet" in await stack.until_line("ready")
    assert said in await stack.until_line("worker    ended, ")
    before = servers(stack)
    await stack.until_line("worker    ended 3 times")
    assert servers(stack) == before
    ends = (await stack.cli("status", "--json")).json()["worker"]["ends"]
    assert said in f"{ends['how']}, {ends['last_line'] or 'without a word'}"
    everyone = stack.family()
    result = await stack.stop()
    assert (result.status, result.err) == (0, "")
    assert_nothing_left(stack, everyone)

    (tmp_path / "how").unlink()
    await stack.start(PYTHONPATH=str(tmp_path))
    assert "No worker" not in await stack.until_line("ready")
    assert (await stack.json("status"))["worker"]["ends"] is None


async def test_a_demo_that_is_ended_takes_its_stack_with_it(new_stack: NewStack) -> None:
    stack = new_stack()
    demo = await stack.begin("demo")
    await until("the demo's worker", lambda: any("worker" in p.cmdline() for p in stack.family()), every=0.1)
    everyone = stack.family()
    demo.process.terminate()
    await demo.result()
    assert names([process for process in everyone if alive(process)]) == []


async def test_a_schema_newer_than_the_code(stack: StackProcess) -> None:
    revision = (await stack.sql("SELECT version_num FROM alembic_version"))[0][0]
    await stack.sql("UPDATE alembic_version SET version_num = '9999'")
    status = await stack.cli("status", "--json")
    assert status.status == 1
    assert status.json()["schema"] == {
        "up": False,
        "reason": None,
        "needed": revision,
        "revision": "9999",
        "newer": True,
    }
    assert "newer" in (await stack.cli("db", "upgrade")).sentence()
    await stack.stop()
    sentence = await stack.refused()
    assert "newer" in sentence
    assert "9999" in sentence
    assert stack.listening() == []
