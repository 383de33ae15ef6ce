import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

import lightning_dpo.shared_prefix.attention_cuda
from lightning_dpo.batch import Segments, Stretch
from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.logps.forward import ATTENTION
from lightning_dpo.shared_prefix.attention import shared_prefix_attention
from lightning_dpo.shared_prefix.attention_cuda import by_flex, by_varlen
from tests.support.architectures import ARCHITECTURES, WINDOW, make
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, pairs_of_shared_prompts, random_pairs, shared_batch

PAIRS = pairs_of_shared_prompts()


def test_prompts_are_longer_than_every_window():
    assert min(len(pair.prompt_ids) for pair in PAIRS) > WINDOW


def difference(shared_model, padded_model, pairs=PAIRS) -> tuple[float, float]:
    """The largest of log-probs, over their size in nats where that is above 1; of gradients, over the largest entry."""
    sides = []
    for model, batch in ((shared_model, shared_batch(pairs)), (padded_model, padded_batch(pairs))):
        sums = completion_logps(model, batch).sums
        logps = torch.cat([sums[batch.chosen], sums[batch.rejected]])
        (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        sides.append((logps.detach(), torch.cat(gradients)))
    (found, gradient), (wanted, its_gradient) = sides
    off = (gradient - its_gradient).abs().max() / its_gradient.abs().max()
    return float(((found - wanted).abs() / wanted.abs().clamp(min=1)).max()), float(off)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_padded_rows_under_eager_attention(architecture):
    padded = make(architecture, "eager")
    shared = make(architecture)
    shared.set_attn_implementation(ATTENTION)
    shared.load_state_dict(padded.state_dict())
    logps, gradient = difference(shared, padded)
    assert logps < 1e-5
    assert gradient < 1e-3


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": True}, {"gradient_checkpointing": True}], ids=str)
def test_equals_padded_rows_whatever_the_weights_are_shared_with_or_recomputed(changes):
    checkpointed = changes.pop("gradient_checkpointing", False)
    padded, shared = make_llama(**changes), make_llama(**changes)
    shared.set_attn_implementation(ATTENTION)
    if checkpointed:
        shared.gradient_checkpointing_enable({"use_reentrant": False})
        shared.train()
    logps, gradient = difference(shared, padded)
    assert logps < 1e-5
    assert gradient < 1e-4


def test_equals_padded_rows_with_an_adapter_also_on_the_head():
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "lm_head"], init_lora_weights=False)
    padded = get_peft_model(make_llama(), config)
    shared = copy.deepcopy(padded)
    shared.set_attn_implementation(ATTENTION)
    logps, gradient = difference(shared, padded)
    assert logps < 1e-5
    assert gradient < 1e-4


def test_neither_answer_nor_pair_sees_another(llama):
    """Each completion's log-prob is that of its pair alone, bit for bit or nearly so."""
    llama.set_attn_implementation(ATTENTION)
    together = shared_batch(PAIRS)
    with torch.no_grad():
        whole = completion_logps(llama, together).sums[together.rejected]
        alone = torch.stack([completion_logps(llama, shared_batch([pair])).sums[-1] for pair in PAIRS])
    torch.testing.assert_close(whole, alone, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gpt2"])
def test_generation_from_left_padded_prompts_is_that_of_sdpa(architecture):
    attention = "eager" if architecture == "gemma2" else "sdpa"
    model = make(architecture, attention).eval()
    other = make(architecture).eval()
    other.load_state_dict(model.state_dict())
    other.set_attn_implementation(ATTENTION)
    ids = torch.randint(1, 300, (3, 14), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(14) >= torch.tensor([0, 5, 11])[:, None]
    config = GenerationConfig(
        max_new_tokens=12, do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True
    )
    runs = [one.generate(ids, attention_mask=mask.long(), generation_config=config) for one in (model, other)]
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    torch.testing.assert_close(torch.stack(runs[0].logits), torch.stack(runs[1].logits), rtol=1e-5, atol=1e-4)


def test_an_exported_config_does_not_name_it(llama, tmp_path):
    llama.set_attn_implementation(ATTENTION)
    llama.save_pretrained(tmp_path)
    assert ATTENTION not in (tmp_path / "config.json").read_text()


def test_arguments_that_it_does_not_know_are_rejected():
    q = torch.randn(1, 2, 4, 8)
    segments = Segments([Stretch(4, 0)])
    with pytest.raises(ValueError, match="its attention uses s_aux, which the shared layout does not support"):
        shared_prefix_attention(None, q, q, q, None, segments=segments, s_aux=torch.ones(2))
    with pytest.raises(ValueError, match="uses dropout"):
        shared_prefix_attention(None, q, q, q, None, segments=segments, dropout=0.1)
    shared_prefix_attention(None, q, q, q, None, segments=segments, position_bias=None)


def test_a_stream_is_rejected_by_a_policy_with_another_attention(llama):
    with pytest.raises(UserError, match=r"the policy has 'sdpa': .*set_attn_implementation\('shared_prefix'\)"):
        completion_logps(llama, shared_batch(random_pairs(2)))


def varlen_by_definition(
    query, key, value, starts, key_starts, longest, longest_keys, *, scale, window_size, enable_gqa=False
):
    """What PyTorch documents of `varlen_attn`, sequence by sequence: causality aligned to the last key, (left, 0)."""
    assert longest == starts.diff().max()
    assert longest_keys == key_starts.diff().max()
    assert enable_gqa == (query.shape[1] != key.shape[1])
    outputs = []
    for begin, end, key_begin, key_end in zip(starts, starts[1:], key_starts, key_starts[1:], strict=False):
        q, k, v = query[begin:end], key[key_begin:key_end], value[key_begin:key_end]
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        behind = (len(k) - len(q) + torch.arange(len(q)))[:, None] - torch.arange(len(k))
        seen = (behind >= 0) & ((behind <= window_size[0]) | (window_size[0] == -1))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v))
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 3, 7])
@pytest.mark.parametrize("heads", [4, 2])
def test_what_cuda_kernels_receive_is_what_the_cpu_computes(window, heads, monkeypatch):
    """The kernels themselves need a GPU; their arguments, and FlexAttention's masks, do not."""
    segments = shared_batch(PAIRS).segments
    tokens = sum(stretch.length for stretch in segments.stretches)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, tokens, 8) for h in (4, heads, heads))
    wanted, _ = shared_prefix_attention(None, q, k, v, None, segments=segments, sliding_window=window)
    monkeypatch.setattr(lightning_dpo.shared_prefix.attention_cuda, "varlen_attn", varlen_by_definition)
    torch.testing.assert_close(by_varlen(q, k, v, segments, None, window, None), wanted)
    torch.testing.assert_close(by_flex(q, k, v, segments, None, window, None), wanted)
    capped, _ = shared_prefix_attention(None, q, k, v, None, segments=segments, sliding_window=window, softcap=2.0)
    torch.testing.assert_close(by_flex(q, k, v, segments, None, window, 2.0), capped)
    assert not torch.allclose(capped, wanted, atol=1e-3)
