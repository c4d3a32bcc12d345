"""Use cases: load, decide, commit; one function, one transaction. No network inside a transaction."""
