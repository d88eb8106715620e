"""Maps: what the columns of an engine's table of trades are. ``ready/*.yaml`` ship with closeloop."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from closeloop.gateways.trades import NotTrades
from closeloop.models.refusals import describe

READY = Path(__file__).resolve().parent / "ready"
MAX_MAP_BYTES = 64 * 1024


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


def _words(value: Any) -> Any:
    """Words as texts: YAML reads 1 as a number and true as a truth value."""
    listed = value if isinstance(value, list) else [value]
    return [str(word).lower() if isinstance(word, bool) else str(word) for word in listed]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no timezone {name[:60]!r}: write one such as UTC or Europe/Berlin") from None
    return name


Columns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed), Field(min_length=1)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Constant(_Part):
    """The same for every row."""

    value: Annotated[str, Field(min_length=1)]


class TextColumn(_Part):
    """A text column. ``words`` are replaced; ``none`` are values that say nothing."""

    column: Columns
    words: dict[str, str] = {}
    none: Words = ()

    @model_validator(mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("words"), dict):
            return value | {"words": {str(k): v for k, v in value["words"].items()}}
        return value


Text = Columns | TextColumn | Constant


class Condition(_Part):
    """True of a row where the column is one of these words, is none of them, or is empty."""

    column: str
    is_: Words | None = Field(default=None, alias="is")
    is_not: Words | None = None
    empty: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(part is not None for part in (self.is_, self.is_not, self.empty)) != 1:
            raise ValueError("takes one of is, is_not and empty")
        return self


class DirectionWords(_Part):
    """The words of a column that mean long and short, in capitals or not."""

    column: Columns
    long: Words
    short: Words


class DirectionSign(_Part):
    """A size that is negative where the position is short."""

    sign_of: Columns


class Size(_Part):
    """The size that was ordered. ``filled``: the money that was filled, of the entry or of both sides; must agree."""

    column: Columns
    filled: str | None = None


class Pnl(_Part):
    """PnL. ``gross`` − ``fees`` + ``added`` is net. ``either``: whether it is net, its prices tell."""

    net: Columns | None = None
    gross: Columns | None = None
    either: Columns | None = None
    fees: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    added: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sum(part is not None for part in (self.net, self.gross, self.either)) != 1:
            raise ValueError("takes one of net, gross and either")
        if self.net and (self.fees or self.added):
            raise ValueError("net: has no fees to take off")
        if self.either and not self.fees:
            raise ValueError("either: needs fees, to tell net from gross")
        if self.gross and not (self.fees or self.added):
            raise ValueError("gross: needs fees (or added), for closeloop takes net PnL only")
        return self


class Orders(_Part):
    """A list of the position's orders: entry fills and the first stop tell the money at risk."""

    list: str
    type: str
    stop: Words
    side: str
    buy: Words
    sell: Words
    price: str
    quantity: str
    status: str
    filled: Words


class Risk(_Part):
    """Money at risk at entry: stated, or from a stop's price, its distance as a ratio of the entry, or the orders."""

    money: Columns | None = None
    stop_price: Columns | None = None
    stop_ratio: Columns | None = None
    orders: Orders | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(part is not None for part in (self.money, self.stop_price, self.stop_ratio, self.orders)) != 1:
            raise ValueError("takes one of money, stop_price, stop_ratio and orders")
        return self


class Excursion(_Part):
    """How far it went: in account money, in percent or as a ratio of the entry notional, or as a price."""

    column: Columns
    unit: Literal["money", "percent", "ratio", "price"]


class Identity(_Part):
    """The columns that make a position's id. ``without_uuid``: a random UUID at a part's end is none of it."""

    columns: Columns
    without_uuid: bool = False


class TableMap(_Part):
    """What the columns of a table of trades are. A column of JSON may be a path: ``symbol.value``, ``symbols.0.value``.

    Where a list of columns is given, the first that is there counts.
    """

    name: str
    about: str = ""
    known_by: tuple[str, ...] = ()
    refused_without: dict[str, str] = {}
    rows: Columns | None = None
    run: Literal["backtest", "live"] = "backtest"
    timezone: Annotated[str, AfterValidator(_zone)] | None = None
    epoch: Literal["s", "ms", "us", "ns"] | None = None
    time_format: str | None = None
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = None
    skip: tuple[Condition, ...] = ()
    open: tuple[Condition, ...] = ()
    book: Text | None = None
    symbol: Text | None = None
    direction: DirectionWords | DirectionSign | Constant
    opened_at: Columns
    closed_at: Columns
    entry_price: Columns
    exit_price: Columns | None = None
    exit_from_pnl: Columns | None = None  # without an exit price: the one that net PnL and these fees give
    size: Columns | Size
    pnl: Pnl
    currency: Text | None = None
    risk: Risk | None = None
    adverse: Excursion | None = None
    favorable: Excursion | None = None
    exit_reason: Text | None = None
    regime: Text | None = None
    producers: tuple[Text, ...] = ()
    id: Identity | Columns | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.thousands == self.decimal:
            raise ValueError("thousands: must not be the decimal sign")
        if self.exit_price is None and not self.exit_from_pnl:
            raise ValueError("exit_price: must be named, unless exit_from_pnl names the fees")
        if isinstance(self.direction, Constant) and self.direction.value not in ("long", "short"):
            raise ValueError("direction.value: must be long or short")
        return self


def ready_names() -> list[str]:
    """The maps that come with closeloop."""
    return sorted(path.stem for path in READY.glob("*.yaml"))


def ready_maps() -> list[TableMap]:
    """The maps that come with closeloop."""
    return [load_map(name) for name in ready_names()]


def load_map(name: str) -> TableMap:
    """A ready map by its name, or a map of the user's own by the path of a YAML file. Raises NotTrades."""
    path = READY / f"{name}.yaml" if name in ready_names() else Path(name)
    if path.parent != READY and path.suffix not in (".yaml", ".yml"):
        raise NotTrades(
            f"there is no map {name!r}: the ready ones are {', '.join(ready_names())}; a file ends in .yaml"
        )
    fields = _fields(path)
    if "like" in fields:
        base = fields.pop("like")
        if base not in ready_names():
            raise NotTrades(f"the map {path}: like: must be one of {', '.join(ready_names())}")
        fields = {**_fields(READY / f"{base}.yaml"), "known_by": (), **fields}
    try:
        return TableMap.model_validate({"name": path.stem, **fields})
    except ValidationError as error:
        raise NotTrades(f"the map {path} cannot be used: {_told(error)}") from None
    except RecursionError:
        raise NotTrades(f"the map {path} is nested too deep") from None


def _fields(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MAP_BYTES + 1)
        if len(content) > MAX_MAP_BYTES:
            raise NotTrades(f"the map {path} is larger than {MAX_MAP_BYTES // 1024} KiB")
        if b"&" in content and b"*" in content:  # aliases multiply what they stand for
            raise NotTrades(f"the map {path} has YAML anchors; write it without")
        fields = yaml.safe_load(content)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise NotTrades(f"the map {path} cannot be read ({' '.join(str(error).split())[:300]})") from None
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise NotTrades(f"the map {path} is no map: it must be lines such as 'symbol: Ticker'")
    return fields


def _told(error: ValidationError) -> str:
    return describe(error, limit=5)
