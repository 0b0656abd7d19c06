"""Triton with its Python backend, as the pytriton wheel brings it: two instances, and batches of what is there."""

import sys

import numpy as np
from forest import Forest
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance():
    forest = Forest()

    @batch
    def infer(features):
        labels, probabilities = forest.run(features)
        return {"label": labels[:, None], "probabilities": probabilities}

    return infer


if __name__ == "__main__":
    http, grpc, metrics = map(int, sys.argv[1:])
    config = TritonConfig(
        http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="forest",
            infer_func=[instance(), instance()],
            inputs=[Tensor(name="features", dtype=np.float32, shape=(20,))],
            outputs=[
                Tensor(name="label", dtype=np.int64, shape=(1,)),
                Tensor(name="probabilities", dtype=np.float32, shape=(2,)),
            ],
            config=ModelConfig(max_batch_size=256, batcher=DynamicBatcher()),
        )
        triton.serve()
