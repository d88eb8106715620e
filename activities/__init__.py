"""Effects: an activity loads through ``store/``, computes through ``learning/`` and writes through ``store/``.

Temporal may run one again after it succeeded; the second run must change nothing and answer the same.
"""

from collections.abc import Callable
from typing import Any

# A method that a worker registers; each class lists its own (``activities``), and workers/wiring.py puts them together.
Activity = Callable[..., Any]
