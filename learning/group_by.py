"""Group-bys of a group's trades: columnar counts over mixed-radix codes, in blocks of trades that stay in the cache."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from closeloop.learning.scope import DIMENSIONS
from closeloop.learning.trades import Floats, Group, Ints
from closeloop.models.policy import MiningPolicy

BLOCK_TRADES = 65_536  # counted at a time: their codes, sums and squares fit into a core's cache


@dataclass(frozen=True)
class Branch:
    """The group-by of a prefix (a set of dimensions) with one more ``dimension``.

    ``kept``: the combinations with enough trades, ascending, each value x radix of the prefix + id within the prefix;
    ``first``: the number of the first of them among all that were found; ``above``: the group-by that this one refines;
    ``deeper``: the group-bys that refine this one.
    """

    dimension: int
    kept: Ints
    first: int
    above: "Branch | None"
    deeper: "list[Branch]"

    @property
    def path(self) -> "list[Branch]":
        """The branches from the root down to this one."""
        return [*(self.above.path if self.above else ()), self]

    @property
    def radix(self) -> int:
        """How many ids there are within this branch, with 0 for none or too rare."""
        return len(self.kept) + 1


@dataclass(frozen=True)
class CodedColumns:
    """The dimensions of a group that can be mined, by name, with codes of their values.

    ``codes`` (n,) of a dimension: 0 is none or too rare, from 1 on the ``values`` with enough trades, by name.
    ``left_out``: dimensions beyond the policy's limit (unknown ones first, then those of fewest trades).
    Ids within a prefix, which the methods take and give: 0 is none or too rare.
    """

    dimensions: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    codes: tuple[Ints, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, group: Group, mining: MiningPolicy) -> "CodedColumns":
        """Those in which enough trades have a value, and enough others do not."""
        least, n = mining.min_trades, group.n
        minable: dict[str, tuple[int, Ints]] = {}
        for dimension, column in group.columns.items():
            counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
            frequent = np.flatnonzero(counts >= least)
            if (n - counts[frequent] >= least).any():
                minable[dimension] = int(counts.sum()), frequent
        ranked = sorted(minable, key=lambda name: (name not in DIMENSIONS, -minable[name][0], name))
        dimensions = sorted(ranked[: mining.max_dimensions])
        values, codes = [], []
        for dimension in dimensions:
            frequent, column = minable[dimension][1], group.columns[dimension]
            code_of = np.zeros(len(column.values) + 1, np.int64)  # the last is for -1
            code_of[frequent] = np.arange(1, len(frequent) + 1)
            values.append(tuple(column.values[code] for code in frequent))
            codes.append(code_of[column.codes])
        return cls(tuple(dimensions), tuple(values), tuple(codes), tuple(sorted(ranked[mining.max_dimensions :])))

    def group_bys(
        self, dimensions: Iterable[int], ids: Ints, radix: int, weights: Sequence[Floats]
    ) -> Iterator[tuple[int, tuple[Ints, Floats]]]:
        """For each dimension the labels (value x radix + id) that there are, and (1 + weights, labels): the count and
        sums of the weights. All dimensions are gone through block by block, while a block is in the cache."""
        dense = {}
        for dimension in dimensions:
            size = (len(self.values[dimension]) + 1) * radix
            if size > max(4 * len(ids), BLOCK_TRADES):
                # More combinations than trades: only those that occur, found by sorting.
                labels, codes = np.unique(self.codes[dimension] * radix + ids, return_inverse=True)
                sums = [np.bincount(codes, each, len(labels)) for each in (None, *weights)]
                yield dimension, (labels, np.array(sums, np.float64))
            else:
                dense[dimension] = np.zeros((1 + len(weights), size))
        for start in range(0, len(ids), BLOCK_TRADES):
            block = slice(start, start + BLOCK_TRADES)
            inner, parts = ids[block], [each[block] for each in weights]
            for dimension, table in dense.items():
                code = self.codes[dimension][block] * radix
                code += inner
                table[0] += np.bincount(code, minlength=table.shape[1])
                for row, part in enumerate(parts, 1):
                    table[row] += np.bincount(code, part, table.shape[1])
        for dimension, table in dense.items():
            yield dimension, (np.arange(table.shape[1]), table)

    def refined(self, branch: Branch, ids: Ints, radix: int) -> Ints:
        """Ids within a branch (n,) from those within its prefix."""
        combined, kept = self.codes[branch.dimension] * radix + ids, branch.kept
        size = (len(self.values[branch.dimension]) + 1) * radix
        if size <= max(4 * len(ids), BLOCK_TRADES):
            id_of = np.zeros(size, np.int64)
            id_of[kept] = np.arange(1, len(kept) + 1)
            renumbered: Ints = id_of[combined]
            return renumbered
        place = np.minimum(np.searchsorted(kept, combined), len(kept) - 1)
        return np.where(kept[place] == combined, place + 1, 0)

    @cached_property
    def _rows_of(self) -> dict[tuple[int, int], Ints]:
        return {}

    def rows(self, conditions: Iterable[tuple[int, int]]) -> Ints:
        """Trades that meet all (dimension, code), ascending: the shortest condition's, filtered by the others."""
        conditions = list(conditions)
        for dimension, code in conditions:
            if (dimension, code) not in self._rows_of:
                self._rows_of[dimension, code] = np.flatnonzero(self.codes[dimension] == code)
        shortest = min(conditions, key=lambda condition: len(self._rows_of[condition]))
        rows = self._rows_of[shortest]
        for dimension, code in conditions:
            if (dimension, code) != shortest:
                rows = rows[self.codes[dimension][rows] == code]
        return rows
