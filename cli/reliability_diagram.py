"""The reliability diagram: of what was said with a confidence, how much came true."""

from collections.abc import Sequence
from pathlib import Path

from closeloop.models.producers import RecalibrationView, ReliabilityBin


def draw(path: Path, title: str, bins: Sequence[ReliabilityBin], recalibration: RecalibrationView | None) -> None:
    """Write the diagram (SVG, PNG or PDF by the file's ending): hit rate over confidence, with counts below.

    ``recalibration`` is drawn over it, if there is one in force. Raises ValueError for an ending that nothing can be
    drawn to, OSError where the file cannot be written.
    """
    import matplotlib  # half a second: only who draws waits for it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "closeloop"  # the same diagram is the same file
    filled = [b for b in bins if b.outcomes]
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(5.5, 6.5), height_ratios=(4, 1), sharex=True, layout="constrained"
    )
    above.plot((0, 1), (0, 1), color="#999999", linewidth=1, linestyle="--", label="perfectly calibrated")
    rates = [b.hit_rate or 0.0 for b in filled]
    errors = [
        [max(0.0, rate - (b.hit_low or 0.0)) for rate, b in zip(rates, filled, strict=True)],
        [max(0.0, (b.hit_high or 1.0) - rate) for rate, b in zip(rates, filled, strict=True)],
    ]
    above.errorbar(
        [b.mean_confidence for b in filled], rates, yerr=errors, fmt="o-", color="#1f5fa8", ecolor="#8fb3d9",
        capsize=3, label="observed, 95 % interval",
    )  # fmt: skip
    if recalibration:
        stated, mapped = recalibration.stated, recalibration.recalibrated
        above.plot(stated, mapped, color="#c25b12", linewidth=1.2, label="recalibration in force")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that came true", title=title)
    above.legend(loc="upper left", frameon=False)
    bars = below.bar(
        [b.low for b in bins], [b.outcomes for b in bins], [b.high - b.low for b in bins],
        align="edge", color="#8fb3d9", edgecolor="white",
    )  # fmt: skip
    below.bar_label(bars, labels=[str(b.outcomes) if b.outcomes else "" for b in bins], fontsize=7)
    below.margins(y=0.25)
    below.set(xlabel="stated confidence", ylabel="forecasts")
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    finally:
        pyplot.close(figure)
