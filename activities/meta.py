"""The meta-producer forecasts what usually followed when the other producers said what they say now.

Until an operator lets it speak, its forecasts are shadows.
"""

import asyncio
import dataclasses
import hashlib
import math
from array import array
from datetime import datetime, timedelta

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from closeloop import store
from closeloop.activities import Activity
from closeloop.activities.books import check_open, each_book
from closeloop.activities.heartbeats import beating
from closeloop.activities.producers import microseconds
from closeloop.activities.transactions import transaction
from closeloop.learning.ensemble import Emission, History, emission, state
from closeloop.learning.scoring import ACTION_CODES
from closeloop.models.forecasts import Forecast, ForecastAction, seconds_of
from closeloop.models.meta import META, MetaReport, MetaRequest
from closeloop.models.policy import LearningPolicy, hash_of
from closeloop.store.database import Sessions

_ACTIONS = {code: ForecastAction(name) for name, code in ACTION_CODES.items()}


def meta_hash(policy: LearningPolicy) -> str:
    """The hash of what the meta-producer decides with: its own numbers, and the band within which a return is flat."""
    return hash_of(policy.meta, policy.forecasts)


class MetaActivities:
    """Lets the meta-producer speak."""

    def __init__(self, sessions: Sessions, policy: LearningPolicy) -> None:
        self._sessions = sessions
        self._policy = policy

    def activities(self) -> list[Activity]:
        """What a worker registers."""
        return [self.speak_meta]

    @activity.defn(name="speak_meta")
    async def speak_meta(self, request: MetaRequest) -> MetaReport:
        """An emission or an abstention for each asset and horizon that producers spoke of. Said once for an instant."""
        assert request.as_of is not None, "the workflow fills it in"
        as_of = request.as_of
        report = MetaReport()
        async with beating():
            async with transaction(self._sessions) as session:
                books = request.books or await store.meta.books(session, as_of, self._state_age)

            async def speak(book: str) -> None:
                async with transaction(self._sessions) as session:
                    in_all = await store.meta.count_outcomes(session, book, as_of)
                    spoken_of = await store.meta.pairs_forecast(session, book, as_of, self._state_age)
                for asset, horizon in spoken_of:
                    self._count(report, await self._speak(book, asset, horizon, as_of, in_all))

            report.failed = await each_book(self._sessions, "meta", books, speak)
        return report

    @property
    def _state_age(self) -> timedelta:
        return timedelta(hours=self._policy.meta.state_hours)

    async def _speak(self, book: str, asset: str, horizon: str, as_of: datetime, in_all: int) -> Emission:
        code: dict[str, int] = {}
        producers, issued, targets, actions, returns = array("q"), array("q"), array("q"), array("b"), array("d")
        async with transaction(self._sessions) as session:
            async for name, issued_at, target_at, action, change in store.meta.history(
                session, book, asset, horizon, as_of
            ):
                producers.append(code.setdefault(name, len(code)))
                issued.append(issued_at)
                targets.append(target_at)
                actions.append(ACTION_CODES[action])
                returns.append(math.nan if change is None else change)
        names = list(code)
        known = History(
            producer=np.array(producers, dtype=np.int64),
            issued_at=np.array(issued, dtype=np.int64),
            target_at=np.array(targets, dtype=np.int64),
            action=np.array(actions, dtype=np.int8),
            return_pct=np.array(returns, dtype=np.float64),
        )
        policy, itself, now = self._policy, code.get(META), microseconds(as_of)
        standing = state(known, now, policy.meta, itself=itself)
        said = await asyncio.to_thread(
            emission,
            known,
            standing,
            now,
            seconds_of(horizon) * 1_000_000,
            in_all,
            policy.meta,
            policy.forecasts,
            itself=itself,
            shadow=True,
        )
        async with transaction(self._sessions) as session:
            await check_open(session, book)  # it may have been removed since
            await store.books.hold(session, book)  # waits for an operator's return to shadow that is being stored
            mode = await store.meta.mode(session, book)
            if mode and mode["live"] and said.abstention == "shadow_mode":
                said = dataclasses.replace(said, abstention=None)
            listened = {names[producer]: _ACTIONS[action] for producer, action in sorted(standing.items())}
            await self._write(session, book, asset, horizon, as_of, said, listened)
        return said

    async def _write(
        self,
        session: AsyncSession,
        book: str,
        asset: str,
        horizon: str,
        as_of: datetime,
        said: Emission,
        listened: dict[str, ForecastAction],
    ) -> None:
        key = f"{book}/{horizon}/{as_of.isoformat()}/{asset}"
        emitted = said.abstention in (None, "shadow_mode")
        forecast_id = f"meta-{hashlib.sha256(key.encode()).hexdigest()[:32]}" if emitted else None
        live = said.abstention is None
        action = _ACTIONS[said.direction] if said.direction is not None and emitted else ForecastAction.no_forecast
        row = {
            "book_id": book,
            "asset": asset,
            "horizon": horizon,
            "as_of": as_of,
            "dedupe_key": key,
            "action": action if live else ForecastAction.no_forecast,
            "reason": said.abstention,
            "confidence": said.confidence,
            "state": listened,
            "evidence": {
                "direction": None if said.direction is None else _ACTIONS[said.direction],
                "k": said.k,
                "n": said.n,
                "share": said.share,
                "wilson_low": said.wilson_low,
                "base_rate": said.base_rate,
            },
            "forecast_id": forecast_id,
            "policy_hash": meta_hash(self._policy),
        }
        if key in await store.meta.decide(session, [row]) and forecast_id is not None:
            forecast = Forecast(
                forecast_id=forecast_id,
                book=book,
                producer_id=META,
                asset=asset,
                horizon=horizon,
                action=action,
                confidence=said.confidence,
                issued_at=as_of,
            )
            await store.forecasts.record(session, [forecast], shadow=not live)

    def _count(self, report: MetaReport, said: Emission) -> None:
        if said.abstention is None:
            report.emitted += 1
        elif said.abstention == "shadow_mode":
            report.shadowed += 1
        else:
            report.abstained[said.abstention] = report.abstained.get(said.abstention, 0) + 1
