"""An engine in 25 lines over HTTP: ``CLOSELOOP_TOKEN=... python examples/engine_http.py http://127.0.0.1:8234``."""

import os
import sys
from datetime import UTC, datetime, timedelta

from closeloop_client import Closeloop

closeloop = Closeloop(sys.argv[1], os.environ["CLOSELOOP_TOKEN"], spool="engine.spool", max_age=300)

# Before an order: how large? Answered from memory at once; without closeloop the factor is 1.
size = 0.02 * closeloop.size_multiplier("default", "pm.uptrend.S1.buy_flag", "entry", {"chain": "solana"}).value

# After the position closed: on disk when this returns, and sent until closeloop has it on record.
now = datetime.now(UTC)
written = closeloop.close(
    {
        "book": "default", "position_id": f"http-{now:%Y%m%dT%H%M%S}", "symbol": "BTC/USDT", "direction": "long",
        "opened_at": (now - timedelta(hours=6)).isoformat(), "closed_at": now.isoformat(), "entry_price": "50000",
        "exit_price": "50500", "size": str(size), "realized_pnl": "10.0", "risk": "5.0",
        "signals": [{"signal_id": "s-1", "producer_id": "ta", "domain": "technical", "direction": "long",
                     "confidence": 0.75, "contribution_weight": 1.0}],
    }
)  # fmt: skip
print(f"accepted {written.id}" if written.accepted else f"not accepted: {written.reason}")
closeloop.stop(seconds=1.0)
