"""Runs and sweeps as tables and plots."""
