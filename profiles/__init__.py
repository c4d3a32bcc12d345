"""Profiles, value sets, vendor files and R4 tables, shipped as data and read by importlib.resources."""
