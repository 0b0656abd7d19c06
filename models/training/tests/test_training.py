"""The command repeats itself byte for byte, and writes nothing when a gate refuses."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from training import __main__ as command
from training import card, iris, pred_main
from training.progress import Progress
from training.tests.conftest import MODELS


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def train(*arguments: str, hash_seed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", *arguments],
        cwd=MODELS,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("version", list(iris.VERSIONS))
def test_iris_trained_twice_is_the_committed_iris(tmp_path: Path, version: str) -> None:
    for run in ("1", "2"):
        train("iris", "--version", version, "--out", str(tmp_path / run), hash_seed=run)
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(MODELS / "iris" / version)


@pytest.mark.parametrize("version", list(pred_main.VERSIONS))
def test_pred_main_trained_again_is_the_committed_pred_main(tmp_path: Path, version: str) -> None:
    train("pred-main", "--version", version, "--out", str(tmp_path / "new"), hash_seed="3")
    assert digests(tmp_path / "new") == digests(MODELS / "pred-main" / version)


@pytest.mark.parametrize("version", list(pred_main.VERSIONS))
def test_a_small_pred_main_trained_twice_is_the_same(
    tmp_path: Path, few_machines: None, version: str
) -> None:
    for run in ("1", "2"):
        candidate = pred_main.train(version, Progress())
        command.write(candidate, tmp_path / run, "unknown")
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    assert command.disagreements(candidate) == []


@pytest.mark.parametrize("version", list(pred_main.VERSIONS))
def test_trees_grown_in_steps_are_those_grown_at_once(few_machines: None, version: str) -> None:
    trained, _, _ = pred_main._simulate(Progress())
    _, recipe = pred_main.VERSIONS[version]
    inputs = pred_main.ENGINEERING.tree_inputs(trained.features)
    in_steps = pred_main._fit(recipe, trained, Progress()).predict_proba(inputs)
    at_once = pred_main.clone(recipe).set_params(n_jobs=1) if version == "1.0.0" else recipe
    at_once.fit(inputs, trained.failed.astype(np.int64))
    assert np.array_equal(in_steps, at_once.predict_proba(inputs))


def test_no_machine_serves_two_purposes(few_machines: None) -> None:
    machines = [set(readings.machine) for readings in pred_main._simulate(Progress())]
    assert [len(each) for each in machines] == [3, 1, 2]
    assert len(set.union(*machines)) == 6


def test_the_threshold_is_the_middle_of_the_best() -> None:
    failed = np.array([False] * 90 + [True] * 10)
    probability = np.where(failed, 0.75, 0.25)
    assert abs(pred_main.best_threshold(failed, probability) - 0.5) <= 1 / 64


@pytest.mark.parametrize(
    ("model", "module", "gate", "impossible"),
    [
        ("iris", iris, "LEAST_ACCURACY", 0.99),
        ("pred-main", pred_main, "LEAST_F1", 0.999),
        ("pred-main", pred_main, "LEAST_ROC_AUC", 1.0),
    ],
)
def test_a_model_below_its_gate_writes_nothing_and_exits_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    few_machines: None,
    model: str,
    module: object,
    gate: str,
    impossible: float,
) -> None:
    monkeypatch.setattr(iris, "REPEATS", 1)
    monkeypatch.setattr(module, gate, impossible)
    out = tmp_path / "out"
    code = command.main([model, "--version", "1.1.0", "--out", str(out), "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert code == command.REFUSED == 1
    assert not out.exists()
    assert summary["written"] is False
    assert f"its gate is {impossible}" in " ".join(summary["refusals"])


def test_a_model_that_onnx_runtime_answers_differently_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(iris, "REPEATS", 1)
    other = (MODELS / "iris" / "1.0.0" / "model.onnx").read_bytes()
    monkeypatch.setattr(iris.graph, "build", lambda *_: other)
    code = command.main(["iris", "--version", "1.1.0", "--out", str(tmp_path / "out")])
    assert code == 1
    assert not (tmp_path / "out").exists()
    assert "ONNX Runtime" in capsys.readouterr().err


def test_the_summary_for_machines_agrees_with_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(iris, "REPEATS", 1)
    monkeypatch.setenv("MAINSTAY_CODE_COMMIT", "0123abc")
    assert command.main(["iris", "--version", "1.1.0", "--out", str(tmp_path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    fields = yaml.safe_load((tmp_path / "model.yaml").read_text())
    assert summary["sha256"] == fields["artifact"]["sha256"]
    assert summary["metrics"] == fields["metrics"]
    assert fields["training"]["code"]["commit"] == "0123abc"


@pytest.mark.parametrize(
    "arguments", [[], ["iris"], ["iris", "--version", "9.9.9", "--out", "x"], ["roses"]]
)
def test_a_command_that_makes_no_sense_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(arguments)
    assert exit_.value.code == 2


def test_help_names_models_exit_codes_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(["--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    for word in ("iris", "pred-main", "exit codes", "--out iris/1.0.0", "MAINSTAY_CODE_COMMIT"):
        assert word in text


def test_the_code_digest_is_what_the_shell_computes() -> None:
    shell = subprocess.run(
        "LC_ALL=C; export LC_ALL; sha256sum *.py requirements.txt | sha256sum",
        shell=True,
        cwd=Path(card.__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.split()[0] == card.files_sha256()


def test_telemetry_is_off_before_onnx_runtime_loads() -> None:
    code = (
        "import os, sys, training; assert 'onnxruntime' not in sys.modules; "
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    subprocess.run([sys.executable, "-c", code], cwd=MODELS, env=clean, check=True)


def test_a_number_is_written_so_that_it_is_read_back_as_meant() -> None:
    random = np.random.default_rng(5)
    for value in random.normal(0, 1e3, 1000).astype(np.float32):
        written = yaml.safe_load(yaml.dump(card.exact(value)))
        assert np.float32(written) == value
