"""The command: trains one version of one model, judges its gates, writes it or refuses."""

import argparse
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from training import card, graph, iris, pred_main
from training.progress import Progress

WRITTEN, REFUSED = 0, 1

MODELS = {iris.NAME: iris, pred_main.NAME: pred_main}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    progress = Progress()
    candidate = MODELS[options.model].train(options.version, progress)
    progress.stage("replaying golden and training rows through ONNX Runtime")
    refusals = candidate.refusals + disagreements(candidate)
    progress.finish()
    if not refusals:
        write(candidate, options.out, options.commit)
    _report(candidate, refusals, options)
    return REFUSED if refusals else WRITTEN


def disagreements(candidate: card.Candidate) -> list[str]:
    """Where ONNX Runtime does not repeat scikit-learn's answers: each a reason to refuse."""
    labels, probabilities = graph.run(candidate.model, candidate.rows)
    furthest = np.abs(probabilities - candidate.probabilities).max(axis=1)
    differing = (labels != candidate.labels) | (furthest > card.GOLDEN_TOLERANCE)
    found = []
    if differing.any():
        found.append(
            f"ONNX Runtime differs from scikit-learn on {differing.sum()} of {len(labels)} "
            f"training rows, by up to {furthest.max()} in probability"
        )
    rows = np.stack([row.features for row in candidate.golden])
    labels, probabilities = graph.run(candidate.model, rows)
    return found + [
        f"ONNX Runtime answers {label} {probability.tolist()} to golden row "
        f"{row.features.tolist()}, scikit-learn {row.label} {row.probability.tolist()}"
        for row, label, probability in zip(candidate.golden, labels, probabilities, strict=True)
        if label != row.label or np.abs(probability - row.probability).max() > card.GOLDEN_TOLERANCE
    ]


def write(candidate: card.Candidate, folder: Path, commit: str) -> None:
    """Writes both files, each complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("model.onnx", candidate.model),
        ("model.yaml", card.render(candidate, commit).encode()),
    ):
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""\
examples, from the folder models/:
  python -m training iris --version 1.0.0 --out iris/1.0.0
  python -m training pred-main --version 1.1.0 --out pred-main/1.1.0 --json

The same command with the libraries of training/requirements.txt writes the same bytes every time.

exit codes:
  0  the model passed its gates; DIR/model.onnx and DIR/model.yaml are written
  1  a gate refused it; nothing is written, and what was in DIR stays
  2  the command makes no sense

environment:
  MAINSTAY_CODE_COMMIT  the commit to record as the training code's (default: unknown;
                        the digest of the code's files is recorded either way)
""",
    )
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL")
    for name, module in MODELS.items():
        lines = [f"  {version}  {entry[0]}" for version, entry in module.VERSIONS.items()]
        model = models.add_parser(
            name,
            help=(module.__doc__ or "").splitlines()[0],
            description=(module.__doc__ or "") + "\nversions:\n" + "\n".join(lines),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        model.add_argument(
            "--version", required=True, choices=list(module.VERSIONS), help="which recipe to train"
        )
        model.add_argument(
            "--out", required=True, type=Path, metavar="DIR", help="folder for the two files"
        )
        model.add_argument(
            "--json", action="store_true", help="print the summary as one JSON object"
        )
    options = parser.parse_args(arguments)
    options.commit = os.environ.get("MAINSTAY_CODE_COMMIT") or "unknown"
    if options.commit != "unknown" and not re.fullmatch(r"[0-9a-f]{7,64}", options.commit):
        parser.error(f"MAINSTAY_CODE_COMMIT is no commit: {options.commit!r}")
    return options


def _report(candidate: card.Candidate, refusals: list[str], options: argparse.Namespace) -> None:
    if options.json:
        summary = {
            "name": candidate.name,
            "version": candidate.version,
            "written": not refusals,
            "refusals": refusals,
            "folder": str(options.out),
            "sha256": candidate.sha256,
            "size_bytes": len(candidate.model),
            "threshold": candidate.threshold,
            "golden_rows": len(candidate.golden),
            "metrics": [
                {field: value for field, value in vars(metric).items() if value is not None}
                for metric in candidate.metrics
            ],
        }
        print(json.dumps(summary))
        return
    for metric in candidate.metrics:
        deviation = "" if metric.deviation is None else f" ± {metric.deviation}"
        gate = "" if metric.gate is None else f"  (gate: {metric.gate})"
        print(f"{metric.name}: {metric.value}{deviation}{gate}")
    for refusal in refusals:
        print(f"refused: {refusal}", file=sys.stderr)
    if refusals:
        print("nothing written", file=sys.stderr)
    else:
        size = len(candidate.model) / 1000
        print(f"wrote {options.out}/model.onnx ({size:.0f} kB, sha256 {candidate.sha256})")
        print(f"wrote {options.out}/model.yaml ({len(candidate.golden)} golden rows)")


if __name__ == "__main__":
    sys.exit(main())
