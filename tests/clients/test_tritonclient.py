"""Triton's own clients, over HTTP and gRPC."""

import numpy as np
import pytest
import tritonclient.grpc as tritongrpc
import tritonclient.http as tritonhttp
from tritonclient.utils import InferenceServerException

from conftest import ROWS

VALUES = np.array(ROWS, dtype=np.float32)


@pytest.fixture(params=[tritonhttp, tritongrpc], ids=["http", "grpc"])
def triton(request, address):
    module = request.param
    client = module.InferenceServerClient(address)
    yield module, client
    client.close()


def tensor(module, values=VALUES, **how):
    inputs = module.InferInput("features", list(values.shape), "FP32")
    inputs.set_data_from_numpy(values, **how)
    return inputs


def test_health_and_metadata(triton):
    module, client = triton
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("iris")
    assert client.is_model_ready("iris", "1.1.0")
    how = {} if module is tritonhttp else {"as_json": True}
    metadata = client.get_model_metadata("iris", **how)
    assert metadata["inputs"][0]["name"] == "features"
    assert [int(size) for size in metadata["inputs"][0]["shape"]] == [-1, 4]
    assert "binary_tensor_data" in client.get_server_metadata(**how)["extensions"]
    config = client.get_model_config("iris", **how)
    config = config.get("config", config)
    assert config["input"][0]["data_type"] == "TYPE_FP32" and int(config["max_batch_size"]) == 10_000
    index = client.get_model_repository_index(**how)
    index = index["models"] if isinstance(index, dict) else index
    assert {entry["name"] for entry in index} == {"iris", "pred-main"}


def test_inference(triton, expected):
    module, client = triton
    for outputs in [None, [module.InferRequestedOutput("probabilities"), module.InferRequestedOutput("label")]]:
        result = client.infer("iris", [tensor(module)], request_id="7", outputs=outputs)
        assert result.as_numpy("label").tolist() == [0, 2]
        np.testing.assert_array_equal(result.as_numpy("probabilities"), np.array(expected, dtype=np.float32))
    versioned = client.infer("iris", [tensor(module)], model_version="1.1.0")
    assert versioned.as_numpy("label").tolist() == [0, 2]
    none = client.infer("iris", [tensor(module, VALUES[:0])])
    assert none.as_numpy("probabilities").shape == (0, 3)


def test_classification(triton):
    module, client = triton
    outputs = [module.InferRequestedOutput("probabilities", class_count=2)]
    best = client.infer("iris", [tensor(module)], outputs=outputs).as_numpy("probabilities")
    assert best.shape == (2, 2)
    assert best[1][0].decode().endswith(":2:virginica")


def test_statistics_count_rows_and_runs(triton):
    module, client = triton
    how = {} if module is tritonhttp else {"as_json": True}

    def counts():
        [stats] = client.get_inference_statistics("iris", **how)["model_stats"]
        return int(stats.get("inference_count", 0)), int(stats.get("execution_count", 0))

    def pairs():
        [stats] = client.get_inference_statistics("iris", **how)["model_stats"]
        sizes = {int(batch["batch_size"]): batch for batch in stats["batch_stats"]}
        return int(sizes[2]["compute_infer"]["count"]) if 2 in sizes else 0

    (rows, runs), before = counts(), pairs()
    client.infer("iris", [tensor(module)])
    assert counts() == (rows + 2, runs + 1) and pairs() == before + 1


def test_errors(triton):
    module, client = triton
    with pytest.raises(InferenceServerException, match="no model `irs`"):
        client.infer("irs", [tensor(module)])
    with pytest.raises(InferenceServerException, match=r"inputs\[0\].shape\[1\]: expected 4, got 3"):
        client.infer("iris", [tensor(module, VALUES[:, :3].copy())])
    with pytest.raises(InferenceServerException, match="by a commit"):
        client.load_model("iris")
    with pytest.raises(InferenceServerException):
        client.get_system_shared_memory_status()


@pytest.mark.parametrize("module", [tritonhttp, tritongrpc], ids=["http", "grpc"])
def test_loading_and_unloading(controlled, module):
    how = {} if module is tritonhttp else {"as_json": True}
    with module.InferenceServerClient(controlled) as client:

        def states():
            index = client.get_model_repository_index(**how)
            index = index["models"] if isinstance(index, dict) else index
            return {entry["name"]: (entry["state"], entry.get("reason", "")) for entry in index}

        assert "model_repository" in client.get_server_metadata(**how)["extensions"]
        client.unload_model("iris")
        assert not client.is_model_ready("iris") and client.is_model_ready("pred-main")
        assert states()["iris"] == ("UNAVAILABLE", "unloaded by a request")
        with pytest.raises(InferenceServerException, match="not loaded"):
            client.infer("iris", [tensor(module)])
        client.load_model("iris")
        assert client.is_model_ready("iris") and states()["iris"] == ("READY", "")
        assert client.infer("iris", [tensor(module)]).as_numpy("label").tolist() == [0, 2]
        with pytest.raises(InferenceServerException, match="no model `irs`"):
            client.load_model("irs")
        with pytest.raises(InferenceServerException, match="not from a request"):
            client.load_model("iris", config="{}")


@pytest.mark.parametrize("module", [tritonhttp, tritongrpc], ids=["http", "grpc"])
def test_floats_of_16_bits(content, module):
    how = {} if module is tritonhttp else {"as_json": True}
    halves = np.array([[1.5, 0.25], [-65504, 2**-24]], dtype=np.float16)
    half = module.InferInput("features", [2, 2], "FP16")
    half.set_data_from_numpy(halves)
    # numpy has no such type: the client cuts them off.
    brain = module.InferInput("x", [2, 1], "BF16")
    brain.set_data_from_numpy(np.array([[0.5], [1.0078125]], dtype=np.float32))
    with module.InferenceServerClient(content) as client:
        for model, datatype in [("halves", "FP16"), ("brains", "BF16")]:
            metadata = client.get_model_metadata(model, **how)
            assert metadata["inputs"][0]["datatype"] == metadata["outputs"][0]["datatype"] == datatype
            config = client.get_model_config(model, **how)
            config = config.get("config", config)
            assert config["input"][0]["data_type"] == f"TYPE_{datatype}"
        result = client.infer("halves", [half])
        assert result.as_numpy("sum").dtype == np.float16
        assert result.as_numpy("sum").tolist() == [1.75, -65504]
        np.testing.assert_array_equal(result.as_numpy("same"), halves)
        assert client.infer("brains", [brain]).as_numpy("double").tolist() == [1.0, 2.015625]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_http_compression(address, expected, coding):
    with tritonhttp.InferenceServerClient(address) as client:
        many = np.repeat(VALUES, 2000, axis=0)
        how = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
        result = client.infer("iris", [tensor(tritonhttp, many)], **how)
        assert result.get_response()["outputs"][0]["shape"] == [4000]
        np.testing.assert_array_equal(result.as_numpy("probabilities")[1], np.array(expected[0], dtype=np.float32))


def test_http_json_tensors(address, expected):
    with tritonhttp.InferenceServerClient(address) as client:
        outputs = [tritonhttp.InferRequestedOutput("probabilities", binary_data=False)]
        result = client.infer("iris", [tensor(tritonhttp, binary_data=False)], outputs=outputs)
        np.testing.assert_array_equal(result.as_numpy("probabilities"), np.array(expected, dtype=np.float32))


def test_http_many_requests_at_once(address):
    with tritonhttp.InferenceServerClient(address, concurrency=4) as client:
        waiting = [client.async_infer("iris", [tensor(tritonhttp)]) for _ in range(40)]
        assert all(one.get_result().as_numpy("label").tolist() == [0, 2] for one in waiting)


def test_grpc_compression_and_deadline(address):
    with tritongrpc.InferenceServerClient(address) as client:
        result = client.infer("iris", [tensor(tritongrpc)], compression_algorithm="gzip", client_timeout=30)
        assert result.as_numpy("label").tolist() == [0, 2]


def test_grpc_stream(address):
    import queue

    answers = queue.Queue()
    with tritongrpc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for name in ["1", "2"]:
            client.async_stream_infer("iris", [tensor(tritongrpc)], request_id=name)
        client.async_stream_infer("iris", [tensor(tritongrpc, VALUES[:, :3].copy())], request_id="3")
        first, second, third = (answers.get(timeout=30) for _ in range(3))
        client.stop_stream()
    assert [first[0].get_response().id, second[0].get_response().id] == ["1", "2"]
    assert first[0].as_numpy("label").tolist() == [0, 2]
    assert "inputs[0].shape[1]" in third[1].message()
