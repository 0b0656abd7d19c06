"""A report says what is so, and refuses what is not."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from report import evaluate
from report.__main__ import REFUSED, WRITTEN, main, order

MODELS = Path(__file__).parents[2]
LIVE = MODELS / "pred-main/1.0.0"


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    """A copy of a good version, to be spoiled."""
    folder = tmp_path / "candidate"
    shutil.copytree(MODELS / "pred-main/1.1.0", folder)
    return folder


def edit(folder: Path, change: dict) -> None:
    card = yaml.safe_load((folder / "model.yaml").read_text())
    card.update(change)
    (folder / "model.yaml").write_text(yaml.safe_dump(card, sort_keys=False))


def test_a_good_version_passes_and_is_drawn(candidate: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert main([str(candidate), "--live", str(LIVE), "--out", str(out)]) == WRITTEN
    page = (out / "report.html").read_text()
    assert hashlib.sha256((candidate / "model.onnx").read_bytes()).hexdigest() in page
    assert page.count("data:image/svg+xml;base64,") == 4
    # Whole by itself: a browser fetches nothing.
    assert not re.search(r'(src|href)="(?!data:)', page)
    comment = (out / "report.md").read_text()
    assert "| tool-wear failures | 456 | 11.8% |" in comment
    assert "Against live 1.0.0: **no difference that these rows can show**" in comment
    for name in ("confusion", "calibration", "recall", "comparison"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_version_gives_the_same_files(candidate: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        main([str(candidate), "--live", str(LIVE), "--out", str(tmp_path / out)])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_file_that_is_not_the_cards_is_refused(
    candidate: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (candidate / "model.onnx").write_bytes((LIVE / "model.onnx").read_bytes())
    assert main([str(candidate), "--out", str(tmp_path / "report")]) == REFUSED
    assert "and its card says" in capsys.readouterr().err


def test_a_score_that_does_not_come_out_again_is_refused(
    candidate: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    card = yaml.safe_load((candidate / "model.yaml").read_text())
    card["metrics"][0]["value"] = 0.9999
    edit(candidate, {"metrics": card["metrics"]})
    assert main([str(candidate), "--out", str(tmp_path / "report")]) == REFUSED
    assert "the card says F1 is 0.9999, and it comes out as 0.9316" in capsys.readouterr().out


def test_a_newer_version_that_is_worse_than_the_live_one_is_refused(
    candidate: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    proto = onnx.load(candidate / "model.onnx")
    for constant in proto.graph.initializer:
        if constant.name == "threshold":
            # Says "failure" of many rows that are none.
            constant.CopyFrom(numpy_helper.from_array(np.array(0.05, np.float32), "threshold"))
    model = proto.SerializeToString()
    (candidate / "model.onnx").write_bytes(model)
    artifact = {
        "file": "model.onnx",
        "sha256": hashlib.sha256(model).hexdigest(),
        "size_bytes": len(model),
    }
    edit(candidate, {"artifact": artifact})
    assert main([str(candidate), "--live", str(LIVE), "--out", str(tmp_path / "r")]) == REFUSED
    assert "F1 is worse than that of live 1.0.0" in capsys.readouterr().out
    # An older one may be: it is not what is going to replace the live one.
    edit(candidate, {"version": "0.9.0"})
    main([str(candidate), "--live", str(LIVE), "--out", str(tmp_path / "r")])
    assert "F1 is worse" not in capsys.readouterr().out


def test_another_models_version_is_nothing_to_compare_with(candidate: Path, tmp_path: Path) -> None:
    iris = str(MODELS / "iris/1.0.0")
    assert main([str(candidate), "--live", iris, "--out", str(tmp_path / "r")]) == REFUSED


def test_an_interval_holds_for_few_rows_and_for_none_hit() -> None:
    none = evaluate.interval(np.zeros(100, bool))
    assert none.share == none.low == 0
    assert 0.03 < none.high < 0.04
    half = evaluate.interval(np.array([True, False]))
    assert half.low < 0.2 and half.high > 0.8


def test_a_calibration_error_is_weighed_by_rows() -> None:
    sure = evaluate.CalibrationBin(0.9, evaluate.Interval(90, 0.9, 0, 1))
    wrong = evaluate.CalibrationBin(0.5, evaluate.Interval(10, 1.0, 0, 1))
    assert evaluate.calibration_error([sure, wrong]) == pytest.approx(0.05)


def test_versions_are_ordered_by_number_and_a_pre_release_comes_first() -> None:
    assert order("1.10.0") > order("1.9.0")
    assert order("1.0.0-rc.1") < order("1.0.0")
