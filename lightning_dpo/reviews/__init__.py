"""A world whose optimum is known: reviews of films, their true reward, and the policy that DPO should end at."""

from lightning_dpo.reviews.callback import ClosedFormReport
from lightning_dpo.reviews.pairs import ReviewRows
from lightning_dpo.reviews.policy import TinyReviewer

__all__ = ["ClosedFormReport", "ReviewRows", "TinyReviewer"]
