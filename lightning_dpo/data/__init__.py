"""Preference data: one file per source, and the way from text to batches."""
