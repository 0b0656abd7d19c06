"""What the tests share: where the committed models lie, and small recipes for the slow ones."""

from pathlib import Path

import pytest

from training import pred_main

MODELS = Path(__file__).parents[2]
COMMITTED = [
    f"{name}/{version}" for name in ("iris", "pred-main") for version in ("1.0.0", "1.1.0")
]


@pytest.fixture(autouse=True)
def no_commit_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cards of the committed models say `unknown`, whatever the tests run under."""
    monkeypatch.delenv("MAINSTAY_CODE_COMMIT", raising=False)


@pytest.fixture
def few_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `pred-main` that trains in seconds; its scores mean nothing."""
    monkeypatch.setattr(
        pred_main, "MACHINES", pred_main.Machines(train=3, calibrate=1, test=2, rows=6_000)
    )
