"""Scores versions on rows that they have not been trained on, and sets two of them side by side."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold

from training import graph, iris, pred_main, process

# A card's scores are rounded to four decimals.
ROUNDING = 1.0e-4
BINS = 10
# Of a difference, in standard errors: what chance alone reaches once in twenty times.
CERTAIN = 2.0


class ReportError(Exception):
    """Why there can be no report, for a person."""


@dataclass(frozen=True)
class Version:
    """A model's two files, which belong together."""

    card: dict
    model: bytes

    @property
    def name(self) -> str:
        return self.card["name"]

    @property
    def number(self) -> str:
        return self.card["version"]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model).hexdigest()

    @property
    def classes(self) -> list[str]:
        return self.card["output"]["label"]["classes"]

    def scores(self) -> dict[str, dict]:
        return {metric["name"]: metric for metric in self.card["metrics"]}


@dataclass(frozen=True)
class Answers:
    """What a version answers to rows that it was not trained on."""

    split: str
    group: str  # What `groups` numbers: machines, or folds.
    truth: np.ndarray  # int64 [rows]
    labels: np.ndarray  # int64 [rows]
    probabilities: np.ndarray  # float [rows, classes]
    groups: np.ndarray  # int64 [rows]
    kinds: dict[str, np.ndarray]  # bool [rows]: of which kind a row is, for recall by kind.
    score_name: str
    score: Callable[[np.ndarray, np.ndarray], float]

    def score_of_each(self) -> np.ndarray:
        """The score of every group by itself, in the groups' order."""
        each = [self.groups == group for group in np.unique(self.groups)]
        return np.array([self.score(self.truth[rows], self.labels[rows]) for rows in each])


@dataclass(frozen=True)
class Interval:
    """A share of rows, with the bounds in which it lies 19 times in 20 (Wilson's)."""

    rows: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose probability lies in one tenth, and how often they are what it is said of."""

    mean_probability: float
    observed: Interval


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the live version, on the same rows."""

    live: Version
    answers: Answers
    differences: np.ndarray  # Candidate's score minus the live version's, for each group.
    changed: int  # Rows that the two label differently.
    put_right: int  # Of those, the rows that the candidate labels rightly.

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    @property
    def standard_error(self) -> float:
        return float(self.differences.std(ddof=1) / np.sqrt(len(self.differences)))

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `no difference that these rows can show`."""
        if abs(self.mean) <= max(CERTAIN * self.standard_error, ROUNDING):
            return "no difference that these rows can show"
        return "better" if self.mean > 0 else "worse"


def read(folder: Path) -> Version:
    """Reads both files of a version; refuses a file that is not the card's."""
    try:
        card = yaml.safe_load((folder / "model.yaml").read_text())
        model = (folder / "model.onnx").read_bytes()
    except OSError as error:
        raise ReportError(f"cannot read {error.filename}: {error.strerror}") from error
    version = Version(card, model)
    if card["artifact"]["sha256"] != version.sha256:
        raise ReportError(
            f"{folder}/model.onnx has the sha256 {version.sha256}, "
            f"and its card says {card['artifact']['sha256']}"
        )
    return version


def answers(version: Version) -> Answers:
    """What this version answers to rows that it has not seen."""
    if version.name == pred_main.NAME:
        return _of_held_out_machines(version)
    if version.name == iris.NAME:
        return _of_folds(version.number)
    raise ReportError(f"nothing is known of data for the model {version.name}")


def disagreements(version: Version, found: Answers) -> list[str]:
    """Where the card's scores do not come out again: each a reason to refuse it."""
    measured = {}
    if version.name == pred_main.NAME:
        measured["F1"] = f1_score(found.truth, found.labels)
        measured["ROC-AUC"] = roc_auc_score(found.truth, found.probabilities[:, 1])
        for kind, rows in found.kinds.items():
            measured[f"recall of {kind}"] = found.labels[rows].mean()
    else:
        measured["accuracy"] = found.score_of_each().mean()
    scores = version.scores()
    return [
        f"the card says {name} is {scores[name]['value'] if name in scores else 'nothing'}, "
        f"and it comes out as {value:.4f}"
        for name, value in measured.items()
        if name not in scores or abs(scores[name]["value"] - value) > ROUNDING
    ]


def compare(found: Answers, live: Version) -> Comparison:
    """Sets what was `found` for a candidate beside what the live version answers."""
    other = answers(live)
    changed = found.labels != other.labels
    return Comparison(
        live=live,
        answers=other,
        differences=found.score_of_each() - other.score_of_each(),
        changed=int(changed.sum()),
        put_right=int((changed & (found.labels == found.truth)).sum()),
    )


def confusion(found: Answers, classes: int) -> np.ndarray:
    """Rows by what they are (first axis) and what they are taken for."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (found.truth, found.labels), 1)
    return counts


def calibration(found: Answers) -> list[CalibrationBin]:
    """How often it comes true, by what was said: of the last of two classes, else of the label."""
    if found.probabilities.shape[1] == 2:
        said, true = found.probabilities[:, 1], found.truth == 1
    else:
        said, true = found.probabilities.max(axis=1), found.truth == found.labels
    tenth = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    return [
        CalibrationBin(float(said[rows].mean()), interval(true[rows]))
        for rows in (tenth == index for index in range(BINS))
        if rows.any()
    ]


def calibration_error(bins: list[CalibrationBin]) -> float:
    """The mean distance between what was said and what came true, weighed by rows."""
    rows = sum(one.observed.rows for one in bins)
    off = (abs(one.mean_probability - one.observed.share) * one.observed.rows for one in bins)
    return sum(off) / rows


def recalls(found: Answers) -> dict[str, Interval]:
    """The share of the rows of each kind that are recognised."""
    hit = found.labels == found.truth
    if found.probabilities.shape[1] == 2:
        hit = found.labels == 1
    return {kind: interval(hit[rows]) for kind, rows in found.kinds.items()}


def interval(hits: np.ndarray) -> Interval:
    """The share of true values, with Wilson's bounds, which hold for few rows and for none."""
    rows, share, z = len(hits), float(hits.mean()), 1.96
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return Interval(rows, share, max(0.0, float(middle - reach)), min(1.0, float(middle + reach)))


def _of_held_out_machines(version: Version) -> Answers:
    tested = _tested_machines()
    labels, probabilities = graph.run(version.model, tested.features)
    return Answers(
        split=f"{len(np.unique(tested.machine))} held-out machines, {len(tested.failed)} rows",
        group="machine",
        truth=tested.failed.astype(np.int64),
        labels=labels,
        probabilities=probabilities.astype(np.float64),
        groups=tested.machine,
        kinds={pred_main.MODE_NAMES[mode]: rows for mode, rows in tested.modes.items()},
        score_name="F1",
        score=f1_score,
    )


@cache
def _tested_machines() -> process.Readings:
    """The machines that training keeps for its scores: the last ones, which nothing learns from."""
    machines = pred_main.MACHINES
    first = machines.train + machines.calibrate
    return process.join(
        [
            process.simulate(pred_main.SEED, machine, machines.rows)
            for machine in range(first, first + machines.test)
        ]
    )


@cache
def _of_folds(number: str) -> Answers:
    """All flowers are trained on, so a version's recipe is trained again without each fold's."""
    if number not in iris.VERSIONS:
        raise ReportError(f"iris {number} has no recipe here, and was trained on every row there is")
    _, recipe = iris.VERSIONS[number]
    rows, truth = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    splits = RepeatedStratifiedKFold(
        n_splits=iris.FOLDS, n_repeats=iris.REPEATS, random_state=iris.SEED
    )
    tested, labels, probabilities, groups = [], [], [], []
    for fold, (train_rows, test_rows) in enumerate(splits.split(rows, truth)):
        model = clone(recipe).fit(rows[train_rows], truth[train_rows])
        tested.append(truth[test_rows])
        labels.append(model.predict(rows[test_rows]))
        probabilities.append(model.predict_proba(rows[test_rows]))
        groups.append(np.full(len(test_rows), fold))
    truths = np.concatenate(tested)
    return Answers(
        split=f"stratified {iris.FOLDS}-fold cross-validation, {iris.REPEATS} repeats",
        group="fold",
        truth=truths,
        labels=np.concatenate(labels),
        probabilities=np.concatenate(probabilities),
        groups=np.concatenate(groups),
        kinds={name: truths == index for index, name in enumerate(iris.CLASSES)},
        score_name="accuracy",
        score=accuracy_score,
    )
