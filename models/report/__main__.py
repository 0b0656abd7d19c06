"""The command: reports on one trained version, and refuses what its card does not hold good for."""

import argparse
import sys
from pathlib import Path

from report import evaluate, page, plots

WRITTEN, REFUSED = 0, 1


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parse(arguments)
    try:
        candidate = evaluate.read(options.folder)
        live = evaluate.read(options.live) if options.live else None
        report = make(candidate, live)
    except evaluate.ReportError as error:
        print(f"refused: {error}", file=sys.stderr)
        return REFUSED
    write(report, options.out)
    print(page.markdown(report), end="")
    return REFUSED if report.refusals else WRITTEN


def make(candidate: evaluate.Version, live: evaluate.Version | None) -> page.Report:
    """Scores, compares, judges and draws."""
    if live is not None and live.name != candidate.name:
        raise evaluate.ReportError(f"{candidate.name} cannot be compared with {live.name}")
    found = evaluate.answers(candidate)
    compared = evaluate.compare(found, live) if live is not None else None
    refusals = evaluate.disagreements(candidate, found)
    # An older version need not be better than the one that took its place.
    newer = live is not None and order(candidate.number) > order(live.number)
    if compared is not None and newer and compared.verdict == "worse":
        refusals.append(
            f"{found.score_name} is worse than that of live {compared.live.number} "
            f"by {-compared.mean:.4f}, on the same rows"
        )
    before = compared.answers if compared is not None else None
    bins, recalls = evaluate.calibration(found), evaluate.recalls(found)
    two = len(candidate.classes) == 2
    drawn = [
        plots.confusion(evaluate.confusion(found, len(candidate.classes)), candidate.classes),
        plots.calibration(
            bins,
            evaluate.calibration(before) if before else None,
            candidate.classes[-1] if two else "the label",
        ),
        plots.recall(
            recalls,
            evaluate.recalls(before) if before else None,
            "kind of failure" if two else "class",
        ),
    ]
    if compared is not None:
        drawn.append(plots.comparison(found, compared))
    return page.Report(candidate, found, compared, refusals, drawn)


def order(number: str) -> tuple[list[int], bool, str]:
    """What versions are ordered by; a pre-release comes before its release."""
    release, _, pre = number.partition("-")
    return [int(part) for part in release.split(".")], not pre, pre


def write(report: page.Report, folder: Path) -> None:
    """Writes the page, the comment, and every drawing by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text(page.page(report))
    (folder / "report.md").write_text(page.markdown(report))
    for plot in report.drawn:
        (folder / f"{plot.name}.png").write_bytes(plot.png)
        (folder / f"{plot.name}.svg").write_bytes(plot.svg)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""\
example, from the folder models/:
  python -m report pred-main/1.1.0 --live pred-main/1.0.0 --out /tmp/report

exit codes:
  0  the report is in DIR, and says nothing against the version
  1  refused, for the reasons that are printed: the file is not the card's, a score of the card
     does not come out again, or a version is worse than the live one that it comes after
  2  the command makes no sense
""",
    )
    parser.add_argument(
        "folder", type=Path, metavar="VERSION", help="folder of model.yaml and model.onnx"
    )
    parser.add_argument("--live", type=Path, metavar="VERSION", help="the live version's folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
