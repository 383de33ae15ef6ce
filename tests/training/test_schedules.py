import math
from functools import partial
from typing import get_args

import pytest
import torch
from transformers import SchedulerType, get_scheduler

from lightning_dpo.errors import UserError
from lightning_dpo.training.schedules import (
    NameInTransformers,
    depends_on_length,
    transformers_schedule,
    warmup_constant,
    warmup_cosine,
)

NAMES = get_args(NameInTransformers)
OPTIONS = {
    "cosine_with_min_lr": {"min_lr": 0.2},
    "cosine_warmup_with_min_lr": {"min_lr": 0.2},
    "warmup_stable_decay": {"num_decay_steps": 3},
}


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


@pytest.mark.parametrize("schedule", [warmup_constant, warmup_cosine])
def test_warns_of_a_warmup_that_never_ends(schedule, caplog):
    assert rates(schedule, 3, warmup_steps=5) == pytest.approx([2 / 6, 4 / 6, 6 / 6])
    assert "warmup_steps=5: the run has only 3 steps" in caplog.text


def test_warns_of_a_warmup_of_transformers_that_never_ends(caplog):
    rates(transformers_schedule, 3, name="linear", warmup_steps=5)
    assert "warmup_steps=5: the run has only 3 steps" in caplog.text


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (warmup_constant, {"warmup_steps": -1}, "must not be negative, got -1"),
        (warmup_cosine, {"final": 2.0}, r"final must be in \[0, 1\], got 2.0"),
        (transformers_schedule, {"name": "linear", "warmup_steps": -1}, "must not be negative, got -1"),
        (transformers_schedule, {"name": "linear", "options": {"power": 2}}, "name=linear: .* argument 'power'"),
        (transformers_schedule, {"name": "warmup_stable_decay"}, "name=warmup_stable_decay: .*num_decay_steps"),
        (transformers_schedule, {"name": "inverse_sqrt", "options": {"timescale": 0}}, "name=inverse_sqrt: .*division"),
        (transformers_schedule, {"name": "constant", "warmup_steps": 2}, "constant has neither warm-up nor options"),
        (transformers_schedule, {"name": "constant_with_warmup", "options": {"a": 1}}, "options=.* has no effect"),
    ],
)
def test_rejects_what_makes_no_schedule(schedule, options, message):
    with pytest.raises(UserError, match=message):
        rates(schedule, 3, **options)


def test_all_schedules_of_transformers_that_need_no_metric():
    assert {*NAMES} == {one.value for one in SchedulerType} - {"reduce_lr_on_plateau", "greedy"}


@pytest.mark.parametrize("name", NAMES)
def test_schedules_of_transformers_have_the_rates_of_its_trainer(name):
    warmup, options = 0 if name == "constant" else 3, OPTIONS.get(name, {})

    def of_transformers(optimizer, steps):
        return get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=options)

    ours = partial(transformers_schedule, name=name, warmup_steps=warmup, options=options)
    assert rates(ours, 12) == rates(of_transformers, 12)
    # The rates of another length differ if and only if the schedule depends on it.
    assert depends_on_length(ours) == (rates(ours, 12) != rates(ours, 24)[:12])
