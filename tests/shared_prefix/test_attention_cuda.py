"""The kernels themselves, on a GPU: LIGHTNING_DPO_TEST_CUDA=1 pytest tests/shared_prefix."""

import pytest
import torch

from lightning_dpo.shared_prefix.attention import shared_prefix_attention
from lightning_dpo.shared_prefix.attention_cuda import by_flex, by_varlen
from tests.support.pairs import pairs_of_shared_prompts, shared_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, and LIGHTNING_DPO_TEST_CUDA=1")


@pytest.mark.parametrize("window", [None, 3, 7])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize(
    ("kernel", "dtype", "softcap"),
    [(by_varlen, torch.bfloat16, None), (by_flex, torch.bfloat16, None), (by_flex, torch.float32, 2.0)],
    ids=["varlen", "flex", "flex, soft-capped"],
)
def test_a_kernel_gives_what_the_cpu_gives_in_float32(kernel, dtype, softcap, heads, window):
    segments = shared_batch(pairs_of_shared_prompts()).segments
    tokens = sum(stretch.length for stretch in segments.stretches)
    torch.manual_seed(0)
    inputs = [torch.randn(1, number, tokens, 64).to(dtype).float().requires_grad_() for number in (4, heads, heads)]
    wanted, _ = shared_prefix_attention(None, *inputs, None, segments=segments, sliding_window=window, softcap=softcap)
    factors = torch.randn_like(wanted)
    exact = torch.autograd.grad((wanted * factors).sum(), inputs)
    on_gpu = [tensor.detach().to("cuda", dtype).requires_grad_() for tensor in inputs]
    found = kernel(*on_gpu, segments, None, window, softcap)
    gradients = torch.autograd.grad((found * factors.to("cuda", dtype)).sum(), on_gpu)
    close = {"rtol": 0.03, "atol": 0.03} if dtype == torch.bfloat16 else {"rtol": 1e-3, "atol": 1e-3}
    for one, other in zip((found, *gradients), (wanted, *exact), strict=True):
        torch.testing.assert_close(one.float().cpu(), other, **close)
