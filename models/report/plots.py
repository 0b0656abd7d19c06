"""Draws what `evaluate` found. The same figures give the same bytes: no date, no random names."""

import io
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from report import evaluate

# Told apart by colour-blind eyes too, and by their lightness where there is no colour.
CANDIDATE, LIVE, QUIET = "#0b6e99", "#e8833a", "#6b7280"
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "mainstay",
        # Text stays text: small, searchable, and read aloud.
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.edgecolor": QUIET,
        "figure.constrained_layout.use": True,
    }
)


@dataclass(frozen=True)
class Plot:
    """A drawing, and in words what is to be seen in it."""

    name: str
    title: str
    words: str
    svg: bytes
    png: bytes


def confusion(counts: np.ndarray, classes: list[str]) -> Plot:
    shares = counts / counts.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(5.2, 0.9 + 0.9 * len(classes)))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for truth, label in np.ndindex(counts.shape):
        axes.text(
            label,
            truth,
            f"{counts[truth, label]:,}\n{shares[truth, label]:.1%}",
            ha="center",
            va="center",
            color="white" if shares[truth, label] > 0.5 else "black",
        )
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    right = np.trace(counts) / counts.sum()
    words = f"{right:.2%} of {counts.sum():,} rows lie on the diagonal, where the label is right."
    return _plot(figure, "confusion", "Confusion matrix", words)


def calibration(
    bins: list[evaluate.CalibrationBin], live: list[evaluate.CalibrationBin] | None, said: str
) -> Plot:
    figure = Figure(figsize=(5.2, 4.6))
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--", label="as said")
    if live is not None:
        _reliability(axes, live, LIVE, "live version", "s")
    _reliability(axes, bins, CANDIDATE, "this version", "o")
    axes.set_ylabel("share that came true")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(-0.03, 1.03)
    axes.legend(frameon=False, loc="upper left")
    counts.bar(
        [one.mean_probability for one in bins],
        [one.observed.rows for one in bins],
        width=0.03,
        color=CANDIDATE,
    )
    counts.set_yscale("log")
    counts.set_ylabel("rows")
    counts.set_xlabel(f"probability of {said}")
    error = evaluate.calibration_error(bins)
    words = (
        f"On average the probability is {error:.4f} off what came true. Bars show where the share "
        "lies 19 times in 20; below, how many rows each point stands for."
    )
    return _plot(figure, "calibration", "Calibration", words)


def recall(
    recalls: dict[str, evaluate.Interval], live: dict[str, evaluate.Interval] | None, what: str
) -> Plot:
    figure = Figure(figsize=(6.4, 1.1 + 0.55 * len(recalls)))
    axes = figure.subplots()
    places = np.arange(len(recalls))[::-1]
    sets = [(recalls, CANDIDATE, "this version", 0.17 if live else 0.0, "o")]
    if live:
        sets.append((live, LIVE, "live version", -0.17, "s"))
    for found, colour, label, shift, marker in sets:
        shares = [one.share for one in found.values()]
        reach = _reach(list(found.values()))
        axes.errorbar(
            shares, places + shift, xerr=reach, fmt=marker, color=colour, capsize=3, label=label
        )
    axes.set_yticks(places, [f"{kind}\n{one.rows:,} rows" for kind, one in recalls.items()])
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.6, len(recalls) - 0.4)
    axes.set_xlabel("share that is recognised")
    axes.grid(axis="x", color="#e5e7eb")
    axes.set_axisbelow(True)
    if live:
        figure.legend(frameon=False, loc="outside upper right", ncols=2)
    worst = min(recalls, key=lambda kind: recalls[kind].share)
    words = f"Recognised least: {worst}, {recalls[worst].share:.1%} of {recalls[worst].rows:,} rows."
    return _plot(figure, "recall", f"Recall by {what}", words)


def comparison(found: evaluate.Answers, compared: evaluate.Comparison) -> Plot:
    """The difference of every group, and the mean of all."""
    figure = Figure(figsize=(6.4, 2.6))
    axes = figure.subplots()
    axes.axvline(0, color=QUIET, linewidth=1, linestyle="--")
    # Equal differences lie above each other, so that none is hidden.
    seen: dict[float, int] = {}
    heights = []
    for difference in np.round(compared.differences, 4):
        heights.append(seen.setdefault(float(difference), 0))
        seen[float(difference)] += 1
    axes.scatter(compared.differences, heights, color=CANDIDATE, s=26, zorder=3)
    reach = evaluate.CERTAIN * compared.standard_error
    axes.axvspan(compared.mean - reach, compared.mean + reach, color=CANDIDATE, alpha=0.15)
    axes.axvline(compared.mean, color=CANDIDATE, linewidth=2)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(y=0.2)
    widest = max(float(np.abs(compared.differences).max()), reach + abs(compared.mean), 1e-3)
    axes.set_xlim(-1.15 * widest, 1.15 * widest)
    axes.set_xlabel(
        f"{found.score_name} of this version minus that of the live one; a point per {found.group}"
    )
    words = (
        f"Mean difference {compared.mean:+.5f} ± {reach:.5f}: "
        f"{compared.verdict}. Points to the right speak for this version."
    )
    return _plot(figure, "comparison", f"Against live {compared.live.number}", words)


def _reliability(
    axes: Axes, bins: list[evaluate.CalibrationBin], colour: str, label: str, marker: str
) -> None:
    axes.errorbar(
        [one.mean_probability for one in bins],
        [one.observed.share for one in bins],
        yerr=_reach([one.observed for one in bins]),
        fmt=f"{marker}-",
        color=colour,
        linewidth=1,
        capsize=3,
        label=label,
    )


def _reach(intervals: list[evaluate.Interval]) -> list[list[float]]:
    """How far an interval goes below and above its share, as error bars are given."""
    return [
        [max(0.0, one.share - one.low) for one in intervals],
        [max(0.0, one.high - one.share) for one in intervals],
    ]


def _plot(figure: Figure, name: str, title: str, words: str) -> Plot:
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=130, metadata={"Software": None})
    return Plot(name, title, words, svg.getvalue(), png.getvalue())
