"""Second opinions connected with EHRs over FHIR R4."""

__version__ = "0.1.0"
