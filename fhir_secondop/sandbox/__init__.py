"""Simulated EHRs and people, each its own process: `rest` plus a quirk layer. They use public HTTP only."""
