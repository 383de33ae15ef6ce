"""A world whose optimum is known: reviews of films, their true reward, and the policy that DPO should end at."""

from lightning_dpo.reviews.callback import ClosedFormReport
from lightning_dpo.reviews.pairs import review_pairs
from lightning_dpo.reviews.policy import TinyReviewer

__all__ = ["ClosedFormReport", "TinyReviewer", "review_pairs"]
