"""Rows of a data set: as pairs of text or messages, checked, split and counted."""
