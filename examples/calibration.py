"""How well calibrated are forecasts that lie in a CSV file? Scores and a reliability diagram, without a database.

    python examples/calibration.py games.csv calibration.svg

reads a file with a probability and its outcome (0 or 1) in each row, such as FiveThirtyEight's NBA games
("Checking our work", CC BY 4.0), where the columns are ``prob1`` and ``prob1_outcome``.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from closeloop.cli.reliability_diagram import draw
from closeloop.learning.calibration import performance, reliability, sums
from closeloop.models.policy import ProducersPolicy
from closeloop.models.producers import ReliabilityBin


def main(source: str, picture: str, probability: str = "prob1", outcome: str = "prob1_outcome") -> None:
    """Print the scores and draw the diagram."""
    with open(source, newline="") as file:
        rows = [(float(row[probability]), float(row[outcome]) == 1) for row in csv.DictReader(file)]
    confidence = np.array([stated for stated, _ in rows])
    right = np.array([came_true for _, came_true in rows])
    everything = sums(np.zeros(len(rows), dtype=np.int64), confidence, right, np.ones(len(rows)), groups=1)
    scores = performance(everything, ProducersPolicy())
    for name in ("outcomes", "hit_rate", "brier", "reliability", "resolution", "uncertainty", "calibration_error"):
        print(f"{name:<20} {vars(scores)[name][0]:.4f}")
    bins = [ReliabilityBin.model_validate(vars(b)) for b in reliability(everything[0])]
    draw(Path(picture), f"{len(rows)} forecasts", bins, None)


if __name__ == "__main__":
    main(*sys.argv[1:])
