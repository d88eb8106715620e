"""Workflows that people talk to: an operator's words, by signal or update, whatever shape they come in."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from closeloop.models.approvals import DecisionRequest
    from closeloop.models.refusals import describe

LOOK = "look"


class Deciding(ABC):
    """Hears operators: what is misspelt, of the wrong shape or no JSON at all must neither stop it nor vanish.

    A signal is named by its verdict and carries ``{"operator": ..., "note": ...}``; the update ``decide`` has the
    verdict beside them and waits for the answer: accepted, or why not. closeloop itself sends ``look`` where the record
    changed elsewhere.
    """

    verdicts: ClassVar[type[StrEnum]]

    def __init__(self) -> None:
        self._words: Counter[str] = Counter()
        self._one_at_a_time = asyncio.Lock()

    @abstractmethod
    def _has_begun(self) -> bool:
        """Whether there is something to decide on yet: words wait until then."""

    @abstractmethod
    async def _look(self) -> None:
        """The record changed elsewhere."""

    @abstractmethod
    async def _decide(self, verdict: str, operator: str, note: str, signal: int | None = None) -> Any:
        """Carry out a word and answer; ``signal`` is its number among the signals of its name, null for an update."""

    @abstractmethod
    async def _not_understood(self, name: str, reason: str) -> Any:
        """Put a word on record that could not be understood, and answer why."""

    @workflow.signal(dynamic=True)
    async def hear(self, name: str, words: Sequence[RawValue]) -> None:
        """A verdict as a signal: one handler for whatever is sent."""
        await workflow.wait_condition(self._has_begun)
        number = self._words[name]
        self._words[name] += 1
        if name == LOOK:
            await self._look()
            return
        try:
            verdict = self.verdicts(name)
            said = DecisionRequest.model_validate(_one_of(words))
        except ValidationError as error:
            await self._not_understood(name, describe(error))
        except ValueError as error:
            await self._not_understood(name, str(error))
        else:
            await self._decide(verdict, said.operator, said.note, number)

    @workflow.update(dynamic=True)
    async def answer(self, name: str, words: Sequence[RawValue]) -> Any:
        """``decide`` as an update, because its caller waits for the answer."""
        await workflow.wait_condition(self._has_begun)
        try:
            if name != "decide":
                raise ValueError(f"there is no update {name}: say 'decide'")
            word = _one_of(words)
            said = DecisionRequest.model_validate(word)
            verdict = self._verdict_of(word)
        except ValidationError as error:
            return await self._not_understood(name, describe(error))
        except ValueError as error:
            return await self._not_understood(name, str(error))
        return await self._decide(verdict, said.operator, said.note)

    def _verdict_of(self, word: dict[str, Any]) -> StrEnum:
        try:
            return self.verdicts(str(word.get("verdict")))
        except ValueError:
            raise ValueError(f"verdict: must be one of {', '.join(self.verdicts)}") from None


def scheduled_time() -> datetime:
    """For when this run was scheduled, so that a late or repeated run decides what it would have decided then."""
    for pair in workflow.info().typed_search_attributes:
        if pair.key.name == "TemporalScheduledStartTime" and isinstance(pair.value, datetime):
            return pair.value
    return workflow.now()


def _one_of(words: Sequence[RawValue]) -> Any:
    """The one argument of a signal or update, as JSON. Raises ValueError."""
    if len(words) != 1:
        raise ValueError(f"one argument is needed, a JSON object; {len(words)} were sent")
    try:
        return workflow.payload_converter().from_payload(words[0].payload, dict[str, Any])
    except Exception:
        raise ValueError('the argument is no JSON object such as {"operator": "ann", "note": "why"}') from None
