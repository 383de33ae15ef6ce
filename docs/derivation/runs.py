"""Finished runs of the default task as tables: log-probs of every review under reference and trained policy."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from transformers import AutoModelForCausalLM

from lightning_dpo.reviews import ReviewRows, TinyReviewer, world
from lightning_dpo.reviews.callback import all_logps
from lightning_dpo.reviews.closed_form import ClosedForm
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.settings_files import loaded


@dataclass(frozen=True)
class ReviewsRun:
    """A finished run of `data=reviews`.

    Args:
        folder: Its folder, with the export.
    """

    folder: Path

    def settings(self, key: str) -> dict[str, Any]:
        """The settings of the run below a top-level key."""
        found = OmegaConf.to_container(loaded(RunFolder(self.folder).config)[key], resolve=True)
        return {str(name): value for name, value in dict(found).items() if name != "_target_"}

    @property
    def beta(self) -> float:
        """β of its loss."""
        return float(self.settings("loss")["beta"])

    @cached_property
    def reference(self) -> Tensor:
        """log π_ref of every review, normalized over the reviews of a film. Shape: (films, reviews), float64."""
        return _reference(json.dumps(self.settings("model"))).double().log_softmax(-1)

    @property
    def reference_mass(self) -> float:
        """Probability that the reference writes one of the reviews, mean over films."""
        return float(_reference(json.dumps(self.settings("model"))).double().exp().sum(-1).mean())

    @cached_property
    def policy(self) -> Tensor:
        """log π of the export. Shape: (films, reviews), float64, normalized over the reviews of a film."""
        model = AutoModelForCausalLM.from_pretrained(self.folder / "export")
        return all_logps(model, TinyReviewer().tokenizer()).double().log_softmax(-1)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The final metrics."""
        return dict(json.loads(RunFolder(self.folder).metrics.read_text()))

    @cached_property
    def known(self) -> ClosedForm:
        """The closed form at the β of the run."""
        return ClosedForm(world.rewards(), self.reference, self.beta)

    @cached_property
    def rewards(self) -> Tensor:
        """r̂ = β log π/π_ref of every review. Shape: (films, reviews)."""
        return self.beta * (self.policy - self.reference)

    @cached_property
    def margins(self) -> Tensor:
        """r̂_w − r̂_l of every training pair. Shape: (pairs,)."""
        rows = self.settings("data")["rows"]
        index = {text: number for number, text in enumerate(world.reviews())}
        films = {prompt: number for number, prompt in enumerate(world.prompts())}
        pairs = list(ReviewRows(rows["pairs"], rows["val_pairs"], rows["seed"])("train"))
        film = torch.tensor([films[pair["prompt"]] for pair in pairs])
        sides = (torch.tensor([index[pair[name]] for pair in pairs]) for name in ("chosen", "rejected"))
        chosen, rejected = (self.rewards[film, side] for side in sides)
        return chosen - rejected


@cache
def _reference(settings: str) -> Tensor:
    """The table of a reference. Pretraining it takes seconds, and runs of a sweep have the same."""
    reviewer = TinyReviewer(**json.loads(settings))
    return all_logps(reviewer.policy(), reviewer.tokenizer())
