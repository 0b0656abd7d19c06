"""The four committed models are what their cards say, and this code is what trained them."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from training import card, graph
from training.tests.conftest import COMMITTED, MODELS

pytestmark = pytest.mark.parametrize("name", COMMITTED)


def read(name: str) -> tuple[bytes, dict]:
    folder = MODELS / name
    return (folder / "model.onnx").read_bytes(), yaml.safe_load((folder / "model.yaml").read_text())


def test_the_card_names_its_model_and_its_folder(name: str) -> None:
    model, fields = read(name)
    assert f"{fields['name']}/{fields['version']}" == name
    assert fields["artifact"] == {
        "file": "model.onnx",
        "sha256": hashlib.sha256(model).hexdigest(),
        "size_bytes": len(model),
    }
    assert len(model) < 2_000_000


def test_the_card_has_exactly_the_fields_that_the_server_reads(name: str) -> None:
    _, fields = read(name)
    assert list(fields) == [
        "apiVersion", "name", "version", "description", "artifact", "input", "output",
        "training", "metrics", "golden", "profile",
    ]  # fmt: skip
    assert list(fields["input"]) == ["tensor", "features"]
    for feature in fields["input"]["features"]:
        assert ("range" in feature) != ("categories" in feature)
        assert set(feature) <= {"name", "description", "unit", "range", "categories", "example"}
    threshold = ["threshold"] if name.startswith("pred-main") else []
    assert list(fields["output"]) == ["label", "probability", *threshold]
    assert list(fields["training"]) == ["code", "data", "seed", "libraries"]
    for metric in fields["metrics"]:
        assert set(metric) <= {"name", "split", "value", "deviation", "gate", "note"}
    for row in fields["golden"]["rows"]:
        assert list(row) == ["features", "label", "probability", "note"]
    assert list(fields["profile"]) == ["features", "classes"]


def test_the_committed_model_was_trained_by_this_code_and_these_libraries(name: str) -> None:
    _, fields = read(name)
    assert fields["training"]["code"]["files_sha256"] == card.files_sha256(), (
        "the training code changed: train all four models again"
    )
    locked = (Path(card.__file__).parent / "requirements.txt").read_text()
    for library, version in fields["training"]["libraries"].items():
        assert re.search(rf"^{library}=={re.escape(version)} ", locked, re.MULTILINE)


def test_every_score_meets_its_gate(name: str) -> None:
    _, fields = read(name)
    gated = {metric["name"]: metric for metric in fields["metrics"] if "gate" in metric}
    assert set(gated) == ({"accuracy"} if name.startswith("iris") else {"F1", "ROC-AUC"})
    for metric in gated.values():
        assert metric["value"] >= metric["gate"]


def test_every_golden_row_is_answered_as_scikit_learn_answered_it(name: str) -> None:
    model, fields = read(name)
    golden = fields["golden"]["rows"]
    rows = np.array([row["features"] for row in golden], np.float32)
    labels, probabilities = graph.run(model, rows)
    assert len(golden) >= 32
    assert labels.tolist() == [row["label"] for row in golden]
    expected = np.array([row["probability"] for row in golden])
    assert np.abs(probabilities - expected).max() <= fields["golden"]["tolerance"]


def test_a_row_alone_is_answered_as_in_a_batch(name: str) -> None:
    model, fields = read(name)
    rows = np.array([row["features"] for row in fields["golden"]["rows"]], np.float32)
    _, together = graph.run(model, rows)
    for row, expected in zip(rows[:8], together[:8], strict=True):
        _, alone = graph.run(model, row[None, :])
        assert np.abs(alone[0] - expected).max() <= 1e-6


def test_golden_rows_cover_classes_thresholds_edges_and_categories(name: str) -> None:
    _, fields = read(name)
    golden = fields["golden"]["rows"]
    notes = " | ".join(row["note"] for row in golden)
    assert {row["label"] for row in golden} == set(range(len(fields["output"]["label"]["classes"])))
    for index, feature in enumerate(fields["input"]["features"]):
        if "categories" in feature:
            seen = {row["features"][index] for row in golden}
            assert seen == set(map(float, range(len(feature["categories"]))))
        else:
            assert f"on a threshold of {feature['name']}" in notes
            assert f"next float below a threshold of {feature['name']}" in notes
            assert f"next float above a threshold of {feature['name']}" in notes
            assert f"least {feature['name']}" in notes
            assert f"{feature['name']} below every training row" in notes
    assert "zeros" in notes


def test_the_label_follows_the_threshold(name: str) -> None:
    model, fields = read(name)
    rows = np.array([row["features"] for row in fields["golden"]["rows"]], np.float32)
    labels, probabilities = graph.run(model, rows)
    if "threshold" in fields["output"]:
        threshold = np.float32(fields["output"]["threshold"])
        assert (labels == (probabilities[:, 1] >= threshold)).all()
    else:
        assert (labels == probabilities.argmax(axis=1)).all()


def test_the_profile_counts_every_training_row(name: str) -> None:
    _, fields = read(name)
    rows = fields["training"]["data"]["rows"]
    for feature in fields["profile"]["features"]:
        assert sum(feature["counts"]) == rows
        if "edges" in feature:
            assert len(feature["edges"]) == len(feature["counts"]) + 1
            assert (np.diff(feature["edges"]) > 0).all()
    for entry in fields["profile"]["classes"]:
        assert sum(entry["counts"]) == rows
        assert len(entry["edges"]) == len(entry["counts"]) + 1
    assert sum(entry["count"] for entry in fields["profile"]["classes"]) == rows


def test_every_number_is_a_float32_however_it_is_read(name: str) -> None:
    _, fields = read(name)
    for row in fields["golden"]["rows"]:
        for value in row["features"]:
            assert float(str(np.float32(value))) == value
