"""What MLflow, SageMaker and Vertex AI send, by their own code where they have some, else by curl."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from conftest import COLUMNS, ROWS


def curl(address, path, *arguments):
    command = ["curl", "-sS", "--fail-with-body", "--max-time", "30", f"http://{address}{path}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kind", ["dataframe_split", "dataframe_records"])
def test_mlflow_frames(address, kind):
    frame = pd.DataFrame(ROWS, columns=COLUMNS)
    body = json.dumps({kind: frame.to_dict(orient=kind.split("_")[1])})
    answer = curl(address, "/invocations", "-H", "Content-Type: application/json", "-d", body)
    assert json.loads(answer) == {"predictions": [0, 2]}


def test_mlflow_inputs_by_column(address):
    frame = pd.DataFrame(ROWS, columns=COLUMNS)
    for inputs in [frame.to_dict(orient="list"), ROWS, {"features": ROWS}]:
        answer = curl(address, "/invocations", "-H", "Content-Type: application/json", "-d", json.dumps({"inputs": inputs}))
        assert json.loads(answer) == {"predictions": [0, 2]}


def test_mlflow_client(address):
    client = ScoringServerClient("127.0.0.1", int(address.rsplit(":", 1)[1]))
    client.wait_server_ready(timeout=30)
    assert client.get_version()
    answer = client.invoke(pd.DataFrame(ROWS, columns=COLUMNS))
    assert answer.get_predictions().iloc[:, 0].tolist() == [0, 2]


def test_a_table_with_and_without_names(address):
    frame = pd.DataFrame(ROWS, columns=COLUMNS)
    for header in [True, False]:
        table = frame.to_csv(index=False, header=header)
        answer = curl(address, "/invocations", "-H", "Content-Type: text/csv", "--data-binary", table)
        assert json.loads(answer) == {"predictions": [0, 2]}
    answer = curl(address, "/invocations", "-H", "Content-Type: text/csv", "-H", "Accept: text/csv", "--data-binary", table)
    assert answer == "0\n2\n"


def test_a_raw_request(address):
    arguments = ["-H", "Inference-Header-Content-Length: 0", "-H", "Content-Type: application/octet-stream"]
    command = ["curl", "-sS", f"http://{address}/v2/models/iris/infer", *arguments, "--data-binary", "@-"]
    body = np.array(ROWS, dtype=np.float32).tobytes()
    answer = subprocess.run(command, input=body, check=True, capture_output=True).stdout
    assert np.frombuffer(answer[-24 - 16 : -24], dtype=np.int64).tolist() == [0, 2]
