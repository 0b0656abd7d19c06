"""Records models with the real MLflow and DVC, imports them with mainstay, and holds the cards against the records.

    python tests/import/check.py target/debug/mainstay
"""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAINSTAY = Path(sys.argv[1]).resolve()
SHIPPED = ROOT / "models/iris/1.0.0"
WAIT_S = 60

# Nothing of these tools may call home, and nothing of whoever runs this may be used.
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", DVC_NO_ANALYTICS="1", GIT_PYTHON_REFRESH="quiet",
    GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_NOSYSTEM="1",
    GIT_AUTHOR_NAME="Ada", GIT_AUTHOR_EMAIL="ada@example.org",
    GIT_COMMITTER_NAME="Ada", GIT_COMMITTER_EMAIL="ada@example.org",
    PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
)
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"):
    os.environ.pop(name, None)

import mlflow  # noqa: E402
import onnx  # noqa: E402
import pandas  # noqa: E402
import yaml  # noqa: E402
from mlflow.models import infer_signature  # noqa: E402

FEATURES = [feature["name"] for feature in yaml.safe_load((SHIPPED / "model.yaml").read_text())["input"]["features"]]
CLASSES = ["setosa", "versicolor", "virginica"]
CARD = f"""\
description: Says which iris it is.
features:
{"".join(f'''  - name: {json.dumps(name)}
    description: One of the four measures.
    unit: cm
''' for name in FEATURES)}\
classes: {json.dumps(CLASSES)}
split: the reviewer's rows
"""


def mainstay(*arguments, code=0):
    """Runs mainstay, and gives what it printed; the exit code must be the expected one."""
    ran = subprocess.run([MAINSTAY, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    said = ran.stdout + ran.stderr
    assert ran.returncode == code, f"{arguments}: exit code {ran.returncode}, not {code}\n{said}"
    return said


def sh(*arguments, cwd):
    subprocess.run(list(map(str, arguments)), cwd=cwd, check=True, stdout=subprocess.DEVNULL, timeout=300)


def data(folder):
    """The rows that the shipped model was checked with, as the data of a training."""
    golden = yaml.safe_load((SHIPPED / "model.yaml").read_text())["golden"]["rows"]
    frame = pandas.DataFrame([row["features"] for row in golden], columns=FEATURES)
    frame.insert(0, "flower", range(len(frame)))
    frame.to_csv(folder / "train.csv", index=False)
    (folder / "card.yaml").write_text(CARD)
    return frame[FEATURES]


def record_run(frame):
    """A run as people log it: parameters, metrics per split, the data, the commit, the model with a signature."""
    import mlflow.onnx

    mlflow.set_experiment("iris")
    with mlflow.start_run(run_name="forest of ten") as run:
        mlflow.log_params({"n_estimators": 10, "random_state": 7})
        dataset = mlflow.data.from_pandas(frame, name="flowers", source="train.csv")
        mlflow.log_input(dataset, context="training")
        mlflow.log_metrics({"training_accuracy": 1.0, "test_accuracy": 0.96, "val/f1": 0.95, "size": 71528})
        mlflow.log_metric("log_loss", 0.1, dataset=dataset)
        mlflow.set_tag("mlflow.source.git.commit", "0123456789abcdef0123456789abcdef01234567")
        model = onnx.load(str(SHIPPED / "model.onnx"))
        answers = pandas.DataFrame({"label": [0]})
        mlflow.onnx.log_model(
            model, name="model", signature=infer_signature(frame, answers), input_example=frame.head(3),
            save_as_external_data=False, pip_requirements=[f"onnx=={onnx.__version__}"],
        )
    return run.info.run_id


def record_code():
    """A run whose model is a pickled object."""
    import mlflow.pyfunc

    class Code(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input

    with mlflow.start_run() as run:
        mlflow.pyfunc.log_model(name="code", python_model=Code(), pip_requirements=[])
    return run.info.run_id


def of_run(run, folder, version, *more):
    return ["mlflow", "--run", run, "--model", "iris", "--version", version, "--to", folder / "config", *more]


def said(folder):
    return ["--card", folder / "card.yaml", "--data", folder / "train.csv"]


def check_run_card(folder, version, run, loss):
    """`loss` is the split of the metric that was logged with its data: not every kind of store keeps that."""
    card = yaml.safe_load((folder / f"config/models/iris/{version}/model.yaml").read_text())
    training = card["training"]
    assert training["run"]["tool"] == "mlflow" and training["run"]["id"] == run, training
    assert training["run"]["name"] == "forest of ten", training
    assert training["run"]["parameters"] == {"n_estimators": "10", "random_state": "7"}, training
    assert list(training["run"]["inputs"]) == ["flowers (training)"], training
    assert training["code"] == {"commit": "0123456789abcdef0123456789abcdef01234567"}, training
    assert training["seed"] == 7 and training["libraries"]["onnx"] == onnx.__version__, training
    assert training["data"]["name"] == "flowers" and "train.csv" in training["data"]["source"], training
    metrics = {(metric["name"], metric["split"]): metric["value"] for metric in card["metrics"]}
    expected = {("accuracy", "training"): 1.0, ("accuracy", "test"): 0.96, ("f1", "validation"): 0.95,
                ("size", "the reviewer's rows"): 71528, ("log_loss", loss): 0.1}
    assert metrics == expected, metrics
    assert [feature["unit"] for feature in card["input"]["features"]] == ["cm"] * 4
    notes = [row["note"] for row in card["golden"]["rows"]]
    assert sum("example of the input" in note for note in notes) == 3, notes
    assert all("ONNX Runtime's at the import" in note for note in notes), notes
    # The shipped card knows the answers to these very rows.
    shipped = yaml.safe_load((SHIPPED / "model.yaml").read_text())
    known = {tuple(row["features"]): row for row in shipped["golden"]["rows"]}
    matched = 0
    for row in card["golden"]["rows"]:
        matched += tuple(row["features"]) in known and row["label"] == known[tuple(row["features"])]["label"]
    assert matched == len(card["golden"]["rows"]), matched
    assert sum(profile["count"] for profile in card["profile"]["classes"]) == training["data"]["rows"]
    assert (folder / f"config/models/iris/{version}/model.onnx").read_bytes() == onnx_bytes(folder, version)


def onnx_bytes(folder, version):
    """What MLflow wrote, which its own serialisation may make other than the shipped file."""
    path = folder / f"config/models/iris/{version}/model.onnx"
    onnx.checker.check_model(onnx.load(str(path)))
    return path.read_bytes()


def check_server(folder, frame):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    log = open(folder / "server.log", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts"],
        stdout=log, stderr=log, start_new_session=True,
    )
    try:
        until_it_answers(f"{uri}/health", server, folder / "server.log")
        mlflow.set_tracking_uri(uri)
        run = record_run(frame)
        begun = mainstay("import", *of_run(run, folder, "2.0.0", "--tracking-uri", uri), code=1)
        assert all(f"name: {json.dumps(name)}" in begun for name in FEATURES), begun
        assert "more is to be said" in begun and "split: ''" in begun, begun
        assert not (folder / "config/models").exists()
        arguments = of_run(run, folder, "2.0.0", "--tracking-uri", uri, *said(folder))
        mainstay("import", *arguments)
        mainstay("import", *arguments)  # Once more changes nothing.
        check_run_card(folder, "2.0.0", run, "the reviewer's rows")

        refused = mainstay("import", *of_run(record_code(), folder, "2.1.0", "--tracking-uri", uri), code=1)
        assert "and not of onnx" in refused and "skl2onnx" in refused, refused
        unknown = mainstay("import", *of_run("0" * 32, folder, "2.1.0", "--tracking-uri", uri), code=1)
        assert "get the run" in unknown, unknown
    finally:
        os.killpg(server.pid, 15)
        server.wait(WAIT_S)
    gone = mainstay("import", *of_run(run, folder, "2.1.0", "--tracking-uri", uri), code=2)
    assert "cannot reach the tracking server" in gone, gone


def check_folder(folder, frame):
    """The same run in MLflow's older form, a folder of runs, which is moved before it is read."""
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    mlflow.set_tracking_uri(f"file://{folder}/first")
    run = record_run(frame)
    (folder / "first").rename(folder / "mlruns")
    mainstay("import", *of_run(run, folder, "2.2.0", "--tracking-uri", folder / "mlruns", *said(folder)))
    check_run_card(folder, "2.2.0", run, "flowers (training)")
    model = next((folder / "mlruns").glob("*/models/*/artifacts"))
    mainstay("import", "mlflow", "--model-dir", model, "--model", "iris", "--version", "2.3.0",
             "--to", folder / "config", *said(folder))
    card = yaml.safe_load((folder / "config/models/iris/2.3.0/model.yaml").read_text())
    assert card["training"]["run"]["id"] == run and card["metrics"] == [], card["training"]


def check_dvc(folder):
    work = folder / "work"
    work.mkdir()
    (work / "train.py").write_text(
        "import json, shutil\nshutil.copy('source.bin', 'model.onnx')\n"
        "json.dump({'test': {'accuracy': 0.97}, 'rows': 57}, open('metrics.json', 'w'))\n"
    )
    shutil.copy(SHIPPED / "model.onnx", work / "source.bin")
    shutil.copy(folder / "train.csv", work / "train.csv")
    (work / "params.yaml").write_text("forest: {trees: 10, seed: 11}\nrandom_state: 11\n")
    (work / "dvc.yaml").write_text(
        f"stages:\n  train:\n    cmd: {sys.executable} train.py\n    deps: [train.csv, train.py]\n"
        "    params: [forest.trees, random_state]\n    outs: [model.onnx]\n    metrics:\n      - metrics.json: {cache: false}\n"
    )
    sh("git", "init", "--quiet", ".", cwd=work)
    sh("dvc", "init", "--quiet", cwd=work)
    sh("dvc", "remote", "add", "--default", "store", folder / "remote", cwd=work)
    sh("dvc", "repro", "--quiet", cwd=work)
    shutil.copytree(SHIPPED, work / "shipped")
    sh("dvc", "add", "--quiet", "shipped/model.onnx", cwd=work)
    sh("git", "add", ".", cwd=work)
    sh("git", "commit", "--quiet", "--message", "Train", cwd=work)
    sh("dvc", "push", "--quiet", cwd=work)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=work, capture_output=True, text=True, check=True).stdout.strip()

    def of_dvc(path, version, *more, code=0):
        return mainstay("import", "dvc", path, "--model", "iris", "--version", version, "--to", folder / "config", *more,
                        code=code)

    of_dvc(work / "model.onnx", "3.0.0", *said(folder))
    # Neither in the workspace nor in the cache: from the remote.
    shutil.rmtree(work / ".dvc/cache")
    for path in ("model.onnx", "shipped/model.onnx"):
        (work / path).unlink()
    of_dvc(work / "model.onnx", "3.1.0", *said(folder))
    of_dvc(work / "shipped/model.onnx.dvc", "3.2.0", *said(folder))
    for version in ("3.0.0", "3.1.0", "3.2.0"):
        card = yaml.safe_load((folder / f"config/models/iris/{version}/model.yaml").read_text())
        training = card["training"]
        assert card["artifact"]["sha256"] == yaml.safe_load((SHIPPED / "model.yaml").read_text())["artifact"]["sha256"]
        assert training["code"]["commit"] == commit and training["run"]["id"].startswith("md5 "), training
        if version != "3.2.0":
            assert training["seed"] == 11 and training["run"]["parameters"]["forest.trees"] == "10", training
            assert "train.csv" in training["run"]["inputs"], training
            metrics = {(metric["name"], metric["split"]): metric["value"] for metric in card["metrics"]}
            assert metrics == {("accuracy", "test"): 0.97, ("rows", "the reviewer's rows"): 57}, metrics

    # A file that DVC has recorded otherwise is not taken, and where nothing can be got that is said.
    (work / "model.onnx").write_bytes(b"other")
    shutil.rmtree(folder / "remote")
    shutil.rmtree(work / ".dvc/cache", ignore_errors=True)
    gone = of_dvc(work / "model.onnx", "3.3.0", code=2)
    assert "dvc cannot get" in gone, gone
    untracked = of_dvc(work / "nobody.onnx", "3.3.0", code=1)
    assert "DVC does not track" in untracked, untracked
    pickle = of_dvc(work / "model.pkl", "3.3.0", code=1)
    assert "is not an ONNX file" in pickle, pickle


def check_repository(folder):
    """Every version that came about passes, and is promoted into a repository that did not have it."""
    config = folder / "config"
    versions = sorted(path.name for path in (config / "models/iris").iterdir())
    assert len(versions) == 6, versions
    serving = config / "environments/dev/serving.yaml"
    serving.parent.mkdir(parents=True)
    serving.write_text("apiVersion: mainstay/v1\ndefault: iris\nmodels:\n  iris:\n"
                       f"    stable: {versions[0]}\n    preview: {json.dumps(versions[1:])}\n")
    said = mainstay("check", config)
    assert said.count("good iris") == 6, said

    bare = folder / "bare.git"
    sh("git", "init", "--quiet", "--bare", "--initial-branch=main", bare, cwd=folder)
    sh("git", "clone", "--quiet", bare, "clone", cwd=folder)
    clone = folder / "clone"
    shutil.copytree(ROOT / "examples/config-repo", clone, dirs_exist_ok=True)
    sh("git", "add", "--all", cwd=clone)
    sh("git", "commit", "--quiet", "--message", "Begin", cwd=clone)
    sh("git", "push", "--quiet", "origin", "HEAD:main", cwd=clone)
    promote = ["promote", "--repo", bare, "--env", "dev", "--model", "iris", "--version", "2.0.0", "--from", config]
    assert "promoted iris 1.0.0 -> 2.0.0 in dev" in mainstay(*promote)


def free_port():
    """A port that nobody has, and that the kernel gives to nobody who asks for any."""
    for port in random.sample(range(10_000, 16_000), 6_000):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def until_it_answers(url, process, log):
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{url} does not answer:\n{log.read_text()}")


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame = data(folder)
        for check in (lambda: check_server(folder, frame), lambda: check_folder(folder, frame),
                      lambda: check_dvc(folder), lambda: check_repository(folder)):
            check()
    print("imports from mlflow and dvc: every card is what was recorded, and passes")


main()
