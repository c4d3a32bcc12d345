"""The FHIR endpoint. It knows resources, callers and operations; it does not know that opinions exist."""
