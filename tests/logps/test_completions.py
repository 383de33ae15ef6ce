import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.logps.forward import scored_positions
from tests.support.models import SMALL, VOCABULARY, make_llama
from tests.support.pairs import padded_batch, random_pairs

ARCHITECTURES = {
    "llama": SMALL,
    "qwen3": SMALL | {"head_dim": 8},
    "mistral": SMALL | {"sliding_window": 4},
    "gemma2": SMALL | {"head_dim": 8, "final_logit_softcapping": 5.0, "sliding_window": 4},
    "granite": SMALL | {"logits_scaling": 3.0},
    "gpt_neox": {k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
    "opt": {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "word_embed_proj_dim": 32, "init_std": 0.3},
}  # fmt: skip


def float64_logps(model, pairs) -> tuple[list[float], list[float]]:
    """One completion at a time, no padding, in float64, by the definition: Σ log π(y_t | x, y_<t)."""
    model = model.double().eval()

    def logp(prompt: list[int], completion: list[int]) -> float:
        with torch.no_grad():
            logps = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        return sum(logps[len(prompt) + t - 1, token].item() for t, token in enumerate(completion))

    chosen = [logp(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    return chosen, [logp(pair.prompt_ids, pair.rejected_ids) for pair in pairs]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_a_float64_sum_over_single_completions(architecture):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture])
    model = AutoModelForCausalLM.from_config(config).eval()
    pairs = random_pairs(5)
    batch = padded_batch(pairs)
    with torch.no_grad():
        logps = completion_logps(model, batch)
    chosen, rejected = float64_logps(model, pairs)
    torch.testing.assert_close(logps.sums[batch.chosen].tolist(), chosen, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(logps.sums[batch.rejected].tolist(), rejected, rtol=1e-5, atol=1e-4)
    assert logps.lengths[batch.chosen].tolist() == [len(pair.chosen_ids) for pair in pairs]


class Oracle(torch.nn.Module):
    """Gives the true next token a logit of 3 and all others 0: what a shifted mask cannot reproduce."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.config = AutoConfig.for_model("llama")
        self.embeddings = torch.nn.Embedding(vocabulary, 1)
        self.head = torch.nn.Identity()
        self.vocabulary = vocabulary

    def get_input_embeddings(self):
        return self.embeddings

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache):
        following = torch.nn.functional.one_hot(input_ids.roll(-1, 1), self.vocabulary).float()
        return type("Output", (), {"logits": self.head(3 * following)})


def test_predicts_the_next_token_and_no_other():
    """A completion of n tokens has log-prob n · (3 − log(e³ + V − 1)). ln 2 at the start would not tell a shift."""
    pairs = random_pairs(8)
    logps = completion_logps(Oracle(VOCABULARY), padded_batch(pairs))
    per_token = 3 - math.log(math.exp(3) + VOCABULARY - 1)
    lengths = [len(pair.chosen_ids) for pair in pairs] + [len(pair.rejected_ids) for pair in pairs]
    torch.testing.assert_close(logps.sums.tolist(), [n * per_token for n in lengths], rtol=0, atol=1e-4)


def test_only_scored_positions_reach_the_head_a_chunk_at_a_time(llama, monkeypatch):
    monkeypatch.setattr("lightning_dpo.logps.lm_head.CHUNK", 16)
    monkeypatch.setattr("lightning_dpo.logps.lm_head._SMALL", 0)
    batch = padded_batch(random_pairs(5))
    completion_logps(llama, batch)  # the first time, the head is tried at 16 positions
    seen = []
    llama.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.numel() // VOCABULARY))
    completion_logps(llama, batch).sums.sum().backward()
    forward, whole = seen[: len(seen) // 2 + 1], len(batch.score_index)
    assert max(seen) == 16
    assert sum(forward) == whole  # once, and an empty pass for the model's own call of its head
    assert sum(seen) == 2 * whole  # and once more for the gradient
    assert len(llama.lm_head._forward_pre_hooks) == len(llama._forward_hooks) == 0


def test_sums_are_float32_under_autocast(llama):
    batch = padded_batch(random_pairs(5))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logps = completion_logps(llama, batch)
    assert logps.sums.dtype == torch.float32


def test_long_sums_lose_nothing_to_a_bf16_head():
    """4 096 scored tokens: a bf16 sum would be off by whole nats; summing bf16 logits' log-probs in fp32 is not."""
    torch.manual_seed(0)
    logits = torch.randn(4096, 64).bfloat16()
    targets = torch.randint(64, (4096,))
    exact = logits.double().log_softmax(-1).gather(1, targets[:, None]).sum()

    class Fixed(Oracle):
        def forward(self, input_ids, use_cache):
            table = torch.cat([logits, logits[:1]])[None]
            return type("Output", (), {"logits": self.head(table)})

    from lightning_dpo.batch import TokenizedPair

    batch = padded_batch([TokenizedPair(0, [1], targets.tolist(), [1])], chosen_only=True)
    logps = completion_logps(Fixed(64), batch)
    assert abs(logps.sums[0].item() - exact.item()) < 1e-2


def test_gradient_is_that_of_the_plain_form(llama):
    """The head sees selected positions; the gradient must be that of gathering from all logits."""
    batch = padded_batch(random_pairs(4))
    completion_logps(llama, batch).sums.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in llama.named_parameters()}
    llama.zero_grad()
    logps = llama(batch.input_ids).logits.log_softmax(-1).flatten(0, 1)
    logps[batch.score_index, batch.target_ids].sum().backward()
    for name, parameter in llama.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_tied_and_untied_heads_agree():
    tied = make_llama(tie_word_embeddings=True)
    untied = make_llama(tie_word_embeddings=False)
    untied.load_state_dict(tied.state_dict() | {"lm_head.weight": tied.get_input_embeddings().weight})
    batch = padded_batch(random_pairs(4))
    assert torch.equal(completion_logps(tied, batch).sums, completion_logps(untied, batch).sums)


def test_gradients_of_a_prompt_with_many_completions_are_equal_to_the_bit_every_time():
    """The last token of the prompt predicts the first token of each, on several threads."""
    generator = torch.Generator().manual_seed(0)
    batch = padded_batch(random_pairs(2))
    index = torch.cat([torch.zeros(3000, dtype=torch.int64), torch.arange(3000)])
    batch = SimpleNamespace(**vars(batch) | {"score_index": index})
    hidden, weights = (torch.randn(shape, generator=generator) for shape in ((1, 3000, 64), (6000, 64)))
    gradients = []
    for _ in range(10):
        states = hidden.clone().requires_grad_()
        (scored_positions(states, batch) * weights).sum().backward()
        gradients.append(states.grad)
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients)
    torch.testing.assert_close(gradients[0][0, 0], weights[:3001].double().sum(0).float(), rtol=1e-4, atol=1e-3)
