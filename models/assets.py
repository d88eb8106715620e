"""One name for an asset that engines and exchanges spell in several ways."""

import re
from functools import lru_cache


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What assets are priced in, as the second of two names with a separator between them: BTC-USDT.
_QUOTES = _names(
    "USDT USDC BUSD FDUSD TUSD USDP PYUSD USDD DAI USD EUR GBP JPY CHF AUD CAD NZD TRY BRL KRW INR MXN ZAR PLN SEK NOK "
    "DKK SGD HKD CNH RUB UAH IDR NGN ARS BTC ETH BNB SOL TRX DOGE"
)
# Of these, no name of an asset is known to end in one by chance: two characters before it suffice.
_PLAIN_ENDINGS = _names("USDT USDC FDUSD")
# Written without a separator, a pair is taken apart only where its first name is one of these: WBTC and GBTC are no
# pairs, nor is STETH, and ARBUSD may be ARB/USD as well as AR/BUSD.
_BASES = _names(
    "AAVE ADA ALGO APE APT AR ARB ATOM AUDIO AVAX AXS BAT BCH BNB BNT BTC CELO CHZ COMP CRO CRV DAI DASH DOGE DOT EGLD "
    "ENJ ENS EOS ETC ETH FET FIL FLOW FTM GALA GRT HBAR ICP ICX IMX INJ IOTA JTO JUP KAVA KNC KSM LDO LINK LRC LTC "
    "LUNA MANA MATIC MKR NEAR NEO NEXO OMG ONDO PAXG PENDLE PEPE POL QTUM RNDR RUNE RVN SAND SEI SHIB SNX SOL STORJ "
    "STX SUI SUSHI TAO THETA TIA TON TRUMP TRX UNI USDC USDT VET WIF WLD XEC XEM XLM XMR XRP XTZ YFI ZEC ZEN ZIL ZRX "
    "AUD CAD CHF EUR GBP JPY NZD USD XAG XAU"
)
_PAIR = re.compile(r"([A-Za-z0-9]{1,20})[/_-]([A-Za-z]{3,5})(?::([A-Za-z]{3,5}))?", re.ASCII)
_JOINED = re.compile(r"[A-Z0-9]{5,24}|[a-z0-9]{5,24}", re.ASCII)


@lru_cache(maxsize=65_536)
def canonical_asset(name: str) -> str:
    """The one name of an asset under which its forecasts and prices meet; a name that is not known stays as it is.

    A pair in a currency of a bounded list is BASE/QUOTE, with or without a separator and in capitals or not. A future
    (with the currency that it settles in, as ccxt writes it) is another instrument than the pair, and keeps that.
    Two assets must never become one: where a name can be read in two ways, it stays as it is.

    >>> [canonical_asset(name) for name in ("btc/usdt", "BTCUSDT", "BTC-USDT", "btc_usdt")]
    ['BTC/USDT', 'BTC/USDT', 'BTC/USDT', 'BTC/USDT']
    >>> [canonical_asset(name) for name in ("btc-usdt:usdt", "WBTC", "XBTUSD", "MSFT", "BRK-B", "PG/X")]
    ['BTC/USDT:USDT', 'WBTC', 'XBTUSD', 'MSFT', 'BRK-B', 'PG/X']
    """
    if found := _PAIR.fullmatch(name):
        base, quote, settled = (part and part.upper() for part in found.groups())
        if quote in _QUOTES and base != quote and (settled is None or settled in _QUOTES or settled == base):
            return f"{base}/{quote}" + (f":{settled}" if settled else "")
    elif _JOINED.fullmatch(name):
        joined = name.upper()
        cuts = (joined[:-length] for length in (5, 4, 3) if joined[-length:] in _QUOTES)
        bases = [base for base in cuts if _is_base(base, joined.removeprefix(base))]
        if len(bases) == 1:
            return f"{bases[0]}/{joined.removeprefix(bases[0])}"
    return name


def _is_base(base: str, quote: str) -> bool:
    return base != quote and (base in _BASES or (quote in _PLAIN_ENDINGS and len(base) >= 2))
