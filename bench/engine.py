"""An engine that puts messages and reads from memory: ``python -m bench.engine PORT``, its token in the environment.

It prints what it measured as JSON.
"""

import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

from closeloop_client import Closeloop

from bench.closes import closes

PUTS = 5_000
CACHED_READS = 100_000


def main() -> None:
    """Measure and tell."""
    made = closes(f"bench-{uuid.uuid4().hex[:8]}", PUTS, actions=False)
    messages = [close.model_dump(mode="json") for close in made]
    with tempfile.TemporaryDirectory() as folder:
        url, spool = f"http://127.0.0.1:{sys.argv[1]}", str(Path(folder) / "engine.spool")
        engine = Closeloop(url, os.environ["CLOSELOOP_TOKEN"], spool=spool, max_age=3_600)
        puts = []
        for message in messages:
            began = time.perf_counter()
            written = engine.close(message)
            puts.append((time.perf_counter() - began) * 1e3)
            assert written.accepted, written.reason
        while engine.weights("bench-polled").fallback:
            time.sleep(0.05)
        began = time.perf_counter()
        for _ in range(CACHED_READS):
            engine.weights("bench-polled")
        cached = (time.perf_counter() - began) / CACHED_READS * 1e6
        engine.stop(seconds=1.0)
    ranked = sorted(puts)
    told = {"puts": PUTS, "reads": CACHED_READS, "cached": cached, "largest": ranked[-1]}
    print(json.dumps(told | {"p50": ranked[PUTS // 2], "p99": ranked[int(PUTS * 0.99)]}))


if __name__ == "__main__":
    main()
