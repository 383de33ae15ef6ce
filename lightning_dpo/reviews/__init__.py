"""The default task: reviews of films with a known reward, for which the optimal policy is known."""

from lightning_dpo.reviews.callback import ClosedFormReport
from lightning_dpo.reviews.pairs import LengthBiasedRows, ReviewRows
from lightning_dpo.reviews.policy import TinyReviewer

__all__ = ["ClosedFormReport", "LengthBiasedRows", "ReviewRows", "TinyReviewer"]
