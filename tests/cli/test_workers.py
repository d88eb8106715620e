"""Two workers with different policies do not mix their results without a word."""

import socket
from pathlib import Path

from closeloop.models.policy import KarmaPolicy, LearningPolicy
from tests.faults.stack_process import StackProcess
from tests.waiting import until

OURS, THEIRS = LearningPolicy(), LearningPolicy(karma=KarmaPolicy(alpha=0.1))


async def test_a_worker_with_another_policy(stack: StackProcess, tmp_path: Path) -> None:
    first = f"{stack.child('worker').pid}@{socket.gethostname()}"
    status = await stack.json("status")
    assert [worker["policy_hash"] for worker in status["running_workers"]] == [OURS.policy_hash]
    assert status["policies"]["policies"] == [{"policy_hash": OURS.policy_hash, "workers": [first]}]
    assert "policies:" not in (await stack.cli("status")).out
    rebuilt = await stack.cli("karma", "rebuild")
    assert f"{OURS.policy_hash}: karma.alpha 0.05, karma.start 1" in rebuilt.out or "no books" in rebuilt.out

    policy = tmp_path / "policy.yaml"
    policy.write_text("karma: {alpha: 0.1}\n")
    other = await stack.begin("worker", CLOSELOOP_POLICY=str(policy))

    async def two() -> bool:
        return len((await stack.json("status"))["running_workers"]) == 2

    await until("the second worker is on record", two)
    second = f"{other.process.pid}@{socket.gethostname()}"
    status, text, rebuilt = await stack.json("status"), await stack.cli("status"), await stack.cli("karma", "rebuild")
    used = {use["policy_hash"]: use["workers"] for use in status["policies"]["policies"]}
    assert used == {OURS.policy_hash: [first], THEIRS.policy_hash: [second]}
    assert list(status["policies"]["differ"]) == ["karma.alpha"]
    for said in ("2 different policies", OURS.policy_hash, THEIRS.policy_hash, first, second, "CLOSELOOP_POLICY"):
        assert said in text.out
    assert text.status == 0  # everything is up
    assert "2 different policies" in rebuilt.err

    other.process.terminate()

    async def one() -> bool:
        return len((await stack.json("status"))["running_workers"]) == 1

    await until("the second worker has ended", one)
    assert "policies:" not in (await stack.cli("status")).out
