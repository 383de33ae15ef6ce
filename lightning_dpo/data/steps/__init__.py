"""The pairs of each optimizer step and micro-batch, and the loader that batches them."""
