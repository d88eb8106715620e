"""Levers: expected values, and what holds of any states."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.market.levers import ChannelState, levers, levers_in, multiplier, regime_of
from closeloop.models.market import BUCKETS, Driver, Flag, MarketState, Timeframe
from closeloop.models.market_levers import BucketContext, Levers, StateGiven
from closeloop.models.policy import LeversPolicy
from tests.learning.market.golden import golden

POLICY = LeversPolicy()
CASES = golden("levers")

_CHANNELS = [(driver, timeframe) for driver in Driver for timeframe in Timeframe]
_STATE = st.builds(
    lambda state, prev, flags: (state, prev, frozenset(flags)),
    st.sampled_from(MarketState),
    st.none() | st.sampled_from(MarketState),
    st.lists(st.sampled_from(Flag), max_size=6),
)
_STATES = st.lists(st.none() | _STATE, min_size=len(_CHANNELS), max_size=len(_CHANNELS)).map(
    lambda found: [ChannelState(*channel, *each) for channel, each in zip(_CHANNELS, found, strict=True) if each]
)
_INTENT = st.dictionaries(st.sampled_from(sorted(POLICY.intent_deltas)), st.floats(0, 1), max_size=5)
_CONTEXT = st.none() | st.builds(
    BucketContext,
    rank=st.none() | st.integers(1, 9),
    slope=st.none() | st.floats(-9, 9),
    confidence=st.none() | st.floats(0, 1),
)
_BUCKET = st.none() | st.sampled_from(BUCKETS)
_TIMEFRAME = st.sampled_from(sorted(POLICY.execution_weights))


def channel(given: Mapping[str, Any]) -> ChannelState:
    one = StateGiven.model_validate(given)
    assert one.state is not None
    return ChannelState(one.driver, one.timeframe, one.state, one.prev_state, frozenset(one.flags))


def only(state: MarketState, *flags: Flag, prev: MarketState | None = None) -> Levers:
    """Levers where BTC alone has a state, on 1h; its weight is 0.22 there."""
    btc = ChannelState(Driver.btc, Timeframe.h1, state, prev, frozenset(flags))
    return levers([btc], None, "1h", {}, None, POLICY)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_expected(case: dict[str, Any]) -> None:
    asked, wanted = case["args"], case["expected"]
    context = BucketContext.model_validate(asked["context"]) if asked.get("context") else None
    found = levers(
        map(channel, case["states"]), asked["bucket"], asked["exec_tf"], asked.get("intent", {}), context, POLICY
    )
    for name in ("A", "E", "A_raw", "E_raw", "position_size_frac"):
        assert getattr(found, name) == pytest.approx(wanted[name], rel=1e-9, abs=1e-9), name
    assert found.bucket_multiplier == pytest.approx(wanted["multiplier"], rel=1e-9)
    of_intent = {"dA": found.intent.A, "dE": found.intent.E}
    assert of_intent == pytest.approx(wanted["intent"])
    assert list(found.missing) == wanted["missing"]
    assert len(found.contributions) == len(wanted["contributions"])
    for each, right in zip(found.contributions, wanted["contributions"], strict=True):
        assert (each.driver, each.timeframe) == (right["driver"], right["timeframe"])
        assert [[part.name, part.da, part.de] for part in each.parts] == right["parts"]
        assert (each.weight, each.da, each.de) == pytest.approx((right["weight"], right["dA"], right["dE"]), rel=1e-9)


@given(_STATES, _BUCKET, _TIMEFRAME, _INTENT, _CONTEXT)
def test_contributions_add_up(
    states: list[ChannelState],
    bucket: str | None,
    timeframe: str,
    intent: dict[str, float],
    context: BucketContext | None,
) -> None:
    found = levers(states, bucket, timeframe, intent, context, POLICY)
    for raw, of_intent, parts, regime in (
        (found.A_raw, found.intent.A, [each.da for each in found.contributions], found.regime.A),
        (found.E_raw, found.intent.E, [each.de for each in found.contributions], found.regime.E),
    ):
        assert math.fsum(parts) == regime
        assert raw == pytest.approx(math.fsum([0.5, of_intent, *parts]), abs=1e-15)
        assert abs(of_intent) <= POLICY.intent_cap
    for each in found.contributions:
        assert each.da == pytest.approx(each.weight * math.fsum(part.da for part in each.parts), abs=1e-15)
    assert len(found.contributions) + len(found.missing) == 15
    assert 0 <= found.A <= 1
    assert 0 <= found.E <= 1
    assert found.position_size_frac == POLICY.base_size + POLICY.size_slope * found.A
    m = found.bucket_multiplier
    assert POLICY.min_multiplier <= m <= POLICY.max_multiplier
    assert min(max(min(max(found.A_raw, 0), 1) * m, 0), 1) == found.A
    assert min(max(min(max(found.E_raw, 0), 1) / m, 0), 1) == found.E


@given(_STATES, _BUCKET, _TIMEFRAME, st.randoms(use_true_random=False))
def test_the_order_of_states_and_states_of_other_buckets_say_nothing(
    states: list[ChannelState], bucket: str | None, timeframe: str, rng: Any
) -> None:
    found = levers(states, bucket, timeframe, {}, None, POLICY)
    own = [each for each in states if each.driver not in BUCKETS or each.driver == bucket]
    rng.shuffle(own)
    assert levers(own, bucket, timeframe, {}, None, POLICY) == found


@given(_STATES, _BUCKET, _TIMEFRAME)
def test_no_strength_no_regime(states: list[ChannelState], bucket: str | None, timeframe: str) -> None:
    found = levers(states, bucket, timeframe, {}, None, LeversPolicy(regime_strength=0.0))
    assert (found.A, found.E) == (0.5, 0.5)


class TestStatesAndFlags:
    def test_s4_is_known_and_adds_nothing(self) -> None:
        found = only(MarketState.s4, *Flag, prev=MarketState.s0)
        assert (found.A, found.E) == (0.5, 0.5)
        assert [(each.state, each.da, each.flags) for each in found.contributions] == [(MarketState.s4, 0.0, ())]
        assert "BTC/1h" not in found.missing

    @pytest.mark.parametrize("state", MarketState)
    @pytest.mark.parametrize("flag", Flag)
    def test_a_flag_counts_in_its_state_alone(self, state: MarketState, flag: Flag) -> None:
        with_flag, without = only(state, flag), only(state)
        deltas = POLICY.flag_deltas.get(f"{state}+{flag}", (0.0, 0.0))
        assert with_flag.A_raw - without.A_raw == pytest.approx(0.22 * deltas[0])
        assert with_flag.E_raw - without.E_raw == pytest.approx(0.22 * deltas[1])

    @pytest.mark.parametrize("state", MarketState)
    @pytest.mark.parametrize("prev", MarketState)
    def test_the_pulse_is_of_the_fall_into_s0(self, state: MarketState, prev: MarketState) -> None:
        deltas = POLICY.transition_deltas.get(f"{prev}>{state}", (0.0, 0.0))
        found = only(state, prev=prev)
        assert found.A_raw - only(state).A_raw == pytest.approx(0.22 * deltas[0])
        assert (deltas != (0.0, 0.0)) == (state is MarketState.s0 and prev in ("S1", "S2", "S3"))
        assert (found.contributions[0].transition is not None) == (deltas != (0.0, 0.0))


class TestRefused:
    @pytest.mark.parametrize(
        ("bucket", "timeframe", "intent", "said"),
        [
            ("huge", "1h", {}, "no bucket 'huge': it must be one of nano, small, mid, big"),
            ("BTC", "1h", {}, "no bucket 'BTC'"),
            ("nano", "2h", {}, "no timeframe '2h': it must be one of 1m, 5m, 15m, 1h, 4h, 1d"),
            (
                "nano",
                "1h",
                {"buy": 1.0},
                "no intent metric 'buy': it must be one of hi_buy, med_buy, profit, sell, mock",
            ),
            ("nano", "1h", {"sell": 1.01}, "sell: must be in"),
            ("nano", "1h", {"sell": -0.01}, "sell: must be in"),
            ("nano", "1h", {"sell": math.nan}, "sell: must be in"),
        ],
    )
    def test_what_there_is_not(self, bucket: str, timeframe: str, intent: dict[str, float], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            levers([], bucket, timeframe, intent, None, POLICY)

    def test_a_channel_twice(self) -> None:
        btc = ChannelState(Driver.btc, Timeframe.h1, MarketState.s1)
        with pytest.raises(ValueError, match="BTC/1h comes twice"):
            levers([btc, btc], None, "1h", {}, None, POLICY)


class TestMultiplier:
    @pytest.mark.parametrize(
        ("context", "wanted"),
        [
            (None, 1.0),
            (BucketContext(), 1.0),
            (BucketContext(rank=1, slope=0.5), 1.0),  # how sure that is nobody says
            (BucketContext(rank=1, confidence=0.4), 1.12),
            (BucketContext(rank=6, confidence=1.0), 0.88),
            (BucketContext(rank=7, confidence=1.0), 1.0),
            (BucketContext(slope=0.25, confidence=1.0), 1.1),
            (BucketContext(slope=9.0, confidence=1.0), 1.3),
            (BucketContext(slope=-9.0, confidence=1.0), 0.7),
        ],
    )
    def test_of(self, context: BucketContext | None, wanted: float) -> None:
        assert multiplier(context, POLICY) == pytest.approx(wanted)


def test_one_regime_serves_every_token() -> None:
    states = [ChannelState(*each, MarketState.s1) for each in _CHANNELS]
    regime = regime_of(states, "mid", "4h", POLICY)
    for value in (0.0, 0.5, 1.0):
        intent, context = {"sell": value}, BucketContext(rank=2, confidence=1.0)
        assert levers_in(regime, intent, context, POLICY) == levers(states, "mid", "4h", intent, context, POLICY)


class TestStatesGiven:
    def test_flags_in_three_forms(self) -> None:
        base = {"driver": "BTC", "timeframe": "1h", "state": "S3"}
        for flags in (
            {"flags": ["trim_flag"]},
            {"flags": {"trim_flag": True, "buy_flag": False}},
            {"trim_flag": True, "buy_flag": False, "flags": []},
        ):
            assert StateGiven.model_validate(base | flags).flags == (Flag.trim_flag,)

    def test_as_the_states_are_printed(self) -> None:
        printed = {
            "driver": "BTC.d", "timeframe": "1m", "state": None, "prev_state": None, "flags": [],
            "scores": {"ts": 0.5}, "bar_end": "2026-01-01T00:00:00Z", "warming_up": True,
        }  # fmt: skip
        assert StateGiven.model_validate(printed).warming_up

    @pytest.mark.parametrize(
        "wrong", [{"flags": "trim_flag"}, {"trim_flag": 1}, {"flags": ["trim"]}, {"prev_sate": "S1"}, {"state": "S5"}]
    )
    def test_a_slip_is_told(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"flag|prev_sate|state"):
            StateGiven.model_validate({"driver": "BTC", "timeframe": "1h", "state": "S1"} | wrong)
