"""`python -m fhir_secondop.cli`: the same as the installed command."""

from fhir_secondop.cli import main

main()
