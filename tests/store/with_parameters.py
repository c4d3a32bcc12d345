"""The program as it is with search parameters of profiles/searchparameters, indexed a few resources at a time:

python -m tests.store.with_parameters FILE ARGUMENTS…, FILE being a JSON array of SearchParameters.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fhir_secondop import cli
from fhir_secondop.fhir import definitions
from fhir_secondop.store import reindex


def main(file: str, *arguments: str) -> None:
    """Runs the command line so."""
    shipped = definitions._own
    added = {row["url"]: row for row in json.loads(Path(file).read_text("utf-8"))}

    def own(folder: str) -> dict[str, dict[str, Any]]:
        return {**shipped(folder), **added} if folder == "searchparameters" else shipped(folder)

    definitions._own = own  # type: ignore[assignment]
    reindex.BATCH, reindex.PAUSE_S = 5, 0.4
    sys.argv[1:] = arguments
    cli.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
