"""Candles, and the files that hold them, as exchanges, engines and spreadsheets write them.

``files``: what kind of file it is. ``text``, ``arrays``, ``feather``: its rows. ``columns``: where a row has what.
``times``, ``rows``: what its cells say. ``checks``: whether the rows are one series of the asked-for interval.
"""

from closeloop.gateways.candles.columns import Timestamps
from closeloop.gateways.candles.files import on_disk
from closeloop.gateways.candles.reader import read_candles
from closeloop.gateways.candles.rows import Candle, NotCandles, RefusedRow, candle

__all__ = ["Candle", "NotCandles", "RefusedRow", "Timestamps", "candle", "on_disk", "read_candles"]
