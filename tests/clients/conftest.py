"""A server of the shipped models on a port of its own, for clients that know nothing of Mainstay."""

import json
import os
import subprocess
import threading

import pytest

COLUMNS = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
# Two flowers, of which every shipped iris says 0 and 2.
ROWS = [[5.1, 3.5, 1.1, 0.2], [6.3, 2.9, 6.3, 1.8]]


def serving(*settings):
    """HOST:PORT of a server that runs until the generator ends."""
    program = os.environ["MAINSTAY"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAINSTAY")}
    environment["MAINSTAY_LOG_FORMAT"] = "json"
    command = [program, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *settings]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        listen = None
        for line in server.stderr:
            listen = json.loads(line).get("listen")
            if listen:
                break
        assert listen, f"the server ended: {server.wait()}"
        # What it logs from now on is read, so that it never waits for a reader.
        threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
        yield listen
        assert server.poll() is None, "the server ended while it was asked"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def address():
    """HOST:PORT of a running server."""
    yield from serving()


@pytest.fixture(scope="session")
def controlled():
    """HOST:PORT of a server whose models requests may load and unload."""
    yield from serving("--repository-control", "true")


@pytest.fixture(scope="session")
def content():
    """HOST:PORT of a server with a model for each thing that goes into models or comes out of them."""
    yield from serving("--models", "server/tests/fixtures/content")


@pytest.fixture(scope="session")
def expected(address):
    """The probabilities of `ROWS`, as /predict gives them."""
    import requests

    answer = requests.post(f"http://{address}/predict", json=ROWS, timeout=30)
    assert answer.json()["prediction"] == [0, 2]
    return answer.json()["probability"]
