"""NVIDIA's load generator, which reads metadata, configuration and statistics before it believes its own figures."""

import csv
import os
import subprocess

import pytest


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_it_measures_a_model(address, tmp_path, protocol):
    report = tmp_path / "report.csv"
    command = [os.environ["PERF_ANALYZER"], "-m", "iris", "-u", address, "-i", protocol, "-b", "2", "-f", str(report),
               "--concurrency-range", "2", "--request-count", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = list(csv.DictReader(report.open()))
    assert float(row["Inferences/Second"]) > 0
    # The server's statistics are believed: the parts of the time that it accounts for.
    assert row["Server Compute Infer"] != "", done.stdout
