"""BentoML."""

import bentoml
import numpy as np
from forest import Forest


@bentoml.service(workers=2, http={"host": "127.0.0.1"}, logging={"access": {"enabled": False}})
class ForestService:
    def __init__(self):
        self.forest = Forest()

    @bentoml.api
    def predict(self, instances: np.ndarray) -> dict:
        return self.forest.answer(instances)
