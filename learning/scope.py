"""The scope of a trade: dimensions and their values, a flat mapping of what an engine knew at entry."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from closeloop.models.policy import PatternsPolicy

# States of the market at entry, by driver and horizon, from ``regime_states`` of an entry context. "Regime" has other
# meanings, too: ``regime_at_entry`` of a trade and ``regime`` of a forecast are labels that the sender chose, and a
# regime signature (:func:`regime_signature`) is made of some of these states.
REGIME_STATE_DIMENSIONS = tuple(
    f"{driver}_{horizon}"
    for driver in ("btc", "alt", "bucket", "btcd", "usdtd")
    for horizon in ("macro", "meso", "micro")
)
TOKEN_DIMENSIONS = (
    "curator",
    "chain",
    "mcap_bucket",
    "vol_bucket",
    "age_bucket",
    "intent",
    "mcap_vol_ratio_bucket",
    "market_family",
    "timeframe",
    "A_mode",
    "E_mode",
    "bucket_leader",
    "bucket_rank_position",
)
DIMENSIONS = frozenset(REGIME_STATE_DIMENSIONS + TOKEN_DIMENSIONS)
MAX_TEXT_BYTES = 64  # of a name or a value, in UTF-8
MAX_UNKNOWN_DIMENSIONS = 64  # that are kept of a trade

_UNPRINTABLE = re.compile("[\x00-\x20\x7f-\xa0\ud800-\udfff]+")


_SIGNATURE_PARTS = {"macro": "btc_macro", "meso": "btc_meso", "bucket_rank": "bucket_rank_position"}
SIGNATURE_DIMENSIONS = tuple(_SIGNATURE_PARTS.values())


@dataclass(frozen=True)
class Scope:
    """``values``: dimension to value, by dimension. ``unknown``: those of them not in DIMENSIONS."""

    values: dict[str, str]
    unknown: tuple[str, ...]


def flatten(entry_context: Mapping[str, Any] | None, patterns: PatternsPolicy) -> Scope:
    """The scope of a trade from its ``entry_context`` (see README, "Messages"); never raises.

    Regime states come from ``regime_states`` (``{"btc_macro": "S3"}`` or ``{"btc": {"macro": "S3"}}``), the others from
    ``scope``, then from the top level, where ``bucket`` is the mcap_bucket; ``A_value`` and ``E_value`` become
    the modes low, mid and high. A dimension without a value is absent. One that is not known is kept, up to 64 of
    them by name. Names and values are at most 64 bytes long; of a longer one a hash keeps it apart from others.

    >>> flatten({"bucket": "nano", "A_value": 0.72, "scope": {"mood": True, "chain": None}}, PatternsPolicy())
    Scope(values={'A_mode': 'high', 'mcap_bucket': 'nano', 'mood': 'true'}, unknown=('mood',))
    """
    found: dict[str, str] = {}
    for name, value in _pairs(entry_context or {}, patterns):
        written, dimension = _as_text(value), _bounded(name)
        if written and dimension:
            found.setdefault(dimension, written)
    unknown = sorted(dimension for dimension in found if dimension not in DIMENSIONS)
    kept = {dimension: found[dimension] for dimension in sorted(found) if dimension in DIMENSIONS}
    kept.update((dimension, found[dimension]) for dimension in unknown[:MAX_UNKNOWN_DIMENSIONS])
    return Scope(dict(sorted(kept.items())), tuple(unknown[:MAX_UNKNOWN_DIMENSIONS]))


def timeframe_of(entry_context: Any) -> str | None:
    """The timeframe of a trade as its scope has it, without the rest of the scope; None where there is none.

    >>> timeframe_of({"timeframe": "1h", "scope": {"timeframe": "4h"}}), timeframe_of(None)
    ('4h', None)
    """
    context = _mapping(entry_context)
    return _as_text(_mapping(context.get("scope")).get("timeframe")) or _as_text(context.get("timeframe")) or None


def regime_signature(scope: Mapping[str, str]) -> str:
    """The regime signature of a trade, such as ``macro=S3|meso=S1|bucket_rank=1``, for the weights of the edge score.

    A dimension that is absent is left out; without any of them the signature is "".

    ``macro`` and ``meso`` are those of BTC, ``bucket_rank`` is bucket_rank_position.

    >>> regime_signature({"btc_macro": "S3", "bucket_rank_position": "1", "chain": "solana"})
    'macro=S3|bucket_rank=1'
    """
    return "|".join(f"{name}={scope[dimension]}" for name, dimension in _SIGNATURE_PARTS.items() if dimension in scope)


def _pairs(context: Mapping[str, Any], patterns: PatternsPolicy) -> Iterator[tuple[str, Any]]:
    """Names and values; of a name that comes several times the first value counts."""
    for name, value in _mapping(context.get("regime_states")).items():
        if isinstance(value, Mapping):
            yield from ((f"{name}_{horizon}", state) for horizon, state in value.items())
        else:
            yield name, value
    scope = _mapping(context.get("scope"))
    yield from ((name, value) for name, value in scope.items() if name not in ("A_value", "E_value"))
    yield from ((name, context.get(name)) for name in TOKEN_DIMENSIONS)
    yield "mcap_bucket", context.get("bucket")
    for source in (scope, context):
        yield "A_mode", _mode(source.get("A_value"), patterns)
        yield "E_mode", _mode(source.get("E_value"), patterns)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mode(value: Any, patterns: PatternsPolicy) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if value < patterns.mode_low_below:
        return "low"
    return "high" if value >= patterns.mode_high_from else "mid"


def _as_text(value: Any) -> str:
    if value is None or value == {} or value == []:
        return ""
    if isinstance(value, str):
        return _bounded(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)  # 1.0 and 1 are the same JSON number
    return _bounded(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str))


def _bounded(text: str) -> str:
    return _shortened_once(text) if len(text) <= MAX_TEXT_BYTES else _shortened(text)


def _shortened(text: str) -> str:
    text = _UNPRINTABLE.sub(" ", text).strip()
    raw = text.encode()
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    digest = hashlib.sha256(raw).hexdigest()[:12]
    return f"{raw[: MAX_TEXT_BYTES - 13].decode(errors='ignore')}~{digest}"


# Engines send the same few names and values with every trade.
_shortened_once = lru_cache(maxsize=16_384)(_shortened)
