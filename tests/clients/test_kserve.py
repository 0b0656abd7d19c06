"""KServe's clients, of its V1 and V2 protocols."""

import asyncio

import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from conftest import ROWS


def request():
    inputs = InferInput(name="features", shape=[2, 4], datatype="FP32")
    inputs.set_data_from_numpy(np.array(ROWS, dtype=np.float32), binary_data=True)
    return InferRequest(model_name="iris", infer_inputs=[inputs], request_id="7")


def run(protocol, ask):
    async def asked():
        client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=30))
        try:
            return await ask(client)
        finally:
            await client.close()

    return asyncio.run(asked())


def test_v2_over_http(address, expected):
    url = f"http://{address}"
    assert run("v2", lambda client: client.is_server_live(url))
    assert run("v2", lambda client: client.is_server_ready(url))
    assert run("v2", lambda client: client.is_model_ready(url, "iris"))
    answer = run("v2", lambda client: client.infer(url, request(), model_name="iris"))
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert outputs["label"].tolist() == [0, 2]
    np.testing.assert_array_equal(outputs["probabilities"], np.array(expected, dtype=np.float32))


def test_floats_of_16_bits(content):
    half = InferInput(name="features", shape=[1, 2], datatype="FP16")
    half.set_data_from_numpy(np.array([[1.5, 0.25]], dtype=np.float16), binary_data=True)
    asked = InferRequest(model_name="halves", infer_inputs=[half], parameters={"binary_data_output": True})
    answer = run("v2", lambda client: client.infer(f"http://{content}", asked, model_name="halves"))
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert outputs["sum"].dtype == np.float16 and outputs["sum"].tolist() == [1.75]


def test_v1_over_http(address):
    url = f"http://{address}"
    assert run("v1", lambda client: client.is_server_live(url))
    answer = run("v1", lambda client: client.infer(url, {"instances": ROWS}, model_name="iris"))
    assert answer == {"predictions": [0, 2]}


def test_grpc(address, expected):
    async def asked():
        client = InferenceGRPCClient(url=address, timeout=30)
        try:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready("iris")
            return await client.infer(request())
        finally:
            await client.close()

    answer = asyncio.run(asked())
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert outputs["label"].tolist() == [0, 2]
    np.testing.assert_array_equal(outputs["probabilities"], np.array(expected, dtype=np.float32))


def test_an_error_says_what_is_wrong(address):
    with pytest.raises(Exception, match="no model `irs`"):
        run("v2", lambda client: client.infer(f"http://{address}", request(), model_name="irs"))
