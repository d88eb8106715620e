"""Spellings of one asset meet; two assets never become one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.models.assets import canonical_asset

SPELLINGS = {
    "BTC/USDT": ["BTC/USDT", "BTCUSDT", "btc/usdt", "BTC-USDT", "BTC_USDT", "btcusdt", "Btc/Usdt", "btc_usdt"],
    "ETH/BTC": ["ETHBTC", "eth-btc", "ETH_BTC"],
    "EUR/USD": ["EURUSD", "EUR_USD", "eur/usd"],
    "1000PEPE/USDT": ["1000PEPEUSDT", "1000pepe-usdt"],
    "DOT/USD": ["DOTUSD", "DOT-USD"],  # not DO in TUSD
    "SHIB/USD": ["SHIBUSD"],  # not SHI in BUSD
    "BTC/TUSD": ["BTCTUSD"],
    "BTC/FDUSD": ["BTCFDUSD"],
    "TUSD/USDT": ["TUSDUSDT", "tusd/usdt"],
    "W/BTC": ["W-BTC", "w/btc"],
    "BTC/USDT:USDT": ["BTC/USDT:USDT", "btc/usdt:usdt", "BTC-USDT:USDT"],
    "BTC/USD:BTC": ["BTC/USD:BTC", "btc/usd:btc"],
}
AS_SENT = [
    # shares, indices, metals, and names of somebody's own
    "MSFT", "msft", "BRK-B", "BF-B", "^GSPC", "ES=F", "GOLD", "USD", "EDGE/X", "PG/X", "pg/x", "A1/X", "EURUSD=X",
    # wrapped and staked coins, funds, and words that end as a currency does
    "WBTC", "GBTC", "ABTC", "HBTC", "stETH", "STETH", "METH", "WBNB", "CUSDT", "SUSDT", "PYUSD", "ENTRY", "INDUSTRY",
    # an exchange's contracts, which are other instruments than the pair
    "XBTUSD", "BTC-USDT-SWAP", "BTC-PERP", "BTCUSDT.P", "BINANCE:BTCUSDT", "BTC/USDT:USDT-261225", "btcUsdt",
    # two readings: ARB in USD or AR in BUSD; USDT in USD or USD in TUSD
    "ARBUSD", "USDTUSD",
    "BTC/BTC", "BTC/", "/USDT", "BTC USDT", "ＢＴＣ/ＵＳＤＴ", "",
]  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_one_asset_are_one(name: str) -> None:
    assert {canonical_asset(spelling) for spelling in SPELLINGS[name]} == {name}


@pytest.mark.parametrize("name", AS_SENT)
def test_what_is_not_known_for_certain_stays_as_it_was_sent(name: str) -> None:
    assert canonical_asset(name) == name


@given(st.text(max_size=30) | st.from_regex(r"[A-Za-z]{1,8}[/_-]?[A-Za-z]{1,6}(:[A-Za-z]{3,5})?", fullmatch=True))
def test_the_one_name_is_its_own(name: str) -> None:
    once = canonical_asset(name)
    assert canonical_asset(once) == once
    assert len(once.encode()) <= len(name.encode()) + 1
