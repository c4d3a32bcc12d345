"""Whole conversations with plainly synthetic people; every file is a test input."""
