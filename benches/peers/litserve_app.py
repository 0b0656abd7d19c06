"""LitServe: two workers behind its server."""

import sys

import litserve
from forest import Forest


class ForestAPI(litserve.LitAPI):
    def setup(self, device):
        self.forest = Forest()

    def decode_request(self, request):
        return request["instances"]

    def predict(self, instances):
        return self.forest.answer(instances)

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    server = litserve.LitServer(ForestAPI(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
