"""Makes pkg://lightning_dpo.conf a search path for other Hydra apps."""
