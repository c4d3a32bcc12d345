"""Makes requirements.lock (every dependency of the product, pinned, with hashes) and sbom.cdx.json (CycloneDX) anew.

Needs uv and cyclonedx-bom (PyPI) in the environment that runs it; installs the lock into a new environment, with its
hashes demanded, and lists what is there.

Example: python tools/lock.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOCK, SBOM = ROOT / "requirements.lock", ROOT / "sbom.cdx.json"


def run(*command: str) -> None:
    """Runs a command, or ends with its status."""
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Both files."""
    run(sys.executable, "-m", "uv", "pip", "compile", "setup.cfg", "--universal", "--python-version", "3.11",
        "--generate-hashes", "--no-header", "--no-annotate", "--quiet", "-o", str(LOCK))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        run(python, "-m", "pip", "install", "-q", "--require-hashes", "-r", str(LOCK))
        run(python, "-m", "pip", "uninstall", "-q", "-y", "setuptools", "pip")
        run(sys.executable, "-m", "cyclonedx_py", "environment", python, "--output-reproducible", "--of", "JSON",
            "-o", str(SBOM))  # fmt: skip


if __name__ == "__main__":
    main()
