"""Chooses golden rows: inputs that tell two runtimes apart if anything does.

They are rows of every class, rows exactly on thresholds of the trees with their float32 neighbours
on both sides, the edges of the training range and what lies outside. scikit-learn answers them.
"""

from collections.abc import Callable

import numpy as np

from training import graph
from training.card import GoldenRow

# A label that hangs on the last bits of a sum is no evidence for or against a runtime.
DECISIVE = 1e-4

Answer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
Noted = tuple[np.ndarray, str]


def answered(noted: list[Noted], answer: Answer, threshold: float | None) -> tuple[GoldenRow, ...]:
    """The rows with scikit-learn's answers, without repetitions and without ties."""
    rows = np.stack([row for row, _ in noted])
    labels, probabilities = answer(rows)
    golden: dict[bytes, GoldenRow] = {}
    for row, (_, note), label, probability in zip(rows, noted, labels, probabilities, strict=True):
        if threshold is None:
            second, first = np.sort(probability)[-2:]
            margin = first - second
        else:
            margin = abs(probability[-1] - threshold)
        if margin > DECISIVE:
            golden.setdefault(row.tobytes(), GoldenRow(row, int(label), probability, note))
    return tuple(golden.values())


def of_every_class(
    rows: np.ndarray, answer: Answer, classes: tuple[str, ...], ranks: tuple[float, ...]
) -> list[Noted]:
    """Rows at these ranks of each class's probability, among the rows labelled as that class."""
    labels, probabilities = answer(rows)
    noted = []
    for index, name in enumerate(classes):
        own = np.flatnonzero(labels == index)
        own = own[np.argsort(probabilities[own, index], kind="stable")]
        for rank in ranks:
            row = own[round(rank * (len(own) - 1))]
            noted.append((rows[row], f"{name}, probability at rank {rank:.0%}"))
    return noted


def on_thresholds(
    model: bytes,
    engineering: graph.Engineering,
    varied: dict[str, str],
    rows: np.ndarray,
    answer: Answer,
    per_input: int = 2,
) -> list[Noted]:
    """Rows that sit on a tree's threshold, and their two neighbours in float32.

    For each tree input named in `varied`, the column it is varied by. A threshold is preferred if
    a row can meet it exactly and if the answer differs between the row on it and the row above.
    """
    names = engineering.columns + engineering.added
    inputs = engineering.tree_inputs(rows)
    noted = []
    for name, column in varied.items():
        seen = inputs[:, names.index(name)]
        thresholds = [value for feature, value in graph.cuts(model) if names[feature] == name]
        found: list[tuple[int, list[Noted]]] = []
        for threshold in thresholds[:12]:
            nearest = np.argsort(np.abs(seen - threshold), kind="stable")[:12]
            triples, met = _straddles(rows[nearest], engineering, name, column, threshold)
            _, probabilities = answer(triples.reshape(-1, rows.shape[1]))
            _, on, above = probabilities.reshape(len(nearest), 3, -1).swapaxes(0, 1)
            worth = met + 2 * (on != above).any(axis=1)
            best = int(np.argmax(worth))
            words = (
                "next float below",
                "on" if met[best] else "just under",
                "next float above",
            )
            notes = [f"{word} a threshold of {name}" for word in words]
            found.append((int(worth[best]), list(zip(triples[best], notes, strict=True))))
        found.sort(key=lambda valued: -valued[0])
        for _, triple in found[:per_input]:
            noted.extend(triple)
    return noted


def at_the_edges(rows: np.ndarray, columns: tuple[str, ...], typical: np.ndarray) -> list[Noted]:
    """A typical row with each column in turn at its least and greatest value, and far outside."""
    noted = [(np.zeros(len(columns), np.float32), "zeros")]
    for index, name in enumerate(columns):
        least, greatest = rows[:, index].min(), rows[:, index].max()
        for value, note in (
            (least, f"least {name}"),
            (greatest, f"greatest {name}"),
            (np.float32(-1), f"{name} below every training row"),
            (np.float32(1e6), f"{name} above every training row"),
        ):
            row = typical.copy()
            row[index] = value
            noted.append((row, note))
    return noted


def _straddles(
    bases: np.ndarray,
    engineering: graph.Engineering,
    name: str,
    column: str,
    threshold: np.float32,
) -> tuple[np.ndarray, np.ndarray]:
    """Each base with the greatest `column` for which `name` is not above the threshold.

    The float32 below it and the one above it stand around it: [bases, 3, columns]. Also whether
    the middle row meets the threshold exactly. `name` must not fall as `column` rises.
    """
    place = engineering.columns.index(column)
    target = (engineering.columns + engineering.added).index(name)

    def varied(bits: np.ndarray) -> np.ndarray:
        rows = bases.copy()
        rows[:, place] = bits.view(np.float32)
        return rows

    def reached(bits: np.ndarray) -> np.ndarray:
        return engineering.tree_inputs(varied(bits))[:, target]

    # The bits of positive float32 numbers are ordered as the numbers are.
    low = np.full(len(bases), 1e-3, np.float32).view(np.int32)
    high = np.full(len(bases), 1e6, np.float32).view(np.int32)
    while (high - low > 1).any():
        middle = low + (high - low) // 2
        within = reached(middle) <= threshold
        low, high = np.where(within, middle, low), np.where(within, high, middle)
    return np.stack([varied(low - 1), varied(low), varied(low + 1)], axis=1), (
        reached(low) == threshold
    )
