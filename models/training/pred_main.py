"""The model `pred-main`: whether a milling machine fails, from six readings.

The data are simulated by `process`, after UCI 601 (S. Matzka, AI4I 2020). Rows of one machine hang
together in time, so machines are split, never rows: some train the trees, some choose the decision
threshold, and the scores come from others that neither has seen. No failure flag is a feature.

The physics that decides most failures (the difference of two temperatures, power, strain) is part
of the graph, so that a client sends readings and `model.onnx` is the whole model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from training import golden, graph, process
from training.card import Candidate, Feature, Metric
from training.progress import Progress

NAME = "pred-main"
SEED = 20240601
CLASSES = ("no failure", "failure")
LEAST_F1, LEAST_ROC_AUC = 0.87, 0.96

FEATURES = (
    Feature(
        "type",
        "Quality variant of the product on the machine: low, medium or high.",
        "M",
        categories=process.TYPES,
    ),
    Feature("air temperature [K]", "Temperature of the air around the machine.", 300.1, unit="K"),
    Feature("process temperature [K]", "Temperature of the process.", 310.1, unit="K"),
    Feature("rotational speed [rpm]", "Speed of the spindle.", 1503.0, unit="rpm"),
    Feature("torque [Nm]", "Torque on the spindle.", 40.1, unit="Nm"),
    Feature("tool wear [min]", "Minutes that the tool has cut so far.", 108.0, unit="min"),
)

TYPE, AIR, PROCESS, SPEED, TORQUE, WEAR = process.COLUMNS
DIFFERENCE, POWER, STRAIN, OVERSTRAIN = "difference_tenths", "power", "strain", "overstrain"

ENGINEERING = graph.Engineering(
    columns=process.COLUMNS,
    steps=(
        # Whole tenths of a kelvin: in float32, 300.1 - 291.5 is not the 8.6 that was measured.
        graph.Step("air_times_ten", "Mul", (AIR, 10.0)),
        graph.Step("air_tenths", "Round", ("air_times_ten",)),
        graph.Step("process_times_ten", "Mul", (PROCESS, 10.0)),
        graph.Step("process_tenths", "Round", ("process_times_ten",)),
        graph.Step(DIFFERENCE, "Sub", ("process_tenths", "air_tenths")),
        # Watts.
        graph.Step("torque_times_speed", "Mul", (TORQUE, SPEED)),
        graph.Step(POWER, "Mul", ("torque_times_speed", 2 * np.pi / 60)),
        # Minute newton-metres, and how far they are over the limit of the type.
        graph.Step(STRAIN, "Mul", (WEAR, TORQUE)),
        graph.Step("limit_over_low", "Mul", (TYPE, 1000.0)),
        graph.Step("limit", "Add", ("limit_over_low", 11_000.0)),
        graph.Step(OVERSTRAIN, "Sub", (STRAIN, "limit")),
    ),
    added=(DIFFERENCE, POWER, STRAIN, OVERSTRAIN),
)

# Which column to vary to bring each tree input onto a threshold; the type has golden rows anyway.
VARIED = {
    **{column: column for column in (AIR, PROCESS, SPEED, TORQUE, WEAR)},
    DIFFERENCE: PROCESS,
    POWER: TORQUE,
    STRAIN: TORQUE,
    OVERSTRAIN: TORQUE,
}

VERSIONS = {
    "1.0.0": (
        "Says whether a milling machine is failing, from six readings. A forest of 100 trees.",
        RandomForestClassifier(
            n_estimators=100, max_depth=12, min_samples_leaf=5, random_state=SEED, n_jobs=2
        ),
    ),
    "1.1.0": (
        "Says whether a milling machine is failing, from six readings. 100 rounds of boosting.",
        GradientBoostingClassifier(
            n_estimators=100,
            max_depth=4,
            min_samples_leaf=50,
            max_features=5,
            subsample=0.5,
            random_state=SEED,
        ),
    ),
}

UNLEARNABLE = {
    "TWF": "nearly unlearnable: a tool fails at the end of its life by the toss of a coin, and the "
    "readings do not show when; those found have another failure as well",
    "RNF": "not in the label, and nearly unlearnable: drawn at random, one row in a thousand, "
    "whatever the readings; those found have another failure as well",
}
MODE_NAMES = {
    "TWF": "tool-wear failures",
    "HDF": "heat-dissipation failures",
    "PWF": "power failures",
    "OSF": "overstrain failures",
    "RNF": "random failures",
}


@dataclass(frozen=True)
class Machines:
    """How many machines train, choose the threshold, and test; and how long each runs."""

    train: int = 24
    calibrate: int = 10
    test: int = 10
    rows: int = 10_000


MACHINES = Machines()


def train(version: str, progress: Progress) -> Candidate:
    """Simulates, trains and scores one version; the same version gives the same candidate."""
    description, recipe = VERSIONS[version]
    trained, calibrated, tested = _simulate(progress)

    progress.stage(f"training {NAME} {version} on {len(trained.failed)} rows")
    model = _fit(recipe, trained, progress)

    def failure_probability(rows: np.ndarray) -> np.ndarray:
        return model.predict_proba(ENGINEERING.tree_inputs(rows))[:, 1]

    progress.stage("choosing the threshold")
    threshold = best_threshold(calibrated.failed, failure_probability(calibrated.features))

    def answer(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        probability = failure_probability(rows)
        labels = (probability >= threshold).astype(np.int64)
        return labels, np.stack([1 - probability, probability], axis=1)

    progress.stage("scoring")
    metrics = _scores(tested, failure_probability(tested.features), threshold)
    onnx_bytes = graph.build(NAME, description, model, ENGINEERING, len(CLASSES), threshold)

    progress.stage("choosing golden rows")
    noted = _golden(onnx_bytes, trained, tested, answer)
    labels, probabilities = answer(trained.features)
    return Candidate(
        name=NAME,
        version=version,
        description=description,
        model=onnx_bytes,
        features=FEATURES,
        classes=CLASSES,
        threshold=threshold,
        source=f"{MACHINES.train} simulated machines of {MACHINES.rows} rows, "
        "after UCI 601 (S. Matzka, AI4I 2020)",
        seed=SEED,
        rows=trained.features,
        truth=trained.failed.astype(np.int64),
        labels=labels,
        probabilities=probabilities,
        metrics=metrics,
        golden=golden.answered(noted, answer, threshold),
    )


def best_threshold(failed: np.ndarray, probability: np.ndarray) -> float:
    """The middle of all thresholds whose F1 is within a thousandth of the best.

    They are multiples of 1/64, which are the same number in float32, in float64 and in decimal.
    """
    thresholds = np.arange(1, 64) / 64
    f1 = np.array([f1_score(failed, probability >= threshold) for threshold in thresholds])
    good = thresholds[f1 >= f1.max() - 0.001]
    return float(good[len(good) // 2])


def _simulate(progress: Progress) -> list[process.Readings]:
    """The readings of the machines that train, calibrate and test, none of them in two sets."""
    counts = (MACHINES.train, MACHINES.calibrate, MACHINES.test)
    progress.stage(f"simulating {sum(counts)} machines")
    runs = []
    for machine in range(sum(counts)):
        progress.step(machine, sum(counts))
        runs.append(process.simulate(SEED, machine, MACHINES.rows))
    ends = np.cumsum(counts)
    return [process.join(runs[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def _fit(
    recipe: RandomForestClassifier | GradientBoostingClassifier,
    readings: process.Readings,
    progress: Progress,
) -> RandomForestClassifier | GradientBoostingClassifier:
    """Trains tree by tree, so that there is progress to show; the trees are those of one `fit`."""
    total = recipe.n_estimators
    model = clone(recipe).set_params(warm_start=True)
    inputs = ENGINEERING.tree_inputs(readings.features)
    truth = readings.failed.astype(np.int64)
    for trees in range(10, total + 1, 10):
        progress.step(trees - 10, total)
        model.set_params(n_estimators=trees).fit(inputs, truth)
    if isinstance(model, RandomForestClassifier):
        # With two threads, the order in which the trees' answers are added is left to chance.
        model.set_params(n_jobs=1)
    return model


def _scores(
    tested: process.Readings, probability: np.ndarray, threshold: float
) -> tuple[Metric, ...]:
    failed, found = tested.failed, probability >= threshold
    each = [tested.machine == machine for machine in np.unique(tested.machine)]
    split = f"{len(each)} held-out machines, {len(failed)} rows"

    def metric(name: str, value: float, **optional: Any) -> Metric:
        return Metric(name, split, round(float(value), 4), **optional)

    def deviation(score: Callable[..., float], answers: np.ndarray) -> float:
        scores = [score(failed[rows], answers[rows]) for rows in each]
        return round(float(np.std(scores, ddof=1)), 4)

    rules = tested.modes["HDF"] | tested.modes["PWF"] | tested.modes["OSF"]
    worn_only = tested.modes["TWF"] & ~rules
    return (
        metric(
            "F1",
            f1_score(failed, found),
            deviation=deviation(f1_score, found),
            gate=LEAST_F1,
            note="the deviation is between machines",
        ),
        metric(
            "ROC-AUC",
            roc_auc_score(failed, probability),
            deviation=deviation(roc_auc_score, probability),
            gate=LEAST_ROC_AUC,
            note="the deviation is between machines",
        ),
        metric("precision", precision_score(failed, found)),
        metric("recall", recall_score(failed, found)),
        metric("average precision", average_precision_score(failed, probability)),
        metric(
            "accuracy",
            accuracy_score(failed, found),
            note=f"always answering no failure scores {1 - failed.mean():.4f}",
        ),
        metric(
            "F1 of the exact rules",
            f1_score(failed, rules),
            note="what knowing the rules for heat, power and strain scores; the model can hardly "
            "do better, and much more would mean that the answer leaked into the features",
        ),
        *(
            metric(
                f"recall of {MODE_NAMES[mode]}",
                found[rows].mean(),
                note="; ".join(filter(None, (f"{rows.sum()} rows", UNLEARNABLE.get(mode)))),
            )
            for mode, rows in tested.modes.items()
        ),
        metric(
            "recall of tool-wear failures that are nothing else",
            found[worn_only].mean(),
            note=f"{worn_only.sum()} rows; read the probability as a risk for worn tools",
        ),
    )


def _golden(
    onnx_bytes: bytes,
    trained: process.Readings,
    tested: process.Readings,
    answer: golden.Answer,
) -> list[golden.Noted]:
    noted = []
    for mode, rows in tested.modes.items():
        noted += [(row, f"one of the {MODE_NAMES[mode]}") for row in tested.features[rows][:3]]
    for index, kind in enumerate(process.TYPES):
        of_type = (tested.features[:, 0] == index) & ~tested.failed
        noted += [(row, f"no failure, type {kind}") for row in tested.features[of_type][:3]]
    noted += golden.of_every_class(
        tested.features, answer, CLASSES, ranks=(0.0, 0.25, 0.5, 0.75, 1.0)
    )
    noted += [
        (
            np.array([kind, 300.0, 300.0 + tenths / 10, 1379, 45.0, 100], np.float32),
            f"slow, type {process.TYPES[kind]}, process {tenths / 10} K above the air",
        )
        for kind in range(len(process.TYPES))
        for tenths in (85, 86, 87)
    ]
    noted += golden.on_thresholds(onnx_bytes, ENGINEERING, VARIED, trained.features, answer)
    typical = np.array([1, 300.1, 310.1, 1503, 40.1, 108], np.float32)
    edges = golden.at_the_edges(trained.features, process.COLUMNS, typical)
    # Outside its categories a type has no meaning, and the server never sends one.
    return noted + [(row, note) for row, note in edges if row[0] in range(len(process.TYPES))]
