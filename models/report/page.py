"""Writes a report as one HTML file, which needs nothing beside it, and as Markdown for a comment."""

import base64
import html
from dataclasses import dataclass

import numpy as np

from report import evaluate, plots


@dataclass(frozen=True)
class Report:
    """All that is said of one version."""

    version: evaluate.Version
    found: evaluate.Answers
    compared: evaluate.Comparison | None
    refusals: list[str]
    drawn: list[plots.Plot]

    @property
    def title(self) -> str:
        return f"{self.version.name} {self.version.number}"

    @property
    def outcome(self) -> str:
        return "refused" if self.refusals else "passes"


def markdown(report: Report) -> str:
    """What a reviewer reads first. A comment can hold no drawings, so tables say the same."""
    version = report.version
    lines = [
        f"## {report.title}: {report.outcome}",
        "",
        version.card["description"],
        "",
        f"`model.onnx` sha256 `{version.sha256}`, {len(version.model):,} bytes",
        "",
        *(f"- **refused**: {refusal}" for refusal in report.refusals),
        *([""] if report.refusals else []),
    ]
    gates = [
        [row["name"], _scored(row), _number(row["gate"]), "met" if _met(row) else "**missed**"]
        for row in version.card["metrics"]
        if "gate" in row
    ]
    lines += _table(["gate", "score", "at least", ""], gates)
    lines += [_compared(report), ""]
    rows = []
    recalls = evaluate.recalls(report.found)
    live = evaluate.recalls(report.compared.answers) if report.compared else {}
    for kind, one in recalls.items():
        cells = [kind, f"{one.rows:,}", f"{one.share:.1%}", f"{one.low:.1%} to {one.high:.1%}"]
        rows.append(cells + ([f"{live[kind].share:.1%}"] if live else []))
    heads = ["recall by kind", "rows", "recognised", "19 times in 20"]
    lines += _table(heads + (["live"] if live else []), rows)
    counts = evaluate.confusion(report.found, len(version.classes))
    lines += _table(
        ["is \\ taken for", *version.classes],
        [
            [name, *(f"{count:,}" for count in row)]
            for name, row in zip(version.classes, counts, strict=True)
        ],
    )
    error = evaluate.calibration_error(evaluate.calibration(report.found))
    lines += [f"Calibration: probabilities are {error:.4f} off what came true, on average.", ""]
    lines += [f"Measured on {report.found.split}."]
    return "\n".join(lines) + "\n"


def page(report: Report) -> str:
    """The whole report, drawings and all."""
    version = report.version
    training = version.card["training"]
    facts = [
        ("model.onnx", f"sha256 <code>{version.sha256}</code>, {len(version.model):,} bytes"),
        ("data", html.escape(f"{training['data']['source']}, {training['data']['rows']:,} rows")),
        ("data's digest", f"<code>{training['data']['sha256']}</code>"),
        (
            "code",
            f"commit <code>{html.escape(training['code']['commit'])}</code>, "
            f"files <code>{training['code']['files_sha256']}</code>",
        ),
        ("seed", str(training["seed"])),
        ("libraries", html.escape(", ".join(f"{k} {v}" for k, v in training["libraries"].items()))),
        ("measured on", html.escape(report.found.split)),
    ]
    metrics = "".join(
        f"<tr><td>{html.escape(row['name'])}</td><td>{_scored(row)}</td>"
        f"<td>{_gate(row)}</td><td>{html.escape(row.get('note', ''))}</td></tr>"
        for row in version.card["metrics"]
    )
    figures = "".join(
        f"<figure><h2>{html.escape(plot.title)}</h2>"
        f'<img alt="{html.escape(plot.words)}" '
        f'src="data:image/svg+xml;base64,{base64.b64encode(plot.svg).decode()}">'
        f"<figcaption>{html.escape(plot.words)}</figcaption></figure>"
        for plot in report.drawn
    )
    refusals = "".join(f"<li>{html.escape(refusal)}</li>" for refusal in report.refusals)
    refused = f'<ul class="refused">{refusals}</ul>' if refusals else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(report.title)}: training report</title>
<style>{_STYLE}</style>
<main>
<h1>{html.escape(report.title)} <span class="{report.outcome}">{report.outcome}</span></h1>
<p>{html.escape(version.card["description"])}</p>
{refused}<p>{html.escape(_compared(report).replace("**", ""))}</p>
<div class="figures">{figures}</div>
<h2>Scores</h2>
<div class="wide"><table><thead><tr><th>score</th><th>value</th><th>gate</th><th>note</th></tr>
</thead><tbody>{metrics}</tbody></table></div>
<h2>Where it comes from</h2>
<dl>{"".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)}</dl>
</main>
</html>
"""


_STYLE = """
:root { color-scheme: light dark; --text: #1f2937; --quiet: #6b7280; --ground: #ffffff;
  --line: #e5e7eb; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --text: #e5e7eb; --quiet: #9ca3af; --ground: #111827;
  --line: #374151; --good: #4ade80; --bad: #f87171; } }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--ground); }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 span { font-size: 0.6em; padding: 0.2em 0.6em; border-radius: 1em; border: 1px solid; }
.passes { color: var(--good); }
.refused { color: var(--bad); }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: 1rem; }
figure h2 { margin-top: 0; }
/* The drawings are made for paper. */
figure img { display: block; width: 100%; max-height: 26rem; background: #ffffff;
  border-radius: 4px; }
figcaption { color: var(--quiet); margin-top: 0.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.8rem 0.3rem 0;
  border-bottom: 1px solid var(--line); }
code, dd { overflow-wrap: anywhere; }
dt { color: var(--quiet); }
dd { margin: 0 0 0.6rem; }
"""


def _compared(report: Report) -> str:
    compared = report.compared
    if compared is None:
        return "No live version was given to compare with."
    if compared.live.sha256 == report.version.sha256:
        return f"Live is {compared.live.number}, and it is this very file."
    reach = evaluate.CERTAIN * compared.standard_error
    return (
        f"Against live {compared.live.number}: **{compared.verdict}**. "
        f"{report.found.score_name} {compared.mean:+.5f} ± {reach:.5f}, over "
        f"{len(compared.differences)} {report.found.group}s; "
        f"{compared.changed:,} of {len(report.found.truth):,} rows get another label, "
        f"{compared.put_right:,} of them the right one."
    )


def _scored(row: dict) -> str:
    deviation = f" ± {_number(row['deviation'])}" if "deviation" in row else ""
    return f"{_number(row['value'])}{deviation}"


def _met(row: dict) -> bool:
    return row["value"] >= row["gate"]


def _gate(row: dict) -> str:
    if "gate" not in row:
        return ""
    return f"{_number(row['gate'])}, {'met' if _met(row) else 'missed'}"


def _number(value: float) -> str:
    return f"{np.round(value, 4):g}"


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*lines, *("| " + " | ".join(cells) + " |" for cells in rows), ""]
