"""The program itself, where the worker called "wrong" has a clock that is so many milliseconds ahead:
python -m tests.faults.shifted MILLISECONDS work …
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Runs the command line."""
    ahead_ms = int(sys.argv.pop(1))
    if "wrong" in sys.argv:
        real, real_ns = time.time, time.time_ns
        time.time = lambda: real() + ahead_ms / 1000
        time.time_ns = lambda: real_ns() + ahead_ms * 1_000_000

    from fhir_secondop.cli import main as command

    command()


if __name__ == "__main__":
    main()
