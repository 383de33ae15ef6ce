"""Checkpoints: what identifies a training, the points from which it resumes, and how files are written and read."""
