"""Which pairs form an optimizer step and a micro-batch, and the loader that draws them."""
