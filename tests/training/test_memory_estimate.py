import pytest
import torch

from lightning_dpo.logps.lm_head import positions_at_once
from lightning_dpo.losses import DPO
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.reference_factories import Auto
from lightning_dpo.training.memory_estimate import MemoryEstimate, estimate
from tests.support.models import VOCABULARY, make_llama


def estimated(policy, optimizer=torch.optim.AdamW, tokens=100, scored=40, itemsize=4) -> MemoryEstimate:
    return estimate(policy, Auto()(policy, DPO()), optimizer, tokens, scored, itemsize)


def test_what_is_certain_is_what_a_step_then_holds():
    """Counted against the tensors of a step that was made."""
    policy = make_llama()
    needed = estimated(policy)
    optimizer = torch.optim.AdamW(policy.parameters())
    policy(torch.tensor([[1, 2]])).logits.sum().backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.numel() > 1]
    size = 4 * sum(value.numel() for value in policy.parameters())
    assert needed.optimizer == 4 * sum(value.numel() for value in moments)
    assert (needed.weights, needed.gradients, needed.reference) == (size, size, size)
    assert needed.logits == 40 * VOCABULARY * (4 + 4 + 4)
    assert estimated(policy, scored=10**6).logits == positions_at_once(VOCABULARY) * VOCABULARY * (4 + 4 + 4)


@pytest.mark.parametrize(("name", "states"), [("SGD", 0), ("RMSprop", 1), ("AdamW", 2), ("Adafactor", 0.03125)])
def test_an_optimizers_state_is_found_by_trying(name, states):
    needed = estimated(make_llama(), lambda weights: getattr(torch.optim, name)(weights, lr=0.1))
    assert needed.optimizer == states * needed.gradients


def test_an_adapter_needs_gradients_and_state_only_for_itself_and_no_reference():
    needed, whole = estimated(LoRA(r=2)(make_llama())), estimated(make_llama())
    assert needed.reference == 0
    assert needed.gradients < whole.gradients / 5
    assert needed.certain < whole.certain / 2


def test_activations_are_of_the_size_that_a_forward_pass_keeps():
    """Within a factor of two of the tensors that autograd really keeps, for a model of usual proportions."""
    policy = make_llama(hidden_size=128, intermediate_size=344, num_hidden_layers=6, num_key_value_heads=4)
    ids = torch.randint(1, 300, (4, 100))
    kept: dict[int, int] = {}
    weights = {value.untyped_storage().data_ptr() for value in policy.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = policy.model(ids, use_cache=False).last_hidden_state
    assert hidden.requires_grad
    needed = estimated(policy, tokens=400)
    assert 0.5 < needed.activations / sum(kept.values()) < 2


def test_advice_begins_with_what_saves_most():
    needed = MemoryEstimate(10, 10, 20, 10, logits=4, activations=8)
    first, second, _ = needed.advice(8, checkpointing=False, adapter=False).split("; ")
    assert first.startswith("adapter=lora")
    assert second == "optimizer=rmsprop"
    wide = MemoryEstimate(10, 1, 2, 0, logits=400, activations=800)
    first, second, third = wide.advice(8, checkpointing=False, adapter=True).split("; ")
    assert first == "model.gradient_checkpointing=true"
    assert second == "data.batch_size=4 (does not change results)"
    assert third == "a smaller data.max_length"
    assert "batch_size" not in wide.advice(1, checkpointing=False, adapter=True)
