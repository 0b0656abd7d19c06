"""The graph computes what numpy computed, in every bit, and branches where scikit-learn does."""

from collections.abc import Iterable

import numpy as np
import onnx
import pytest
import yaml
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from training import golden, graph, iris, pred_main, process
from training.tests.conftest import COMMITTED, MODELS


def tree_inputs_by_onnx(model: bytes, rows: np.ndarray) -> np.ndarray:
    """What ONNX Runtime hands to the trees, made visible as one more output."""
    proto = onnx.load_model_from_string(model)
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("tree_inputs", onnx.TensorProto.FLOAT, ["N", None])
    )
    session = graph.onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["tree_inputs"], {"features": rows})[0]


@pytest.fixture(scope="module", params=["1.0.0", "1.1.0"])
def committed(request: pytest.FixtureRequest) -> bytes:
    return (MODELS / "pred-main" / request.param / "model.onnx").read_bytes()


def assert_equal_bits(left: np.ndarray, right: np.ndarray) -> None:
    assert left.dtype == right.dtype == np.float32
    assert np.array_equal(left.view(np.uint32), right.view(np.uint32))


def test_simulated_rows_have_the_same_tree_inputs_in_numpy_and_in_the_graph(
    committed: bytes,
) -> None:
    rows = process.simulate(seed=2, machine=0).features
    assert_equal_bits(tree_inputs_by_onnx(committed, rows), pred_main.ENGINEERING.tree_inputs(rows))


def test_rows_on_thresholds_have_the_same_tree_inputs_in_numpy_and_in_the_graph(
    committed: bytes,
) -> None:
    machine = process.simulate(seed=2, machine=0)

    def same_answer(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return graph.run(committed, rows)

    noted = golden.on_thresholds(
        committed, pred_main.ENGINEERING, pred_main.VARIED, machine.features, same_answer, 12
    )
    rows = np.stack([row for row, _ in noted])
    assert sum(note.startswith("on a threshold of power") for _, note in noted) > 3
    assert sum(note.startswith("on a threshold of overstrain") for _, note in noted) > 3
    assert_equal_bits(tree_inputs_by_onnx(committed, rows), pred_main.ENGINEERING.tree_inputs(rows))


def test_any_float_has_the_same_tree_inputs_in_numpy_and_in_the_graph(committed: bytes) -> None:
    random = np.random.default_rng(3)
    rows = (10 ** random.uniform(-3, 6, (20_000, 6)) * random.choice([-1, 1], (20_000, 6))).astype(
        np.float32
    )
    halves = np.arange(20_000, dtype=np.float32) / np.float32(20)  # Many round half to even.
    rows[:, 1], rows[:, 2] = halves, halves[::-1]
    assert_equal_bits(tree_inputs_by_onnx(committed, rows), pred_main.ENGINEERING.tree_inputs(rows))


def test_the_temperature_difference_is_exact_at_every_tenth() -> None:
    air = np.arange(2800, 3201)
    for tenths in (85, 86, 87):
        rows = np.zeros((len(air), 6), np.float32)
        rows[:, 1], rows[:, 2] = air / 10, (air + tenths) / 10
        difference = pred_main.ENGINEERING.tree_inputs(rows)[:, 6]
        assert (difference == tenths).all()


def test_a_slow_machine_fails_at_8_5_kelvin_and_not_at_8_6_or_8_7(committed: bytes) -> None:
    air = np.arange(2960, 3040, 5)
    for tenths, expected in ((85, 1), (86, 0), (87, 0)):
        rows = np.zeros((len(air), 6), np.float32)
        rows[:] = (0, 0, 0, 1350, 45, 100)
        rows[:, 1], rows[:, 2] = air / 10, (air + tenths) / 10
        labels, _ = graph.run(committed, rows)
        assert (labels == expected).all()


@pytest.mark.parametrize("name", COMMITTED)
def test_the_interface_is_one_tensor_in_and_two_out(name: str) -> None:
    proto = onnx.load(MODELS / name / "model.onnx")
    card = yaml.safe_load((MODELS / name / "model.yaml").read_text())

    def shapes(values: Iterable[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[str | int]]]:
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    features = len(card["input"]["features"])
    classes = len(card["output"]["label"]["classes"])
    assert shapes(proto.graph.input) == {"features": (onnx.TensorProto.FLOAT, ["N", features])}
    assert shapes(proto.graph.output) == {
        "label": (onnx.TensorProto.INT64, ["N"]),
        "probabilities": (onnx.TensorProto.FLOAT, ["N", classes]),
    }
    assert {o.domain: o.version for o in proto.opset_import} == {"": 17, "ai.onnx.ml": 3}


@pytest.mark.parametrize(
    "model",
    [
        RandomForestClassifier(10, max_depth=6, random_state=0),
        GradientBoostingClassifier(n_estimators=10, random_state=0),
    ],
)
def test_both_neighbours_of_every_threshold_branch_as_in_scikit_learn(
    model: RandomForestClassifier | GradientBoostingClassifier,
) -> None:
    random = np.random.default_rng(4)
    rows = random.normal(300, 2, (2000, 1)).astype(np.float32)
    truth = (np.sin(rows[:, 0] * 3) > 0).astype(np.int64)
    model.fit(rows, truth)
    onnx_bytes = graph.build("test", "", model, graph.Engineering(("x",)), 2)
    on = np.array([value for _, value in graph.cuts(onnx_bytes)], np.float32)
    around = np.concatenate(
        [np.nextafter(on, np.float32(0)), on, np.nextafter(on, np.float32(1e9))]
    )
    _, probabilities = graph.run(onnx_bytes, around[:, None])
    assert len(on) > 10
    assert np.abs(probabilities - model.predict_proba(around[:, None])).max() < 1e-6


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_the_first_request_of_all_is_answered_0_2_1(version: str) -> None:
    labels, _ = graph.run(
        (MODELS / "iris" / version / "model.onnx").read_bytes(), iris.SEED_REQUEST
    )
    assert labels.tolist() == [0, 2, 1]


def test_rows_that_are_not_float32_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        pred_main.ENGINEERING.tree_inputs(np.zeros((1, 6)))
