"""Draw curve.png from the logs of one run after another: `python -m train.plot train/curve.png train/log.csv train/log2.csv`."""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


def read(path):
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def counted_on(paths):
    """The rows of each log, their tokens counted on from the logs before."""
    runs, before = [], 0.0
    for path in paths:
        runs.append([row | {"tokens": row["tokens"] + before} for row in read(path)])
        before = runs[-1][-1]["tokens"]
    return runs


def _lines(axes, run, column, **style):
    return axes.plot([r["tokens"] / 1e6 for r in run], [r[column] for r in run], **style)


def _marks(axes, run, label):
    """Where the run begins, and from where on it sees 4-bit weights."""
    axes.axvline(run[0]["tokens"] / 1e6, color="grey", linewidth=0.8)
    quantised = [r["tokens"] / 1e6 for r in run if r["quantised"]]
    if quantised:
        axes.axvline(quantised[0], color="grey", linestyle=":", label=label)


def draw(runs, out):
    """The runs side by side and not joined: each weighs prompts and answers, and mixes tasks, in its own way."""
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    right = axes.twinx()
    for i, run in enumerate(runs):
        label = "_{}" if i else "{}"  # the legend leaves out what begins with _
        _lines(axes, run, "loss", color="tab:blue", label=label.format("training loss"))
        _lines(axes, run, "held_out_loss", color="tab:orange", label=label.format("held-out loss"))
        _marks(axes, run, label.format("4-bit forward pass from here"))
        _lines(right, run, "lr", color="tab:green", alpha=0.4)
        axes.text(run[0]["tokens"] / 1e6, 0.02, f" run {i + 1}", color="grey", transform=axes.get_xaxis_transform())
    axes.set(xlabel="million tokens", ylabel="weighted cross-entropy (nats)", yscale="log", title="Smelt's built-in model")
    right.set_ylabel("learning rate", color="tab:green")
    axes.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    draw(counted_on(sys.argv[2:]), sys.argv[1])
