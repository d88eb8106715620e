"""Differences of means within cells as weighted sums over trades, added up by clusters of trades."""

from typing import NamedTuple

import numpy as np

from closeloop.learning.luck import ClusterSums
from closeloop.learning.trades import Bools, Floats, Ints


class Clusters(NamedTuple):
    """Trades in clusters: ``code`` (n,) of each trade's; ``counts`` and ``sums`` of y, (clusters, cells), of all trades
    that can still be compared."""

    code: Ints
    counts: Floats
    sums: Floats

    @classmethod
    def of(cls, code: Ints, rows: Ints, y: Floats, cell: Ints, cells: int) -> "Clusters":
        """Add up the trades ``rows`` (r,), which have these ``y`` and ``cell`` (r,)."""
        size = int(code.max()) + 1 if len(code) else 1
        spread = code[rows] * cells + cell
        counts, sums = np.array([np.bincount(spread, each, size * cells) for each in (None, y)], np.float64)
        return cls(code, counts.reshape(size, cells), sums.reshape(size, cells))


class Contrasts:
    """The differences D of m candidates, no two of which share a trade.

    ``rows`` (r,) are the trades inside any of them, ``which`` (r,) says inside which one; ``y`` and ``cell`` (r,) are
    theirs; ``counts`` and ``sums`` (cells,) of all trades. Trades inside enter D with ``share / n1`` of their cell,
    those outside with ``-share / n0``.
    """

    def __init__(
        self, rows: Ints, which: Ints, m: int, y: Floats, cell: Ints, counts: Floats, sums: Floats, least: int
    ) -> None:
        self.rows, self._which, self._m, self._y = rows, which, m, y
        width = len(counts)
        self._spread = which * width + cell
        n1 = np.bincount(self._spread, minlength=m * width).reshape(m, width).astype(np.float64)
        s1 = np.bincount(self._spread, y, m * width).reshape(m, width)
        n0 = counts - n1
        self._usable: Bools = (n1 >= least) & (n0 >= least)
        n1, n0 = np.where(self._usable, n1, 1.0), np.where(self._usable, n0, 1.0)
        w = np.where(self._usable, n1 * n0 / counts, 0.0)
        total = w.sum(axis=1, keepdims=True)
        share = w / np.where(total > 0, total, 1.0)
        m1, m0 = s1 / n1, (sums - s1) / n0
        self._slope, self._shift = share * (1 / n1 + 1 / n0), share * (m1 / n1 + m0 / n0)
        self._gap, self._out, self._m0 = np.where(self._usable, m1 - m0, 0.0), share / n0, m0
        self.effect: Floats = (share * (m1 - m0)).sum(axis=1)
        self.squares: Floats = (share * self._slope).sum(axis=1)

    def inside(self, clusters: Clusters) -> Floats:
        """How many trades that are compared lie inside, by cluster (m, clusters)."""
        if self._usable.all():
            return self._by(clusters, None)
        return self._by(clusters, self._usable.ravel()[self._spread])

    def compared(self, clusters: Clusters) -> Floats:
        """How many trades are compared, inside and outside, by cluster (m, clusters)."""
        compared: Floats = np.einsum("kc,gc->kg", self._usable.astype(np.float64), clusters.counts)
        return compared

    def added(self, clusters: Clusters) -> Floats:
        """What each cluster adds to D's deviation: its trades' residuals with their weights (m, clusters)."""
        added = self._by(clusters, self._slope.ravel()[self._spread] * self._y - self._shift.ravel()[self._spread])
        added -= np.einsum("kc,gc->kg", self._out, clusters.sums)
        added += np.einsum("kc,gc->kg", self._out * self._m0, clusters.counts)
        return added

    def sums(self, clusters: Clusters, chosen: Ints | slice = slice(None)) -> ClusterSums:
        """What the luck of clusters is estimated from, of the ``chosen`` candidates."""
        usable = self._usable[chosen].astype(np.float64)
        n = np.einsum("kc,gc->kg", usable, clusters.counts)
        if self._usable.shape[1] == 1:
            inside = self._by(clusters, None)[chosen]
            weight, residual = self._slope[chosen] * inside, -self._gap[chosen] * inside
        else:
            weight = self._by(clusters, self._slope.ravel()[self._spread])[chosen]
            residual = -self._by(clusters, self._gap.ravel()[self._spread])[chosen]
        weight -= np.einsum("kc,gc->kg", self._out[chosen], clusters.counts)
        residual += np.einsum("kc,gc->kg", usable, clusters.sums)
        residual -= np.einsum("kc,gc->kg", usable * self._m0[chosen], clusters.counts)
        return ClusterSums(n, weight, residual)

    def _by(self, clusters: Clusters, weights: Floats | None) -> Floats:
        size = len(clusters.counts)
        place = self._which * size + clusters.code[self.rows]
        sums: Floats = np.asarray(np.bincount(place, weights, self._m * size), np.float64).reshape(self._m, size)
        return sums
