"""Golden values of pysodmetrics, which would downgrade numpy in this environment.

    uv run --no-project --python 3.12 --with pysodmetrics --with pillow \
        tests/golden/saliency.py path/to/Kvasir-SEG
"""

import csv
import sys
import warnings
from itertools import chain
from pathlib import Path

from pairs import random_pairs, real_pairs
from py_sod_metrics import MAE, Emeasure, Smeasure, WeightedFmeasure

HERE = Path(__file__).parent


def row(probability, mask):
    """All scores of one pair."""
    warnings.simplefilter("ignore")
    found = {}
    for metric in (MAE(), WeightedFmeasure(), Smeasure(), Emeasure()):
        metric.step(probability, mask, normalize=False)
        found |= metric.get_results()
    curve = found["em"]["curve"]
    return [found["mae"], found["wfm"], found["sm"], curve.mean(), curve.max()]


pairs = chain(random_pairs(), real_pairs(HERE.parents[1], Path(sys.argv[1])))
with open(HERE / "saliency.csv", "w", newline="") as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["mae", "weighted_f", "s_measure", "e_mean", "e_max"])
    writer.writerows([f"{value:.9f}" for value in row(*pair)] for pair in pairs)
