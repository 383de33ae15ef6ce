import math

import pytest
import torch

from lightning_dpo.errors import UserError
from lightning_dpo.training.schedules import warmup_constant, warmup_cosine


def rates(schedule, steps: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_warmup_constant_is_the_dpo_authors_schedule():
    expected = [2.0 * min((step + 1) / (3 + 1), 1.0) for step in range(8)]
    assert rates(warmup_constant, 8, warmup_steps=3) == pytest.approx(expected)


def test_warmup_cosine():
    rise = [2.0 * (step + 1) / 3 for step in range(2)]
    fall = [0.2 + 1.8 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert rates(warmup_cosine, 8, warmup_steps=2, final=0.1) == pytest.approx(rise + fall)


def test_without_warmup():
    assert rates(warmup_constant, 3) == [2.0, 2.0, 2.0]
    assert rates(warmup_cosine, 2) == pytest.approx([2.0, 1.0])


def test_warns_of_a_warmup_that_never_ends():
    for schedule in (warmup_constant, warmup_cosine):
        with pytest.warns(UserWarning, match="warmup_steps=5: the run has only 3 steps"):
            assert rates(schedule, 3, warmup_steps=5) == pytest.approx([2 / 6, 4 / 6, 6 / 6])


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (warmup_constant, {"warmup_steps": -1}, "must not be negative, got -1"),
        (warmup_cosine, {"final": 2.0}, r"final must be in \[0, 1\], got 2.0"),
    ],
)
def test_rejects_what_makes_no_schedule(schedule, options, message):
    with pytest.raises(UserError, match=message):
        rates(schedule, 3, **options)
