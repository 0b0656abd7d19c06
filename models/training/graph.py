"""Puts a trained scikit-learn ensemble, and the arithmetic in front of it, into one ONNX graph.

Guarantees: `features` float32 [N, F] in, `label` int64 [N] and `probabilities` float32 [N, C] out;
the same model gives the same bytes; the arithmetic is written down once, as steps, and runs both
in numpy for training and in the graph for serving, so that the two agree in every bit.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType

OPSET = 17
ML_OPSET = 3
IR_VERSION = 8

# Each is one rounded float32 operation in numpy and in ONNX alike; both round halves to even.
_OPERATIONS = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Round": np.rint,
}


@dataclass(frozen=True)
class Step:
    """One float32 operation: `output` becomes `operation` of columns (by name) and constants."""

    output: str
    operation: str
    inputs: tuple[str | float, ...]


@dataclass(frozen=True)
class Engineering:
    """The arithmetic in front of the trees, which see all `columns` and then `added`."""

    columns: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    added: tuple[str, ...] = ()

    def tree_inputs(self, rows: np.ndarray) -> np.ndarray:
        """What the trees see for these float32 rows, by the same operations as in the graph."""
        if rows.dtype != np.float32:
            raise TypeError(f"rows are {rows.dtype}, and the graph computes in float32")
        values = {name: rows[:, index] for index, name in enumerate(self.columns)}
        for step in self.steps:
            inputs = [values[i] if isinstance(i, str) else np.float32(i) for i in step.inputs]
            values[step.output] = _OPERATIONS[step.operation](*inputs)
        return np.stack([values[name] for name in self.columns + self.added], axis=1)


def build(
    name: str,
    description: str,
    model: object,
    engineering: Engineering,
    classes: int,
    threshold: float | None = None,
) -> bytes:
    """The whole model as the bytes of an ONNX file.

    Without a threshold the label is the most probable class; with one it is class 1 where its
    probability is at least the threshold.
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    trees_input = "features"
    if engineering.steps:
        trees_input = "tree_inputs"
        _engineer(engineering, nodes, constants)

    width = len(engineering.columns) + len(engineering.added)
    trees = _trees(model, width)
    label = "label" if threshold is None else "most_probable"
    nodes.append(_node("TreeEnsembleClassifier", [trees_input], [label, "probabilities"], trees))

    if threshold is not None:
        constants.append(numpy_helper.from_array(np.array(1, np.int64), "last_class"))
        constants.append(numpy_helper.from_array(np.array(threshold, np.float32), "threshold"))
        nodes.append(
            helper.make_node(
                "Gather", ["probabilities", "last_class"], ["probability"], "probability", axis=1
            )
        )
        nodes.append(
            helper.make_node("GreaterOrEqual", ["probability", "threshold"], ["reached"], "reached")
        )
        nodes.append(
            helper.make_node("Cast", ["reached"], ["label"], "label", to=TensorProto.INT64)
        )

    rows = "N"
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(
                "features", TensorProto.FLOAT, [rows, len(engineering.columns)]
            )
        ],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [rows]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [rows, classes]),
        ],
        constants,
        doc_string=description,
    )
    proto = helper.make_model(
        graph,
        producer_name="mainstay-training",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def cuts(model: bytes) -> list[tuple[int, np.float32]]:
    """Every (tree input, threshold) the trees branch on, the most used first."""
    proto = onnx.load_model_from_string(model)
    (trees,) = (n for n in proto.graph.node if n.op_type == "TreeEnsembleClassifier")
    attributes = {a.name: helper.get_attribute_value(a) for a in trees.attribute}
    uses = Counter(
        (feature, float(value))
        for feature, value, mode in zip(
            attributes["nodes_featureids"],
            attributes["nodes_values"],
            attributes["nodes_modes"],
            strict=True,
        )
        if mode == b"BRANCH_LEQ"
    )
    ordered = sorted(uses, key=lambda cut: (-uses[cut], cut))
    return [(feature, np.float32(value)) for feature, value in ordered]


def run(model: bytes, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities from ONNX Runtime, on one thread as the server runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    labels, probabilities = session.run(["label", "probabilities"], {"features": rows})
    return labels, probabilities


def _engineer(
    engineering: Engineering, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]
) -> None:
    """Appends the steps: split the columns, compute, put all that the trees see side by side."""
    tensors = {name: f"column_{index}" for index, name in enumerate(engineering.columns)}
    nodes.append(helper.make_node("Split", ["features"], list(tensors.values()), "columns", axis=1))
    for step in engineering.steps:
        inputs = []
        for position, operand in enumerate(step.inputs):
            if isinstance(operand, str):
                inputs.append(tensors[operand])
            else:
                constant = f"{step.output}_operand_{position}"
                constants.append(numpy_helper.from_array(np.array(operand, np.float32), constant))
                inputs.append(constant)
        tensors[step.output] = step.output
        nodes.append(helper.make_node(step.operation, inputs, [step.output], step.output))
    added = [tensors[name] for name in engineering.added]
    nodes.append(
        helper.make_node("Concat", ["features", *added], ["tree_inputs"], "tree_inputs", axis=1)
    )


def _trees(model: object, width: int) -> list[onnx.AttributeProto]:
    """The ensemble's attributes, as skl2onnx converts them.

    scikit-learn compares float32 features with float64 thresholds. skl2onnx lowers each threshold
    to the greatest float32 that is not above it, which branches the same for every float32.
    """
    converted = convert_sklearn(
        model,
        initial_types=[("features", FloatTensorType([None, width]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
    )
    (trees,) = (n for n in converted.graph.node if n.op_type == "TreeEnsembleClassifier")
    # Hit rates and tracks for missing values say nothing here (all ones, all zeros: the server
    # admits no missing value), and are a fifth of the file.
    unused = {"nodes_hitrates", "nodes_missing_value_tracks_true"}
    return [attribute for attribute in trees.attribute if attribute.name not in unused]


def _node(
    operation: str, inputs: list[str], outputs: list[str], attributes: list[onnx.AttributeProto]
) -> onnx.NodeProto:
    node = helper.make_node(operation, inputs, outputs, name="trees", domain="ai.onnx.ml")
    node.attribute.extend(attributes)
    return node
