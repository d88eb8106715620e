"""The market: bars of its drivers, their states, and where their computation goes on from."""

from closeloop.store.market import (
    bars,
    changes,
    checkpoints,
    drivers,
    looks,
    openings,
    simulated,
    sources,
    standings,
    states,
    tokens,
)

__all__ = [
    "bars",
    "changes",
    "checkpoints",
    "drivers",
    "looks",
    "openings",
    "simulated",
    "sources",
    "standings",
    "states",
    "tokens",
]
