"""Replaces one overlay file again and again until it is killed. Run by test_overlay.py."""

import itertools
import sys
from datetime import UTC, datetime
from pathlib import Path

from closeloop.gateways.overlay import OverlayFolder
from closeloop.models.weights import ActiveWeights

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def version(number: int) -> ActiveWeights:
    """Long enough to be caught half-written, and different from its neighbours in length and every line."""
    domains = 40 + 400 * (number % 2)
    weights = {f"domain-{number}-{i:04}": number / 1000 for i in range(domains)}
    return ActiveWeights(
        book="b", weights=weights, version=number, source="learned", since=SINCE, policy_hash=f"hash-{number}"
    )


if __name__ == "__main__":
    folder = OverlayFolder(Path(sys.argv[1]))
    for number in itertools.count(int(sys.argv[2])):
        folder.write(version(number))
        print(number, flush=True)
