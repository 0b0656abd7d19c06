"""Trains the models that Mainstay serves and writes what the server needs to serve them.

Run from the folder `models/`: `python -m training iris --version 1.0.0 --out iris/1.0.0`.

Guarantees: the same command with the same locked libraries writes the same bytes, and a model
that misses its gates writes nothing.
"""

import os

# ONNX Runtime's wheels report usage over the network by default, and read this variable only
# while the library loads: it has to be set before the first import of onnxruntime anywhere.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
