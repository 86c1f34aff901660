"""Plots of what bench/decode.py measured: both engines side by side, and what more rows in a step cost."""

from pathlib import Path

COLOURS = {"smelt": "#d1495b", "mlx-lm": "#30638e"}
KINDS = (("decode", "decode, tokens a second"), ("prefill", "prefill, tokens a second"))


def decode_plot(results: list[dict], path: Path) -> None:
    """One row of panels a shape: decode, prefill, and the step of several rows beside that of one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.8 * len(results)))
    axes = figure.subplots(len(results), 3, squeeze=False)
    for row, result in zip(axes, results, strict=True):
        for axis, (kind, title) in zip(row, KINDS, strict=False):
            bars(axis, result["medians"], kind, title)
        steps(row[2], result["medians"].get("smelt", {}))
        row[0].set_ylabel(result["shape"], fontweight="bold")
    axes[0][0].legend(frameon=False)
    save(figure, path)


def bars(axis, medians: dict[str, dict[str, float]], kind: str, title: str) -> None:
    keys = {key for side in medians.values() for key in side if key.startswith(f"{kind}@")}
    sizes = sorted(int(key.partition("@")[2]) for key in keys)
    for i, (engine, found) in enumerate(medians.items()):
        heights = [found.get(f"{kind}@{size}", 0.0) for size in sizes]
        drawn = axis.bar([x + 0.4 * i for x in range(len(sizes))], heights, 0.4, label=engine, color=COLOURS[engine])
        axis.bar_label(drawn, fmt=lambda height: f"{height:,.3g}" if height < 1000 else f"{height:,.0f}", fontsize=8)
    tidy(axis, title, [x + 0.2 for x in range(len(sizes))], [f"{size} tokens" for size in sizes])


def steps(axis, found: dict[str, float]) -> None:
    rows = sorted(int(key.partition("@")[2]) for key in found if key.startswith("step@"))
    drawn = axis.bar(range(len(rows)), [found[f"step@{row}"] for row in rows], 0.6, color=COLOURS["smelt"])
    axis.bar_label(drawn, fmt="%.3g", fontsize=8)
    tidy(axis, "a step, milliseconds", list(range(len(rows))), [f"{row} row{'s' * (row > 1)}" for row in rows])


def tidy(axis, title: str, ticks: list[float], labels: list[str]) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xticks(ticks, labels)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
