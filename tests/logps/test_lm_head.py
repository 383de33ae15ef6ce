import pytest
import torch
from torch import nn

from lightning_dpo.logps.completions import completion_logps, token_logps
from lightning_dpo.logps.fusion import can_fuse
from lightning_dpo.logps.lm_head import head_logps
from tests.support.architectures import ARCHITECTURES, make
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs


def plain(head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor):
    """In float64 and whole: log-prob, entropy −Σ p log p, log Σ p²."""
    logps = head.double()(hidden.double()).log_softmax(-1)
    p = logps.exp()
    return logps[torch.arange(len(targets)), targets], -(p * logps).sum(-1), (p**2).sum(-1).log()


@pytest.mark.parametrize("positions", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("statistics", [False, True])
def test_equals_the_whole_in_float64(positions, statistics, monkeypatch):
    monkeypatch.setattr("lightning_dpo.logps.lm_head.CHUNK", 8)
    torch.manual_seed(positions)
    head, targets = nn.Linear(16, 50), torch.randint(50, (positions,))
    hidden = (3 * torch.randn(positions, 16)).requires_grad_()
    found = head_logps(head, hidden, targets, lambda logits: logits, statistics)
    factors = torch.randn(positions)  # as a loss per pair gives each token its own
    gradients = torch.autograd.grad((found.logps * factors).sum(), [hidden, *head.parameters()])
    wanted = plain(head, hidden, targets)
    exact = torch.autograd.grad((wanted[0] * factors).sum(), [hidden, *head.parameters()])
    shown = [value for value in found if value is not None]
    assert len(shown) == (3 if statistics else 1)
    for one, other in zip([*shown, *gradients], [*wanted[: len(shown)], *exact], strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-5, atol=1e-5)


def test_no_more_than_a_chunk_of_logits_exists_at_once(monkeypatch):
    """Everything that autograd keeps of 64 positions and 1 000 tokens is smaller than the logits of 9 positions."""
    monkeypatch.setattr("lightning_dpo.logps.lm_head.CHUNK", 8)
    head, hidden = nn.Linear(4, 1000, bias=False), torch.randn(64, 4, requires_grad=True)
    kept = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = head_logps(head, hidden, torch.zeros(64, dtype=torch.int64), lambda logits: logits)
        kept_by_forward = list(kept)
        found.logps.sum().backward()
    # In the backward pass, one chunk after the other is computed and kept anew: what matters is what forward keeps.
    assert sum(tensor.numel() for tensor in kept_by_forward if tensor is not head.weight) < 9 * 1000


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_soft_caps_and_scales_of_an_architecture_are_known(architecture):
    assert can_fuse(make(architecture))


def test_a_model_that_does_more_to_its_logits_is_computed_whole_and_reports_it(caplog):
    class Shifted(type(make_llama())):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits + torch.arange(output.logits.shape[-1])
            return output

    model = Shifted(make_llama().config)
    batch = padded_batch(random_pairs(3))
    with torch.no_grad():
        logps = token_logps(model, batch, statistics=True)
        whole = model(batch.input_ids).logits.log_softmax(-1).flatten(0, 1)[batch.score_index]
    torch.testing.assert_close(logps.logps, whole.gather(1, batch.target_ids[:, None])[:, 0])
    torch.testing.assert_close(logps.entropy, -(whole.exp() * whole).sum(-1), atol=1e-5, rtol=1e-4)
    (message,) = caplog.messages
    assert message.startswith(
        "The logits of Shifted cannot be computed from its head and config, so they are not split"
    )


def test_testing_the_head_uses_no_random_numbers(llama):
    """An adapter's dropout draws in the forward pass; with the trial's draws, the first step would be another."""

    def draw(*_) -> None:
        torch.rand(3)

    torch.manual_seed(1)
    llama.model.norm.register_forward_pre_hook(draw)
    assert can_fuse(llama)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))


def test_bf16_logits_are_summed_in_float32(llama):
    batch = padded_batch(random_pairs(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert completion_logps(llama, batch).sums.dtype == torch.float32
