"""A trading engine tells closeloop that a position closed: Temporal's own client, plain JSON, none of closeloop's code.

python examples/engine.py            # TEMPORAL_ADDRESS, or 127.0.0.1:7233
"""

import asyncio
import json
import os

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

POSITION = {
    "book": "default", "position_id": "example-1", "symbol": "BTC/USDT", "direction": "long",
    "opened_at": "2026-01-01T00:00:00Z", "closed_at": "2026-01-01T06:00:00Z",
    "entry_price": "50000", "exit_price": "50500", "size": "0.02", "realized_pnl": "10.0",
    "currency": "USDT", "risk": "5.0",
    "conviction": {"conviction_id": "c-1", "cycle_id": "cycle-1", "magnitude": 5.0,
                   "domain_scores": {"onchain": 0.8, "social": 0.1}},
    "signals": [{"signal_id": "s-1", "producer_id": "ta", "domain": "technical", "direction": "long",
                 "confidence": 0.75}],
}  # fmt: skip


async def main() -> None:
    client = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "127.0.0.1:7233"))
    handle = await client.start_workflow(
        "PositionCloseWorkflow",
        POSITION,
        id="position-close/{book}/{position_id}/{closed_at}".format(**POSITION),  # starting it twice is harmless
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        task_queue="closeloop",
        static_summary=f"{POSITION['symbol']} {POSITION['direction']} closed {POSITION['realized_pnl']}",
    )
    # An engine need not wait: the workflow goes on by itself.
    print(json.dumps(await handle.result(), indent=1), flush=True)


if __name__ == "__main__":  # the guard matters to Temporal, which imports modules again
    status = 1
    try:
        asyncio.run(main())
        status = 0
    except Exception as error:
        print(f"closeloop was not told ({error}): trading goes on; try again later", flush=True)
    finally:
        os._exit(status)  # the client's native threads can abort an interpreter that finalizes
