"""Says on standard error how far a long training is: a bar on a terminal, else a line per stage."""

import sys
import time


class Progress:
    """One stage at a time; knows nothing of what the stages do."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._bar = sys.stderr.isatty()
        self._stage = ""

    def stage(self, name: str) -> None:
        self._stage = name
        self._print(name, "\n" if not self._bar else "")

    def step(self, done: int, total: int) -> None:
        """Redraws the bar of this stage; a terminal only, since a log would fill with it."""
        if self._bar:
            width = 30
            filled = width * done // total
            bar = "#" * filled + "." * (width - filled)
            self._print(f"{self._stage} [{bar}] {done} of {total}", "")

    def finish(self) -> None:
        if self._bar and self._stage:
            print(file=sys.stderr, flush=True)

    def _print(self, text: str, end: str) -> None:
        elapsed = time.monotonic() - self._start
        start = "\r\033[K" if self._bar else ""
        print(f"{start}[{elapsed:6.1f} s] {text}", end=end, file=sys.stderr, flush=True)
