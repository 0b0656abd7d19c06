"""Writes `model.yaml`, the card beside every model: what it takes, answers, was trained on, scores.

The server parses it strictly, so the fields and their order are fixed here. Guarantees: the same
candidate gives the same bytes, and every number read back is the number that was meant.
"""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

LIBRARIES = ("numpy", "onnx", "onnxruntime", "scikit-learn", "skl2onnx")
GOLDEN_TOLERANCE = 1.0e-5
BINS = 10


@dataclass(frozen=True)
class Feature:
    """One value of a request: a number with the range seen in training, or one of `categories`."""

    name: str
    description: str
    example: float | str
    unit: str | None = None
    categories: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Metric:
    """A score; a `gate` is the least value with which the model may be written."""

    name: str
    split: str
    value: float
    deviation: float | None = None
    gate: float | None = None
    note: str | None = None

    @property
    def refused(self) -> bool:
        return self.gate is not None and not self.value >= self.gate


@dataclass(frozen=True)
class GoldenRow:
    """A row and scikit-learn's answer to it, which every runtime of the model has to repeat."""

    features: np.ndarray
    label: int
    probability: np.ndarray
    note: str


@dataclass(frozen=True)
class Candidate:
    """A trained model whose gates have not been judged yet."""

    name: str
    version: str
    description: str
    model: bytes
    features: tuple[Feature, ...]
    classes: tuple[str, ...]
    threshold: float | None
    source: str
    seed: int
    rows: np.ndarray  # float32, the training rows.
    truth: np.ndarray  # int64, their classes.
    labels: np.ndarray  # int64, the model's answers to them.
    probabilities: np.ndarray  # float, likewise.
    metrics: tuple[Metric, ...]
    golden: tuple[GoldenRow, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.model).hexdigest()

    @property
    def refusals(self) -> list[str]:
        """The gates that this model misses, for a person; empty if it may be written."""
        return [
            f"{metric.name} is {metric.value}, and its gate is {metric.gate}"
            for metric in self.metrics
            if metric.refused
        ]


def files_sha256() -> str:
    """A digest of the training code: `sha256sum *.py requirements.txt | sha256sum` in this folder.

    In the C locale, that is: by name, capitals and underscores as bytes.
    """
    folder = Path(__file__).parent
    names = [*sorted(path.name for path in folder.glob("*.py")), "requirements.txt"]
    listing = "".join(
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names
    )
    return hashlib.sha256(listing.encode()).hexdigest()


def rows_sha256(rows: np.ndarray, truth: np.ndarray) -> str:
    """A digest of the data: all rows as little-endian float32, then all classes as int64."""
    digest = hashlib.sha256(np.ascontiguousarray(rows, dtype="<f4").tobytes())
    digest.update(np.ascontiguousarray(truth, dtype="<i8").tobytes())
    return digest.hexdigest()


def render(candidate: Candidate, commit: str) -> str:
    """The card as YAML. `commit` is the code's commit, or "unknown"."""
    output: dict[str, object] = {
        "label": _Flow(tensor="label", classes=list(candidate.classes)),
        "probability": _Flow(tensor="probabilities"),
    }
    if candidate.threshold is not None:
        output["threshold"] = candidate.threshold
    card = {
        "apiVersion": "mainstay/v1",
        "name": candidate.name,
        "version": candidate.version,
        "description": candidate.description,
        "artifact": {
            "file": "model.onnx",
            "sha256": candidate.sha256,
            "size_bytes": len(candidate.model),
        },
        "input": {
            "tensor": "features",
            "features": [
                _feature(feature, candidate.rows[:, index])
                for index, feature in enumerate(candidate.features)
            ],
        },
        "output": output,
        "training": {
            "code": _Flow(commit=commit, files_sha256=files_sha256()),
            "data": _Flow(
                name=candidate.name,
                source=candidate.source,
                rows=len(candidate.rows),
                sha256=rows_sha256(candidate.rows, candidate.truth),
            ),
            "seed": candidate.seed,
            "libraries": _Flow({name: importlib.metadata.version(name) for name in LIBRARIES}),
        },
        "metrics": [_metric(metric) for metric in candidate.metrics],
        "golden": {
            "tolerance": GOLDEN_TOLERANCE,
            "rows": [_golden(row) for row in candidate.golden],
        },
        "profile": {
            "features": [
                _feature_profile(feature, candidate.rows[:, index])
                for index, feature in enumerate(candidate.features)
            ],
            "classes": [
                _class_profile(candidate, index, name)
                for index, name in enumerate(candidate.classes)
            ],
        },
    }
    return yaml.dump(card, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True)


def exact(value: np.float32) -> float:
    """The shortest decimal that is this float32, whether it is read as float32 or as float64."""
    number = float(str(np.float32(value)))
    if np.float32(number) != np.float32(value):
        raise ValueError(f"{value!r} does not survive being written as {number!r}")
    return number


def _feature(feature: Feature, seen: np.ndarray) -> dict[str, object]:
    fields: dict[str, object] = {"name": feature.name, "description": feature.description}
    if feature.categories is not None:
        fields["categories"] = _FlowList(feature.categories)
    else:
        if feature.unit is not None:
            fields["unit"] = feature.unit
        fields["range"] = _FlowList([exact(seen.min()), exact(seen.max())])
    fields["example"] = feature.example
    return fields


def _metric(metric: Metric) -> "_Flow":
    optional = {"deviation": metric.deviation, "gate": metric.gate, "note": metric.note}
    return _Flow(
        {"name": metric.name, "split": metric.split, "value": metric.value}
        | {field: value for field, value in optional.items() if value is not None}
    )


def _golden(row: GoldenRow) -> "_Flow":
    return _Flow(
        features=[exact(value) for value in row.features],
        label=row.label,
        # Nine decimals say ten thousand times more than the tolerance asks.
        probability=[round(float(value), 9) for value in row.probability],
        note=row.note,
    )


def _feature_profile(feature: Feature, seen: np.ndarray) -> "_Flow":
    """How often each value was seen in training: by category, or in ten bins of like size."""
    if feature.categories is not None:
        counts = np.bincount(seen.astype(np.int64), minlength=len(feature.categories))
        return _Flow(name=feature.name, categories=list(feature.categories), counts=counts.tolist())
    values = np.unique(seen)
    deciles = np.quantile(seen, np.arange(1, BINS) / BINS, method="lower")
    below = np.unique(np.searchsorted(values, deciles))
    below = below[below < len(values) - 1]
    # An inner edge lies between two values that occur, never on one: which bin a value falls in
    # must not hang on whether it is compared as float32 or as float64.
    inner = [round((exact(values[index]) + exact(values[index + 1])) / 2, 4) for index in below]
    counts = np.bincount(np.searchsorted(inner, seen), minlength=len(inner) + 1)
    edges = [exact(values[0]), *inner, exact(values[-1])]
    return _Flow(name=feature.name, edges=edges, counts=counts.tolist())


def _class_profile(candidate: Candidate, index: int, name: str) -> "_Flow":
    edges = [round(step / BINS, 1) for step in range(BINS + 1)]
    counts, _ = np.histogram(candidate.probabilities[:, index], bins=edges)
    predicted = int((candidate.labels == index).sum())
    return _Flow(name=name, count=predicted, edges=edges, counts=counts.tolist())


class _Flow(dict):
    """A mapping written on one line."""


class _FlowList(list):
    """A sequence written on one line, where the mapping around it is not."""


class _Dumper(yaml.SafeDumper):
    """Block style with sequences indented below their key, and no anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_representer(
    _Flow,
    lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), True),
)
_Dumper.add_representer(
    _FlowList, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True)
)
