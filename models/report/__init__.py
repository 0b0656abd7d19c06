"""Reports on a trained version: scores it again, draws what it does, compares it with the live one.

Guarantees: every figure comes from answers of the very `model.onnx` whose digest the report names,
or of its recipe trained again where all rows were trained on; a card whose scores do not come out
again is refused; the same inputs give the same files. Trains nothing that is served: its code is no
part of what `training.code.files_sha256` covers.
"""
