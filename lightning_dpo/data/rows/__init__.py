"""Rows of a dataset: as pairs of text or messages, checked, split and counted."""
