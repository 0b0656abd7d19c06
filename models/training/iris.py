"""The model `iris`: which of three species a flower is, from four lengths.

The data are Fisher's 150 flowers (R. A. Fisher, "The Use of Multiple Measurements in Taxonomic
Problems", 1936; UCI 53) as scikit-learn ships them. So few rows allow no test set worth its name,
so the scores come from repeated cross-validation, and the model is trained on all of them.
"""

import numpy as np
from sklearn.base import ClassifierMixin, clone
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import RepeatedStratifiedKFold

from training import golden, graph
from training.card import Candidate, Feature, Metric
from training.progress import Progress

NAME = "iris"
SEED = 20240601
CLASSES = ("setosa", "versicolor", "virginica")
FOLDS, REPEATS = 5, 10
LEAST_ACCURACY = 0.93

FEATURES = (
    Feature("sepal length (cm)", "Length of the outer leaves of the flower.", 5.1, unit="cm"),
    Feature("sepal width (cm)", "Width of the outer leaves of the flower.", 3.5, unit="cm"),
    Feature("petal length (cm)", "Length of the inner leaves of the flower.", 1.4, unit="cm"),
    Feature("petal width (cm)", "Width of the inner leaves of the flower.", 0.2, unit="cm"),
)
COLUMNS = tuple(feature.name for feature in FEATURES)

# The request that the system before this one promised to answer with 0, 2, 1.
SEED_REQUEST = np.array(
    [[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.3, 1.8], [6.7, 2.8, 4.4, 1.4]], np.float32
)

VERSIONS = {
    "1.0.0": (
        "Tells three species of iris apart by the size of their flowers. A forest of 100 trees.",
        RandomForestClassifier(n_estimators=100, random_state=SEED),
    ),
    "1.1.0": (
        "Tells three species of iris apart by the size of their flowers. 100 rounds of boosting.",
        GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=SEED),
    ),
}


def train(version: str, progress: Progress) -> Candidate:
    """Scores and trains one version; the same version gives the same candidate."""
    description, recipe = VERSIONS[version]
    rows, truth = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)

    progress.stage(f"cross-validating {NAME} {version}")
    metrics = _scores(recipe, rows, truth, progress)

    progress.stage(f"training {NAME} {version} on all rows")
    model = clone(recipe).fit(rows, truth)
    engineering = graph.Engineering(COLUMNS)
    onnx_bytes = graph.build(NAME, description, model, engineering, len(CLASSES))

    def answer(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return model.predict(some), model.predict_proba(some)

    progress.stage("choosing golden rows")
    typical = np.median(rows, axis=0)
    noted = [(row, "the first request of all") for row in SEED_REQUEST]
    noted += golden.of_every_class(rows, answer, CLASSES, ranks=(0.0, 0.25, 0.5, 0.75, 1.0))
    varied = {column: column for column in COLUMNS}
    noted += golden.on_thresholds(onnx_bytes, engineering, varied, rows, answer)
    noted += golden.at_the_edges(rows, COLUMNS, typical)

    labels, probabilities = answer(rows)
    return Candidate(
        name=NAME,
        version=version,
        description=description,
        model=onnx_bytes,
        features=FEATURES,
        classes=CLASSES,
        threshold=None,
        source="R. A. Fisher's flowers of 1936 (UCI 53), as scikit-learn ships them",
        seed=SEED,
        rows=rows,
        truth=truth,
        labels=labels,
        probabilities=probabilities,
        metrics=metrics,
        golden=golden.answered(noted, answer, None),
    )


def _scores(
    recipe: ClassifierMixin, rows: np.ndarray, truth: np.ndarray, progress: Progress
) -> tuple[Metric, ...]:
    splits = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=SEED)
    accuracies, f1s = [], []
    for fold, (train_rows, test_rows) in enumerate(splits.split(rows, truth)):
        progress.step(fold, FOLDS * REPEATS)
        model = clone(recipe).fit(rows[train_rows], truth[train_rows])
        predicted = model.predict(rows[test_rows])
        accuracies.append(accuracy_score(truth[test_rows], predicted))
        f1s.append(f1_score(truth[test_rows], predicted, average="macro"))
    split = f"stratified {FOLDS}-fold cross-validation, {REPEATS} repeats"
    return (
        _metric("accuracy", split, accuracies, gate=LEAST_ACCURACY),
        _metric("macro F1", split, f1s),
    )


def _metric(name: str, split: str, values: list[float], gate: float | None = None) -> Metric:
    """Mean and standard deviation over all folds."""
    return Metric(
        name,
        split,
        round(float(np.mean(values)), 4),
        deviation=round(float(np.std(values, ddof=1)), 4),
        gate=gate,
    )
