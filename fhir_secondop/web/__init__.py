"""HTTP around the FHIR endpoint: plain JSON, links, health, and the server that runs it."""
