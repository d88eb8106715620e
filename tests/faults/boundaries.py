"""A process that kills itself at a boundary of its work: before each statement and each commit of an engine."""

import os
import signal
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


class Boundaries:
    """Counts boundaries from 1, and kills the process with SIGKILL at one of them; ``die_at`` 0: never."""

    def __init__(self, die_at: int) -> None:
        self._die_at = die_at
        self.passed = 0

    def reach(self) -> None:
        """One is reached."""
        self.passed += 1
        if self.passed == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, engine: AsyncEngine, counts: Callable[[str], bool] = lambda statement: True) -> None:
        """Each commit of the engine is one, and each statement that counts."""

        def before_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if counts(statement):
                self.reach()

        event.listen(engine.sync_engine, "before_cursor_execute", before_statement)
        event.listen(engine.sync_engine, "commit", lambda _: self.reach())
