"""Policy and batch in, log-probs out."""
