"""The domain of second opinions: pure functions over FHIR resources. No SQL, no HTTP, no clock of its own."""
