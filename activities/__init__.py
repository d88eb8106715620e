"""Effects: load through ``store/``, compute through ``learning/``, write through ``store/``. Idempotent."""

from collections.abc import Callable
from typing import Any

# A method that a worker registers; each class lists its own (``activities``), and workers/wiring.py puts them together.
Activity = Callable[..., Any]
