"""Alerts: what waits too long is told to people once when it begins and once when it is over, without any patient."""
