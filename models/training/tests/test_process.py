"""The simulated machines repeat what was measured on the 10,000 published rows."""

import numpy as np
import pytest

from training import process

# Mean, and the band that nine runs in ten fall into, over 300 runs of 10,000 rows.
BANDS = {
    "TWF": (46, 37, 55),
    "HDF": (106, 15, 193),
    "PWF": (105, 88, 123),
    "OSF": (97, 79, 116),
    "RNF": (9.8, 5, 15),
}
MACHINES = 40


@pytest.fixture(scope="module")
def runs() -> list[process.Readings]:
    return [process.simulate(seed=1, machine=machine) for machine in range(MACHINES)]


@pytest.fixture(scope="module")
def rows(runs: list[process.Readings]) -> process.Readings:
    return process.join(runs)


@pytest.mark.parametrize("mode", process.MODES)
def test_every_mode_occurs_as_often_as_measured(runs: list[process.Readings], mode: str) -> None:
    counts = np.array([run.modes[mode].sum() for run in runs])
    mean, low, high = BANDS[mode]
    assert ((counts >= low) & (counts <= high)).mean() > 0.75
    # The band is 3.3 deviations wide; four standard errors of the mean are allowed.
    assert abs(counts.mean() - mean) < 4 * (high - low) / 3.3 / np.sqrt(MACHINES)


def test_about_three_rows_in_a_hundred_fail(runs: list[process.Readings]) -> None:
    counts = np.array([run.failed.sum() for run in runs])
    assert ((counts >= 241) & (counts <= 411)).mean() > 0.75
    assert 0.028 < counts.mean() / 10_000 < 0.038


def test_the_columns_are_distributed_as_measured(rows: process.Readings) -> None:
    kind, air, warm, speed, torque, wear = rows.features.T.astype(np.float64)
    assert np.allclose(np.bincount(kind.astype(int)) / len(kind), (0.6, 0.3, 0.1), atol=0.005)
    assert np.isclose(air.mean(), 300, atol=0.01) and np.isclose(air.std(), 2, atol=0.01)
    assert np.isclose((warm - air).mean(), 10, atol=0.01)
    assert np.isclose((warm - air).std(), 1, atol=0.01)
    assert np.isclose(speed.mean(), 1539, atol=5) and np.isclose(speed.std(), 180, atol=5)
    assert np.isclose(torque.mean(), 40, atol=0.1) and np.isclose(torque.std(), 10, atol=0.1)
    assert torque.min() > 0
    assert np.isclose(np.corrcoef(speed, torque)[0, 1], -0.871, atol=0.01)
    assert np.isclose(wear.mean(), 108, atol=2)


def test_speed_and_wear_are_whole_and_the_rest_is_tenths(rows: process.Readings) -> None:
    kind, air, warm, speed, torque, wear = rows.features.T
    for whole in (kind, speed, wear):
        assert (whole == np.rint(whole)).all()
    for tenths in (air, warm, torque):
        assert (tenths == (np.rint(tenths.astype(np.float64) * 10) / 10).astype(np.float32)).all()


def test_fast_rows_follow_the_cap(rows: process.Readings) -> None:
    _, _, _, speed, torque, _ = rows.features.T.astype(np.float64)
    fast = speed > 2700
    assert fast.any()
    assert (np.abs(speed - (3000 - 30 * torque))[fast] <= 1).all()


def test_wear_grows_by_the_type_and_returns_to_zero_with_a_new_tool(
    runs: list[process.Readings],
) -> None:
    for run in runs:
        kind, wear = run.features[:, 0].astype(int), run.features[:, 5]
        expected = np.where(run.tool_ends, 0, wear + process.WEAR_PER_ROW[kind])
        assert wear[0] == 0
        assert (wear[1:] == expected[:-1]).all()


def test_tools_end_where_measured(runs: list[process.Readings], rows: process.Readings) -> None:
    assert 115 < np.mean([run.tool_ends.sum() for run in runs]) < 122
    at_end = rows.features[rows.tool_ends, 5]
    assert at_end.min() >= 198 and at_end.max() < 275
    assert abs(at_end.mean() - 215.7) < 1


def test_a_tool_fails_only_in_its_last_row(rows: process.Readings) -> None:
    worn = rows.modes["TWF"]
    assert not (worn & ~rows.tool_ends).any()
    assert 0.35 < worn.sum() / rows.tool_ends.sum() < 0.43


def test_heat_power_and_strain_failures_follow_their_rules(rows: process.Readings) -> None:
    kind, air, warm, speed, torque, wear = rows.features.T.astype(np.float64)
    difference = np.rint(warm * 10) - np.rint(air * 10)
    power = np.round(torque, 1) * speed * 2 * np.pi / 60
    limit = process.STRAIN_LIMITS[kind.astype(int)]
    assert (rows.modes["HDF"] == ((difference < 86) & (speed < 1380))).all()
    assert (rows.modes["PWF"] == ((power < 3500) | (power > 9000))).all()
    assert (rows.modes["OSF"] == (np.rint(wear * torque * 10) > limit * 10)).all()


def test_random_failures_are_left_out_of_the_label(rows: process.Readings) -> None:
    caused = np.any([rows.modes[mode] for mode in ("TWF", "HDF", "PWF", "OSF")], axis=0)
    assert (rows.failed == caused).all()
    assert (rows.modes["RNF"] & ~rows.failed).any()


def test_machines_are_repeatable_and_independent() -> None:
    one, again, other = (process.simulate(seed=1, machine=m, rows=500) for m in (0, 0, 1))
    assert np.array_equal(one.features, again.features)
    assert not np.array_equal(one.features, other.features)
