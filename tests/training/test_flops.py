import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lightning_dpo.shared_prefix.attention  # noqa: F401
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.logps.forward import ATTENTION
from lightning_dpo.logps.fusion import can_fuse
from lightning_dpo.models.lora import LoRA
from lightning_dpo.training.flops import MatrixWork, attended, matrix_rate
from tests.support.architectures import make
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, pairs_of_shared_prompts, random_pairs, shared_batch


def counted(model, batch) -> tuple[int, int]:
    """What PyTorch counts in forward and backward, without attention's own products, which it counts without masks."""
    can_fuse(model)
    with FlopCounterMode(display=False) as forward:
        sums = completion_logps(model, batch).sums
    with FlopCounterMode(display=False) as backward:
        sums.sum().backward()
    return tuple(
        sum(count for name, count in counter.get_flop_counts()["Global"].items() if "attention" not in str(name))
        for counter in (forward, backward)
    )


@pytest.mark.parametrize("layout", [padded_batch, shared_batch])
@pytest.mark.parametrize("adapter", [False, True])
def test_matrix_products_are_those_that_pytorch_counts(layout, adapter):
    model, batch = make_llama(num_hidden_layers=8), layout(random_pairs(8))
    model.set_attn_implementation(ATTENTION)
    if adapter:
        model = LoRA(r=2)(model)
    work = MatrixWork(model)
    attention = 4 * attended(batch) * 8 * 32  # eight layers, heads of 32 in all
    forward, backward = counted(model, batch)
    assert work.forward(batch) - attention == pytest.approx(forward, rel=1e-6)
    # The input of the first layer needs no gradient where nothing below it is trained, which is 3 % here.
    assert work.backward(batch) - 2 * attention == pytest.approx(backward, rel=0.05 if adapter else 1e-6)


def test_tied_weights_are_multiplied_by_as_the_head_only():
    tied, untied = make_llama(tie_word_embeddings=True), make_llama(tie_word_embeddings=False)
    batch = padded_batch(random_pairs(3))
    assert MatrixWork(tied).forward(batch) == MatrixWork(untied).forward(batch)


def test_of_experts_those_count_that_a_token_is_sent_to():
    one, two = (MatrixWork(make("mixtral", num_experts_per_tok=number)) for number in (1, 2))
    batch = padded_batch(random_pairs(3))
    expert = 3 * 32 * 48 * 3  # three matrices in each of three layers
    assert two.forward(batch) - one.forward(batch) == 2 * expert * batch.input_ids.numel()


def test_attended_keys_by_counting():
    """One group of a prompt of 2 and answers of 2 and 3: 4 tokens causally, then 3 that see the prompt before them."""
    pairs = pairs_of_shared_prompts()
    batch = shared_batch(pairs[:1])
    prompt, first, second = (len(ids) for ids in (pairs[0].prompt_ids, pairs[0].chosen_ids, pairs[0].rejected_ids))
    keys = [*range(1, prompt + first + 1), *range(prompt + 1, prompt + second + 1)]
    assert attended(batch) == sum(keys)
    width = prompt + max(first, second)
    assert attended(padded_batch(pairs[:1])) == 2 * sum(range(1, width + 1))


def test_the_rate_is_that_of_a_clock(monkeypatch):
    """On a clock by which four products take 0.1 s."""
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 10)
    assert matrix_rate(torch.device("cpu"), torch.float32) == pytest.approx(4 * 2 * 1024**3 / 0.1)
