"""The market: bars of its drivers, their states, and where their computation goes on from."""

from closeloop.store.market import changes, sources, standings, states, tokens

__all__ = ["changes", "sources", "standings", "states", "tokens"]
