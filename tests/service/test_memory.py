"""What a process holds after something large, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from fhir_secondop.service.memory import give_back_large_blocks

def held_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

if sys.argv[1] == "bounded":
    give_back_large_blocks()
one = bytearray(30_000_000)
del one
before = held_mb()
blocks = [bytearray(900_000) for _ in range(60)]
del blocks
print(held_mb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is asked")
@pytest.mark.parametrize(("how", "gives_back"), [("bounded", True), ("as it is", False)])
def test_what_is_freed_after_something_large_goes_back_to_the_system(how: str, gives_back: bool) -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert (float(said.stdout) < 5) == gives_back
