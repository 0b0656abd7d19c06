"""KServe's Python server, in its first protocol, with two workers."""

import functools
import sys

from forest import Forest
from kserve import Model, ModelServer


@functools.cache
def forest():
    """One a worker: the server hands its models to the workers by pickling them, which a session does not bear."""
    return Forest()


class ForestModel(Model):
    def __init__(self):
        super().__init__("forest")
        self.load()

    def load(self):
        self.ready = True
        return self.ready

    async def predict(self, payload, headers=None, response_headers=None):
        return forest().answer(payload["instances"])


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=2, access_log_format=None).start(
        [ForestModel()]
    )
