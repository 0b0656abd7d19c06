"""Makes the forest that the load is sent to: 100 trees of depth 8 over 20 features, and its card.

Run it with the libraries of server/tests/fixtures/converters/requirements.txt and PyYAML; the same libraries give the
same bytes. The rows are drawn from a normal distribution, so the load generator draws its own in the same way.
"""

import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import yaml
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

SEED = 7
ROWS, FEATURES = 30_000, 20
CLASSES = ["stays", "leaves"]
GOLDEN = 8
BINS = 10


def data():
    """Rows of float32, and classes that hang on products and thresholds of them, with some noise."""
    chance = np.random.default_rng(SEED)
    rows = np.round(chance.normal(size=(ROWS, FEATURES)), 4).astype(np.float32)
    score = rows[:, 0] * rows[:, 1] + np.where(rows[:, 2] > 0.5, rows[:, 3], -rows[:, 4])
    score += np.sin(2 * rows[:, 5]) + 0.5 * rows[:, 6:].sum(axis=1) / np.sqrt(FEATURES - 6)
    return rows, (score + chance.normal(scale=0.5, size=ROWS) > 0).astype(np.int64)


def histogram(values, edges):
    counts, _ = np.histogram(values, edges)
    return {"edges": [float(edge) for edge in edges], "counts": counts.tolist()}


def feature_edges(values):
    inner = np.round(np.linspace(values.min(), values.max(), BINS + 1)[1:-1], 2)
    return [exact(values.min()), *inner.tolist(), exact(values.max())]


def exact(value):
    return float(str(np.float32(value)))


def main():
    folder = Path(__file__).parent
    rows, truth = data()
    fit_rows, test_rows, fit_truth, test_truth = train_test_split(rows, truth, test_size=0.2, random_state=SEED)
    forest = RandomForestClassifier(n_estimators=100, max_depth=8, random_state=SEED).fit(fit_rows, fit_truth)
    model = convert_sklearn(
        forest,
        initial_types=[("features", FloatTensorType([None, FEATURES]))],
        options={"zipmap": False},
        target_opset={"": 17, "ai.onnx.ml": 3},
    ).SerializeToString()
    (folder / "model.onnx").write_bytes(model)

    labels, probabilities = forest.predict(fit_rows), forest.predict_proba(fit_rows)
    decisive = np.flatnonzero(np.abs(probabilities[:, 1] - 0.5) > 0.01)[:GOLDEN]
    digest = hashlib.sha256(fit_rows.tobytes() + fit_truth.tobytes()).hexdigest()
    names = [f"f{index:02}" for index in range(FEATURES)]
    libraries = ("numpy", "onnx", "scikit-learn", "skl2onnx")
    card = {
        "apiVersion": "mainstay/v1",
        "name": "forest",
        "version": "1.0.0",
        "description": "A random forest of 100 trees of depth 8, for measuring servers.",
        "artifact": {
            "file": "model.onnx",
            "sha256": hashlib.sha256(model).hexdigest(),
            "size_bytes": len(model),
        },
        "input": {
            "tensor": "features",
            "features": [
                {
                    "name": name,
                    "description": "A number from a normal distribution.",
                    "range": [exact(fit_rows[:, column].min()), exact(fit_rows[:, column].max())],
                    "example": exact(fit_rows[0, column]),
                }
                for column, name in enumerate(names)
            ],
        },
        "output": {
            "label": {"tensor": "label", "classes": CLASSES},
            "probability": {"tensor": "probabilities"},
        },
        "training": {
            "code": {"commit": "unknown"},
            "data": {"name": "normal", "source": "made by train.py", "rows": len(fit_rows), "sha256": digest},
            "seed": SEED,
            "libraries": {name: importlib.metadata.version(name) for name in libraries},
        },
        "metrics": [
            {
                "name": "accuracy",
                "split": "a fifth of the rows, held out",
                "value": round(float(forest.score(test_rows, test_truth)), 4),
            }
        ],
        "golden": {
            "tolerance": 1.0e-5,
            "rows": [
                {
                    "features": [exact(value) for value in fit_rows[row]],
                    "label": int(labels[row]),
                    "probability": [round(float(value), 9) for value in probabilities[row]],
                }
                for row in decisive
            ],
        },
        "profile": {
            "features": [
                {"name": name} | histogram(fit_rows[:, column], feature_edges(fit_rows[:, column]))
                for column, name in enumerate(names)
            ],
            "classes": [
                {"name": name, "count": int((labels == index).sum())}
                | histogram(probabilities[:, index], [round(step / BINS, 1) for step in range(BINS + 1)])
                for index, name in enumerate(CLASSES)
            ],
        },
    }
    text = yaml.safe_dump(card, sort_keys=False, width=100, default_flow_style=None)
    (folder / "model.yaml").write_text(text)
    nodes = sum(tree.tree_.node_count for tree in forest.estimators_)
    print(f"{nodes} nodes, {len(model)} bytes, accuracy {card['metrics'][0]['value']}")


main()
