"""What a trade's entry context says of the market, and what the record adds to it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from closeloop.learning.scope import REGIME_STATE_DIMENSIONS
from closeloop.models.market import BUCKETS, Driver, Timeframe
from closeloop.models.market_contexts import FoundContext
from closeloop.models.market_views import ChannelAsOf

_HORIZONS = {Timeframe.d1: "macro", Timeframe.h1: "meso", Timeframe.m1: "micro"}
_DRIVERS = {Driver.btc: "btc", Driver.alt: "alt", Driver.btc_d: "btcd", Driver.usdt_d: "usdtd"}
LEVERS_ID = "levers_id"
_MODES = {"A_value": "A_mode", "E_value": "E_mode"}
_RELATIVE = 1e-9  # numbers that agree to this are the same


def dimension(driver: Driver, timeframe: Timeframe, bucket: str | None) -> str | None:
    """The dimension of a trade's scope that a driver's state is, by horizon; None of another bucket than its own.

    >>> dimension(Driver.btc, Timeframe.d1, None), dimension(Driver.nano, Timeframe.h1, "nano")
    ('btc_macro', 'bucket_meso')
    >>> dimension(Driver.mid, Timeframe.h1, "nano")
    """
    name = _DRIVERS.get(driver) or ("bucket" if driver == bucket else None)
    return None if name is None else f"{name}_{_HORIZONS[timeframe]}"


def channel_of(dimension: str) -> tuple[str, Timeframe]:
    """The driver, as the driver weights name it, and the timeframe of a dimension of a trade's scope.

    >>> channel_of("btcd_meso"), channel_of("bucket_macro")
    (('BTC.d', <Timeframe.h1: '1h'>), ('bucket', <Timeframe.d1: '1d'>))
    """
    name, horizon = dimension.split("_")
    driver = next((str(driver) for driver, short in _DRIVERS.items() if short == name), "bucket")
    return driver, next(timeframe for timeframe, of in _HORIZONS.items() if of == horizon)


def states_by_dimension(channels: Iterable[ChannelAsOf], bucket: str | None) -> dict[str, str]:
    """The states of drivers by the dimension of a trade's scope; those of other buckets than the trade's have none."""
    named = {dimension(channel.driver, channel.timeframe, bucket): str(channel.state) for channel in channels}
    return {name: named[name] for name in REGIME_STATE_DIMENSIONS if name in named}


def bucket_of(context: Any) -> str | None:
    """The bucket of drivers that an entry context's token is in; None where it names none that there is.

    >>> bucket_of({"bucket": "nano"}), bucket_of({"scope": {"mcap_bucket": "big"}}), bucket_of({"bucket": "micro"})
    ('nano', 'big', None)
    """
    context = _mapping(context)
    for name in (_mapping(context.get("scope")).get("mcap_bucket"), context.get("mcap_bucket"), context.get("bucket")):
        if isinstance(name, str) and name:
            return name if name in BUCKETS else None
    return None


def states_sent(context: Any) -> dict[str, Any]:
    """The states of the market that an entry context says itself, by dimension, in either of the two forms.

    >>> states_sent({"regime_states": {"btc": {"macro": "S3"}, "alt_meso": "S1"}, "scope": {"chain": "base"}})
    {'btc_macro': 'S3', 'alt_meso': 'S1'}
    """
    found: dict[str, Any] = {}
    context = _mapping(context)
    for name, value in _mapping(context.get("regime_states")).items():
        if isinstance(value, Mapping):
            found.update((f"{name}_{horizon}", state) for horizon, state in value.items())
        else:
            found[name] = value
    for name, value in _mapping(context.get("scope")).items():
        if name in REGIME_STATE_DIMENSIONS:
            found.setdefault(name, value)
    return {name: value for name, value in found.items() if value not in (None, "", {}, [])}


def completed(context: Any, found: FoundContext | None) -> Any:
    """An entry context with what the record has of the market where it says nothing itself.

    What it says itself stays. ``regime_source`` says where the rest comes from.

    >>> from closeloop.models.market_contexts import ContextSource
    >>> record = FoundContext(ContextSource.levers, {"btc_macro": "S3", "alt_meso": "S1"}, 0.6, 0.4)
    >>> completed({"A_value": 0.5, "regime_states": {"btc_macro": "S0"}}, record)
    {'A_value': 0.5, 'regime_states': {'btc_macro': 'S0', 'alt_meso': 'S1'}, 'regime_source': 'levers', 'E_value': 0.4}
    """
    if found is None:
        return context
    sent = dict(_mapping(context))
    said = states_sent(sent)
    full = sent | {
        "regime_states": dict(_mapping(sent.get("regime_states")))
        | {name: state for name, state in found.states.items() if name not in said},
        "regime_source": str(found.source),
    }
    for name, value in (("A_value", found.a_value), ("E_value", found.e_value)):
        if value is not None and _lever_sent(sent, name) is None:
            full[name] = value
    return full


def differences(context: Any, found: FoundContext) -> list[tuple[str, str]]:
    """(field, reason) where an entry context says something else than the record does.

    >>> from closeloop.models.market_contexts import ContextSource
    >>> record = FoundContext(ContextSource.levers, {"btc_macro": "S3"}, 0.6, 0.4)
    >>> differences({"A_value": 0.5, "E_value": 0.4, "regime_states": {"btc_macro": "S3"}}, record)
    [('A_value', '0.5 was sent and stays; the levers had 0.6')]
    """
    context = _mapping(context)
    said = states_sent(context)
    told = [
        (f"regime_states.{name}", _stays(said[name], state))
        for name, state in found.states.items()
        if name in said and said[name] != state
    ]
    for name, value in (("A_value", found.a_value), ("E_value", found.e_value)):
        sent = _lever_sent(context, name)
        if value is None or sent is None:
            continue
        is_number = isinstance(sent, int | float) and not isinstance(sent, bool)
        if not is_number or not math.isclose(sent, value, rel_tol=_RELATIVE, abs_tol=_RELATIVE):
            told.append((name, _stays(sent, value)))
    return told


def _lever_sent(context: Mapping[str, Any], name: str) -> Any:
    """What a context says of A or E, as a value or as a mode."""
    for source in (context, _mapping(context.get("scope"))):
        for key in (name, _MODES[name]):
            if source.get(key) not in (None, ""):
                return source[key]
    return None


def _stays(sent: Any, record: Any) -> str:
    return f"{str(sent)[:60]} was sent and stays; the levers had {record}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
