import random

import numpy as np
import torch

from lightning_dpo.checkpoints.random_state import random_state, restore


def draw() -> list[float]:
    return [float(torch.rand(())), random.random(), float(np.random.rand()), float(np.random.randn())]


def test_all_generators_continue_after_a_file(tmp_path):
    np.random.randn()  # NumPy keeps the second of two normal numbers
    torch.save(random_state(), tmp_path / "state")
    expected = draw()
    draw()
    restore(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected
