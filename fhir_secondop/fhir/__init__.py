"""The format: bytes, tables, references, dates and rules of FHIR R4. Pure: no network, no database."""
