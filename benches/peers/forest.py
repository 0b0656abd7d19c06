"""The forest in ONNX Runtime, as every rival runs it: one thread a run, since the rivals run several at a time."""

from pathlib import Path

import numpy as np
import onnxruntime

FILE = Path(__file__).parent.parent / "load" / "forest" / "model.onnx"


class Forest:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            FILE.read_bytes(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, rows):
        """Classes and probabilities of rows of float32."""
        return self.session.run(["label", "probabilities"], {"features": rows})

    def answer(self, instances):
        """The same as plain lists, from plain lists."""
        labels, probabilities = self.run(np.asarray(instances, dtype=np.float32))
        return {"prediction": labels.tolist(), "probability": probabilities.tolist()}
