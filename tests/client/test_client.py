"""The engine's client: it never raises, never waits, and what it accepted arrives once."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import CLIENT
from tests.client.servers import Recorder, nasty

from closeloop_client import Closeloop  # isort: skip
from closeloop_client.breaker import Breaker  # isort: skip
from closeloop_client.command import main  # isort: skip
from closeloop_client.spool import Spool, SpoolClosed, look  # isort: skip
from closeloop_client.transport import Transport, Unanswered  # isort: skip

PATIENCE = 60.0
NOBODY = "http://127.0.0.1:9"
TOKEN = "clp_x_y"
GOLDEN = [
    # t, call, allowed, state, open_until (s): three failures in a row, 30 s, a failed probe, 60 s, one that succeeds
    (0.0, "fail", True, "closed", 0.0),
    (1.0, "fail", True, "closed", 0.0),
    (2.0, "ok", True, "closed", 0.0),
    (3.0, "fail", True, "closed", 0.0),
    (4.0, "fail", True, "closed", 0.0),
    (5.0, "fail", True, "open", 35.0),
    (6.0, "ok", False, "open", 35.0),
    (35.0, "fail", True, "open", 95.0),
    (65.0, "ok", False, "open", 95.0),
    (96.0, "ok", True, "closed", 95.0),
    (97.0, "ok", True, "closed", 95.0),
]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOSELOOP_TOKEN", TOKEN)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def close(number: int) -> dict[str, Any]:
    return {"book": "b", "position_id": f"p-{number}", "symbol": "X", "realized_pnl": "1"}


def test_the_breaker_opens_after_three_failures_and_ever_longer() -> None:
    breaker = Breaker(jitter=lambda: 1.0)
    for t, call, allowed, state, open_until in GOLDEN:
        assert breaker.allows(t) == allowed, t
        if allowed and call == "ok":
            breaker.succeeded()
        elif allowed:
            breaker.failed(t)
        assert (breaker.state, breaker.open_until) == (state, open_until), t
    assert breaker.opens == 2


def test_a_probe_that_nobody_reports_on_counts_as_failed() -> None:
    breaker = Breaker(probe_seconds=10.0, jitter=lambda: 1.0)
    for t in range(3):
        breaker.failed(float(t))
    assert not breaker.allows(31.9)
    assert breaker.allows(32.0)
    assert breaker.state == "half_open"
    assert not breaker.allows(33.0)
    assert not breaker.allows(43.0)
    assert (breaker.state, breaker.open_until) == ("open", 103.0)


def test_what_is_accepted_arrives_once_and_in_order(recorder: Recorder, tmp_path: Path) -> None:
    with Closeloop(recorder.url, TOKEN, spool=str(tmp_path / "spool"), name="my engine;") as client:
        written = [client.close(close(number)) for number in range(1_200)]
        assert all(one.accepted for one in written)
        assert [one.id for one in written[:2]] == ["p-0", "p-1"]
        beat = client.heartbeat({"book": "b", "producer_id": "ta"})
        until(lambda: client.counters["spooled"] == 0)
        assert client.counters["sent"] == 1_201
    assert [name for kind, name in recorder.messages if kind == "positions"] == [f"p-{n}" for n in range(1_200)]
    assert ("heartbeats", beat.id) in recorder.messages
    assert recorder.accepted == 1_201
    method, path, headers = recorder.requests[0]
    assert (method, path, headers["Authorization"]) == ("POST", "/v1/batch", f"Bearer {TOKEN}")
    assert headers["Closeloop-Client"].split(";")[:3] == ["my_engine_", "closed", "0"]


@pytest.mark.parametrize(
    "mode", ["hang", "drip", "500", "429", "garbage", "redirect", "reset", "cut", "lie", "endless", "down"]
)
def test_beside_a_bad_server_nothing_raises_and_nothing_is_lost(mode: str, tmp_path: Path) -> None:
    url, server = (NOBODY, None) if mode == "down" else nasty(mode)
    client = Closeloop(url, TOKEN, spool=str(tmp_path / "spool"))
    for number in range(20):
        assert client.close(close(number)).accepted
        params, size = client.params("X", "bull"), client.size_multiplier("b", "p", "entry", {"chain": "solana"})
        weights, insights = client.weights("b"), client.insights()
        assert params == ({"discovery_threshold": 0.75, "confidence_multiplier": 0.8, "position_size_limit": 0.02},
                          True, None, None, None)  # fmt: skip
        assert (size.value, size.fallback, weights.value, weights.fallback) == (1.0, True, {}, True)
        assert insights.value["reason"] == "Learning system unavailable"
        time.sleep(0.01)
    if mode != "hang":
        until(lambda: client.counters["failed"] + client.counters["reads_failed"] > 0 or mode == "429")
    client.stop()
    assert look(str(tmp_path / "spool"))[0] == 20
    if server is not None:
        server.close()


def test_a_call_ends_at_its_deadline_though_bytes_drip_in() -> None:
    url, server = nasty("drip")
    began = time.monotonic()
    with pytest.raises(Unanswered, match="deadline"):
        Transport(url, TOKEN).ask("GET", "/v1/weights")
    assert time.monotonic() - began < 20  # its deadline is 2 s; the whole answer would take minutes
    server.close()


def test_reads_are_refreshed_behind_and_never_used_when_they_are_old(recorder: Recorder, tmp_path: Path) -> None:
    recorder.reads["/v1/weights"] = {"weights": {"onchain": 0.5, "social": 0.5}}
    recorder.reads["/v1/overrides:match"] = {"size_multiplier": 1.25}
    recorder.reads["/learning/intelligence/adaptive-params"] = {
        "success": True,
        "arm": "learned",
        "version": 3,
        "data": {"optimized_parameters": {"squeeze_weight": 0.2}},
    }
    recorder.reads["/learning/intelligence/pattern-insights"] = {"data": {}}
    client = Closeloop(recorder.url, TOKEN, spool=str(tmp_path / "spool"), max_age=1.0)
    assert client.weights("b").fallback
    until(lambda: not client.weights("b").fallback)
    assert client.weights("b").value == {"onchain": 0.5, "social": 0.5}
    until(lambda: not client.params("X", "bull").fallback)
    params = client.params("X", "bull")
    assert (params.value, params.arm, params.version) == ({"squeeze_weight": 0.2}, "learned", 3)
    until(lambda: client.size_multiplier("b", "p", "entry", {"b": "2", "a": "1"}).value == 1.25)
    until(lambda: not client.insights().fallback)
    until(lambda: client.weights("b") and client.counters["reads_unchanged"] > 0)
    assert any("scope=a%3D1%2Cb%3D2" in path for _, path, _ in recorder.requests)
    recorder.close()
    until(lambda: client.weights("b").fallback)
    old = client.weights("b")
    assert (old.value, old.age is not None and old.age > 1.0) == ({}, True)
    client.stop()


@pytest.mark.parametrize("answer", [{"weights": []}, {"weights": {"a": "b"}}, [], "x", {"weights": {"a": True}}])
def test_an_answer_of_another_shape_is_no_value(answer: Any, recorder: Recorder, tmp_path: Path) -> None:
    recorder.reads["/v1/weights"] = answer
    client = Closeloop(recorder.url, TOKEN, spool=str(tmp_path / "spool"), max_age=60.0)
    client.weights("b")
    until(lambda: client.counters["reads_failed"] > 0)
    assert client.weights("b").fallback
    client.stop()


def test_what_closeloop_refuses_is_kept_apart_with_the_reason(recorder: Recorder, tmp_path: Path) -> None:
    def refusing(method: str, path: str, body: Any) -> tuple[int, str, Any] | None:
        if any(item["id"] == "p-3" for item in body) and len(body) > 1:
            return 422, "application/problem+json", {"detail": "too odd"}
        if body[0]["id"] == "p-3":
            return 422, "application/problem+json", {"detail": "size: must be positive"}
        receipts = [recorder.receipt(item["kind"], item["id"], item["message"]) for item in body]
        for one in receipts:
            if one["id"] == "p-5":
                one |= {"status": "conflict", "reason": "differing: size"}
        return 202, "application/json", {"results": receipts}

    recorder.answer = refusing
    client = Closeloop(recorder.url, TOKEN, spool=str(tmp_path / "spool"))
    for number in range(8):
        client.close(close(number))
    until(lambda: client.counters["spooled"] == 0)
    client.stop()
    assert client.counters["refused"] == 2
    status = subprocess.run(
        [sys.executable, "-m", "closeloop_client.command", "status", str(tmp_path / "spool"), "--json"],
        capture_output=True, text=True, check=True, cwd=CLIENT,
    )  # fmt: skip
    told = json.loads(status.stdout)
    assert (told["spooled"], told["refused"]) == (0, 2)
    assert {one["reason"] for one in told["newest_refused"]} == {"size: must be positive", "conflict: differing: size"}


@pytest.mark.parametrize(
    "answer",
    [
        (401, "application/problem+json", {"detail": "revoked"}),
        (403, "application/problem+json", {"detail": "another book"}),
        (404, "text/html", "nothing here"),
        (413, "text/html", "a proxy's limit"),
        (202, "application/json", {"results": [{"id": "p-9", "status": "accepted"}]}),
        (202, "application/json", {"results": [{"id": "p-0", "status": "fine"}]}),
    ],
)
def test_only_a_receipt_of_its_own_takes_a_message_out(answer: Any, recorder: Recorder, tmp_path: Path) -> None:
    recorder.answer = lambda method, path, body: answer
    client = Closeloop(recorder.url, TOKEN, spool=str(tmp_path / "spool"))
    client.close(close(0))
    until(lambda: recorder.requests)
    time.sleep(0.3)
    assert (client.counters["spooled"], client.counters["refused"]) == (1, 0)
    client.stop()


def test_a_large_discovery_goes_by_itself(recorder: Recorder, tmp_path: Path) -> None:
    candidates = [{"symbol": f"S{n}", "note": "x" * 1_000} for n in range(1_500)]
    with Closeloop(recorder.url, TOKEN, spool=str(tmp_path / "spool")) as client:
        written = client.discovery({"candidates": candidates})
        assert written.accepted
        until(lambda: client.counters["spooled"] == 0)
    assert recorder.requests[0][1] == "/learning/collect/discovery-data"
    assert recorder.messages["discovery-data", written.id]["candidates"] == candidates


def test_a_full_spool_refuses_the_new_one(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "spool"), most_items=2, most_bytes=10_000)
    assert [spool.put("positions", close(n))[1] for n in range(3)] == [None, None, "the spool is full"]
    assert [item.id for item in spool.head(10, 10_000)] == ["p-0", "p-1"]
    by_bytes = Spool(str(tmp_path / "bytes"), most_items=10, most_bytes=100)
    assert by_bytes.put("positions", close(1) | {"note": "x" * 200})[1] == "the spool is full"


@pytest.mark.parametrize("message", [None, 3, {"a": float("nan")}, {"a": object()}, {"a": "x" * 5_000_000}])
def test_what_cannot_be_sent_is_not_accepted(message: Any, tmp_path: Path) -> None:
    client = Closeloop(NOBODY, TOKEN, spool=str(tmp_path / "spool"))
    written = client.close(message)
    assert (written.accepted, bool(written.reason)) == (False, True)
    client.stop()


def test_a_client_in_trouble_still_answers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url, spool in (("ftp://x", tmp_path / "a"), (NOBODY, tmp_path / "file" / "spool"), ("", tmp_path / "b")):
        client = Closeloop(url, TOKEN, spool=str(spool))
        assert client.trouble
        assert client.weights("b").fallback
        client.close(close(1))
        assert TOKEN not in repr(client)
        client.stop()
    client = Closeloop(NOBODY, TOKEN, spool=str(tmp_path / "c"), max_age="soon")  # type: ignore[arg-type]
    assert client.size_multiplier("b", "p", "entry", 3).value == 1.0  # type: ignore[arg-type]
    assert client.params([], {}).fallback  # type: ignore[arg-type]
    client.stop()


def test_a_second_process_does_not_share_a_spool(tmp_path: Path) -> None:
    path = str(tmp_path / "spool")
    first = Closeloop(NOBODY, TOKEN, spool=path)
    code = (
        "import sys; from closeloop_client import Closeloop; "
        f"c = Closeloop({NOBODY!r}, 't', spool=sys.argv[1]); w = c.close({{'position_id': 'p'}}); "
        "print(w.accepted, w.reason)"
    )
    second = subprocess.run([sys.executable, "-c", code, path], cwd=CLIENT, capture_output=True, text=True, check=True)
    assert second.stdout.startswith("False another process has this spool"), second.stdout
    assert main(["drain", path, "--url", NOBODY]) == 1
    first.stop()
    Spool(path).close()
    with pytest.raises(SpoolClosed):
        Spool(str(tmp_path))


def test_a_fork_does_not_write_into_its_parents_spool(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from closeloop_client import Closeloop\n"
        f"c = Closeloop({NOBODY!r}, 't', spool=sys.argv[1])\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    w = c.close({'position_id': 'child'}); print(w.accepted, w.reason, flush=True); os._exit(0)\n"
        "os.waitpid(pid, 0); print(c.close({'position_id': 'parent'}).accepted)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spool")], cwd=CLIENT, capture_output=True, text=True, check=True
    )
    child, parent = done.stdout.splitlines()
    assert child.startswith("False this is a fork")
    assert parent == "True"


ENGINE = """
import sys
from closeloop_client import Closeloop
c = Closeloop(sys.argv[1], "t", spool=sys.argv[2])
n = 0
while True:
    if c.close({"position_id": f"p-{n}", "book": "b"}).accepted:
        print(f"p-{n}", flush=True)
    n += 1
"""


def test_what_was_accepted_survives_sigkill_and_arrives_once(recorder: Recorder, tmp_path: Path) -> None:
    accepted: list[str] = []
    spool = str(tmp_path / "spool")
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", ENGINE, recorder.url, spool], cwd=CLIENT, stdout=subprocess.PIPE, text=True
        ) as engine:
            assert engine.stdout is not None
            accepted += [engine.stdout.readline().strip() for _ in range(150)]
            engine.send_signal(signal.SIGKILL)
            accepted += [line.strip() for line in engine.stdout if line.endswith("\n")]
    drained = subprocess.run(
        [sys.executable, "-m", "closeloop_client.command", "drain", spool, "--url", recorder.url],
        cwd=CLIENT, env=dict(os.environ, CLOSELOOP_TOKEN="secret-token"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert drained.returncode == 0, drained.stderr
    assert "none is left" in drained.stderr
    assert "secret-token" not in drained.stdout + drained.stderr
    assert {("positions", name) for name in accepted} <= set(recorder.messages)


def test_drain_says_what_is_left_and_why(
    recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = Spool(str(tmp_path / "spool"))
    spool.put("positions", close(1))
    spool.close()
    recorder.answer = lambda method, path, body: (401, "application/problem+json", {"detail": "The token was revoked."})
    assert main(["drain", str(tmp_path / "spool"), "--url", recorder.url]) == 1
    said = capsys.readouterr().err
    assert "1 messages are left: answered with 401: The token was revoked." in said
    assert main(["status", str(tmp_path / "spool")]) == 0
    assert "1 messages wait to be sent, 0 were refused." in capsys.readouterr().out
    assert main(["status", str(tmp_path / "none")]) == 1


def test_the_client_needs_the_standard_library_alone_and_is_small() -> None:
    lines = 0
    for path in (CLIENT / "closeloop_client").glob("*.py"):
        source = path.read_text()
        lines += len(source.splitlines())
        for node in ast.walk(ast.parse(source)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or top == "closeloop_client", f"{path.name} imports {name}"
    assert lines < 1_000
