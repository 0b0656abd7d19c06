"""MLServer, with a model of its own making in its own process, which is quicker for small models than workers are."""

import json
import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from forest import Forest


class ForestModel(MLModel):
    async def load(self):
        self.forest = Forest()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        labels, probabilities = self.forest.run(self.decode(payload.inputs[0], default_codec=NumpyCodec))
        outputs = [
            NumpyCodec.encode_output("label", labels),
            NumpyCodec.encode_output("probabilities", probabilities),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


if __name__ == "__main__":
    folder, http, grpc, metrics = Path(sys.argv[1]), *map(int, sys.argv[2:])
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "forest", "implementation": "mlserver_app.ForestModel"}
    (folder / "model-settings.json").write_text(json.dumps(model))
