"""Rows: resources with their versions and index, in SQLite or PostgreSQL."""
