"""From policy and batch to log-probs."""
