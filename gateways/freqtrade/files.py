"""Which of freqtrade's files a file is, and the documents in it, read within bounds."""

import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from closeloop.gateways.freqtrade.database import SQLITE, read_database
from closeloop.gateways.trades import NotTrades

MAX_BYTES = 256 * 1024 * 1024  # of a document, and of all documents of an archive, once they are unpacked
PIECE_BYTES = 1024 * 1024
LATEST = ".last_result.json"
_BESIDE_A_RESULT = ("_config.json", ".meta.json", LATEST)
_PLAIN_NAME = re.compile(r"[^/\\\0]+")
_KEYS_SHOWN = 6


@dataclass(frozen=True)
class Result:
    """One strategy's backtest: its trades, its own section, and its metadata."""

    strategy: str
    trades: list[Any]
    section: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BotTrades:
    """What a running bot tells: its trades under the names of its REST answer.

    ``own_names``: how the file itself spells those of them that it spells otherwise. ``dry_run``: the file says so.
    """

    trades: list[Any]
    own_names: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False


Found = list[Result] | BotTrades


def find_trades(file: Path | bytes) -> Found:
    """The trades of any of freqtrade's files. Raises NotTrades, which says what the file is and what would do."""
    if isinstance(file, bytes):
        if file.startswith(SQLITE):
            raise NotTrades("it is a SQLite database, which is read from its file only: give its path")
        return _found_in(io.BytesIO(file), None)
    if file.is_dir():
        return _latest_of(file)
    try:
        with file.open("rb") as stream:
            if stream.read(len(SQLITE)) == SQLITE:
                trades, own_names = read_database(file, MAX_BYTES)
                return BotTrades(trades, own_names, dry_run="dryrun" in file.name.lower())
            stream.seek(0)
            return _found_in(stream, file)
    except OSError as error:
        raise NotTrades(f"it cannot be read ({error.strerror or error})") from None


def _latest_of(folder: Path) -> Found:
    if (folder / LATEST).is_file():
        return _follow(_document(_bounded((folder / LATEST).read_bytes())), folder)
    within = "backtest_results"
    hint = (
        f"give its folder {within}, or a result in that"
        if (folder / within).is_dir()
        else "give one of the results in it (backtest-result-….zip or .json)"
    )
    raise NotTrades(f"it is a folder without {LATEST}, which would name the latest backtest: {hint}")


def _follow(document: Any, folder: Path | None) -> Found:
    name = document.get("latest_backtest") if isinstance(document, dict) else None
    if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name) or name in ("..", "."):
        raise NotTrades(
            f'{LATEST} names no backtest ("latest_backtest"): give the result itself (backtest-result-….zip or .json)'
        )
    if folder is None:
        raise NotTrades(f"it is {LATEST}, which only names the latest result: give {name}")
    if name.endswith(LATEST) or not (folder / name).is_file():
        raise NotTrades(f"{LATEST} names {name}, which is not in its folder: give a result that is there")
    return find_trades(folder / name)


def _found_in(stream: IO[bytes], path: Path | None) -> Found:
    start = stream.read(4)
    stream.seek(0)
    if path is not None and path.suffix == ".fthypt":
        raise NotTrades(_HYPEROPT)
    if start.startswith(b"PK"):
        return _archive(stream, path)
    if start.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                content = _read(unpacked)
        except (zlib.error, EOFError, OSError) as error:
            raise NotTrades(f"the gzip file is damaged ({error})") from None
    else:
        content = _read(stream)
    document = _document(content)
    if isinstance(document, dict) and ("latest_backtest" in document or "latest_hyperopt" in document):
        return _follow(document, None if path is None else path.parent)
    return _classified(document, path)


_HYPEROPT = (
    "it holds the results of hyperopt (.fthypt), which have no trades: run a backtest with the parameters that it "
    "found, and give that result (backtest-result-….zip or .json)"
)


def _classified(document: Any, path: Path | None) -> Found:
    if isinstance(document, list):
        return _listed(document)
    if not isinstance(document, dict):
        raise NotTrades(f"it is JSON, but a single value: {_WOULD_DO}")
    if isinstance(document.get("backtest_result"), dict):  # the REST answer of a backtest
        document = document["backtest_result"]
    if "strategy" in document and not isinstance(document.get("trades"), list):
        return _results(document, _metadata(document, path))
    trades = document.get("trades")
    if isinstance(trades, list) and all(not isinstance(one, dict) or "trade_id" in one for one in trades):
        return BotTrades(trades)
    if "params_dict" in document or "results_metrics" in document:
        raise NotTrades(_HYPEROPT)
    if document and all(isinstance(each, dict) and "run_id" in each for each in document.values()):
        name = "the result beside it" if path is None else path.name.replace(".meta.json", ".json (or .zip)")
        raise NotTrades(f"it is the metadata of a backtest (.meta.json), which has no trades: give {name}")
    keys = ", ".join(f'"{str(key)[:40]}"' for key in list(document)[:_KEYS_SHOWN]) or "none"
    raise NotTrades(f'it has no "strategy" section and no list of "trades" (its top-level keys: {keys}): {_WOULD_DO}')


_WOULD_DO = (
    'a backtest result with its "strategy" section would do (.json or .zip), or a bot\'s trades (the answer of '
    "/api/v1/trades, show-trades --print-json, tradesv3.sqlite)"
)


def _listed(document: list[Any]) -> Found:
    if document and all(isinstance(one, dict) and "trade_id" in one for one in document):
        return BotTrades(document)
    if document and all(isinstance(one, list) for one in document):
        raise NotTrades(
            'it is a list of trades as freqtrade wrote it before 2020-06, without a "strategy" section and without '
            "amounts, so that nothing says how much was traded: run the backtest again with a newer freqtrade"
        )
    empty = "an empty list" if not document else "a list of something else than trades"
    raise NotTrades(f'it is {empty}, with no "strategy" section: {_WOULD_DO}')


def _metadata(document: dict[str, Any], path: Path | None) -> Any:
    """The metadata of a result, which most versions write into a file beside it."""
    if document.get("metadata") or path is None:
        return document.get("metadata")
    beside = path.with_name(f"{path.stem}.meta.json")
    try:
        return _document(_bounded(beside.read_bytes())) if beside.is_file() else None
    except (NotTrades, OSError):
        return None


def _results(document: dict[str, Any], metadata: Any) -> list[Result]:
    strategies = document["strategy"]
    if not isinstance(strategies, dict) or not strategies:
        raise NotTrades(f'its "strategy" section is empty or not an object: {_WOULD_DO}')
    found = []
    for name, section in strategies.items():
        trades = section.get("trades") if isinstance(section, dict) else None
        if not isinstance(trades, list):
            raise NotTrades(f'strategy "{name}" has no list of trades ("strategy" section): export with trades')
        own = metadata.get(name) if isinstance(metadata, dict) else None
        found.append(Result(name, trades, section, own if isinstance(own, dict) else {}))
    return found


def _archive(stream: IO[bytes], path: Path | None) -> list[Result]:
    found: list[Result] = []
    for document in _archived(stream):
        if isinstance(document, dict) and isinstance(document.get("strategy"), dict) and document["strategy"]:
            found += _results(document, _metadata(document, path))
    if not found:
        raise NotTrades('the archive holds no backtest result (a .json with a "strategy" section)')
    names = [result.strategy for result in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise NotTrades(
            f'the archive holds two results of strategy "{twice}", which are two runs: unpack it, and import each with '
            "a --book of its own"
        )
    return found


def _archived(stream: IO[bytes]) -> Iterator[Any]:
    left = MAX_BYTES
    try:
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".json") or info.filename.endswith(_BESIDE_A_RESULT):
                    continue
                if info.file_size > left:
                    raise NotTrades(_too_large())
                with archive.open(info) as member:
                    content = _read(member, left)
                left -= len(content)
                yield _document(content)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise NotTrades(f"the archive is damaged ({error})") from None


def _too_large() -> str:
    return f"it holds more than {MAX_BYTES // 1024**2} MiB of JSON: export a shorter range, or fewer strategies"


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise NotTrades(_too_large())
    return content


def _read(stream: IO[bytes] | gzip.GzipFile, limit: int = MAX_BYTES) -> bytes:
    """What the stream holds, whatever its header says of its length."""
    pieces, size = [], 0
    while piece := stream.read(PIECE_BYTES):
        size += len(piece)
        if size > limit:
            raise NotTrades(_too_large())
        pieces.append(piece)
    return b"".join(pieces)


def _document(content: bytes) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if content.startswith(b"\x80"):  # the first byte of a pickle, as hyperopt wrote it until 2021
            raise NotTrades(_HYPEROPT) from None
        first = content[:PIECE_BYTES].lstrip().split(b"\n", 1)[0]
        if first.startswith(b"{") and b'"params_dict"' in first:
            raise NotTrades(_HYPEROPT) from None
        raise NotTrades(f"it is not JSON ({error}): {_WOULD_DO}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{twice[:40]}" stands twice in one object')
    return made
