"""Draw curve.png from the logs of one run after another: `python -m train.plot train/curve.png train/log.csv`."""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def read(path):
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def joined(paths):
    """Rows of all logs, their tokens counted on; the first steps of a resumed run are on other data and left out."""
    rows, before = [], 0.0
    for path in paths:
        rows += [row | {"tokens": row["tokens"] + before} for row in read(path)[2 if before else 0 :]]
        before = rows[-1]["tokens"]
    return rows


def draw(rows, out):
    tokens = [r["tokens"] / 1e6 for r in rows]
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    axes.plot(tokens, [r["loss"] for r in rows], label="training loss")
    axes.plot(tokens, [r["held_out_loss"] for r in rows], label="held-out loss")
    quantised = next((t for t, r in zip(tokens, rows, strict=True) if r["quantised"]), None)
    if quantised:
        axes.axvline(quantised, color="grey", linestyle=":", label="4-bit forward pass from here")
    axes.set(xlabel="million tokens", ylabel="weighted cross-entropy (nats)", yscale="log", title="Smelt's built-in model")
    right = axes.twinx()
    right.plot(tokens, [r["lr"] for r in rows], color="tab:green", alpha=0.4)
    right.set_ylabel("learning rate", color="tab:green")
    axes.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    draw(joined(sys.argv[2:]), sys.argv[1])
