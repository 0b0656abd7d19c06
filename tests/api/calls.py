"""Runs the calls that the page shows, as they are shown:  calls.py URL

Each is taken from the page as a person would copy it, and must print what the server answers to the page's example; of a
model that is no classifier, it must work.
"""

import json
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser

SHELLS = {
    "curl": ["bash", "-c"],
    "requests": [sys.executable, "-c"],
    "tritonclient": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "--eval"],
}


class Calls(HTMLParser):
    """The calls of a page: (what it is written with, text), in order."""

    def __init__(self):
        super().__init__()
        self.found = []
        self.inside = False

    def handle_starttag(self, tag, attributes):
        written_with = dict(attributes).get("data-call")
        if tag == "code" and written_with:
            self.found.append([written_with, ""])
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "code"

    def handle_data(self, text):
        if self.inside:
            self.found[-1][1] += text


def main():
    browser = urllib.request.Request(sys.argv[1] + "/", headers={"accept": "text/html"})
    with urllib.request.urlopen(browser, timeout=10) as page:
        calls = Calls()
        calls.feed(page.read().decode())
    labels = []
    for written_with, text in calls.found:
        run = subprocess.run([*SHELLS[written_with], text], capture_output=True, text=True, timeout=60)
        if run.returncode:
            sys.exit(f"the page's call does not work:\n{text}\n{run.stdout}{run.stderr}")
        if written_with == "curl":
            # The first of each form: what it answers is what the others must.
            answer = json.loads(run.stdout)
            labels = [str(answer["label"][0]), str(answer["prediction"][0])] if "label" in answer else [""]
        # Of tensors, a label is a name or a number, as the model gives it.
        expected = labels if written_with == "tritonclient" else labels[:1]
        if not run.stdout.strip() or not any(label in run.stdout for label in expected):
            sys.exit(f"none of {expected} is in what the page's call prints:\n{text}\n{run.stdout}")
        print(f"{written_with}: {run.stdout.strip()[:100]}")
    kinds = {written_with for written_with, _ in calls.found}
    if kinds != set(SHELLS):
        sys.exit(f"the page shows calls with {sorted(kinds)}, not with {sorted(SHELLS)}")
    print(f"{len(calls.found)} calls of the page work as shown")


main()
