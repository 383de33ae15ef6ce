import pytest
import torch

from lightning_dpo.errors import UserError
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, SFT
from lightning_dpo.models.comparable import check_comparable
from lightning_dpo.models.reference import FrozenModel
from lightning_dpo.models.reference_factories import AnotherModel, Auto, Frozen, NoReference
from tests.support.models import make_llama
from tests.support.pairs import padded_batch, random_pairs


def test_a_frozen_copy_stays_when_the_policy_moves(llama):
    reference = Frozen()(llama, DPO())
    batch = padded_batch(random_pairs(3))
    before = reference.logps(batch).sums
    assert torch.equal(before, completion_logps(llama, batch).sums)
    with torch.no_grad():
        llama.lm_head.weight.mul_(2)
    assert torch.equal(reference.logps(batch).sums, before)
    assert reference.starts_equal


def test_it_is_in_eval_mode_without_gradients():
    """With dropout in its config, a reference in training mode would score every batch differently."""
    model = make_llama(attention_dropout=0.5).train()
    reference = FrozenModel(model, starts_equal=True)
    batch = padded_batch(random_pairs(3))
    assert torch.equal(reference.logps(batch).sums, reference.logps(batch).sums)
    assert not reference.logps(batch).sums.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_auto_follows_the_loss(llama):
    assert isinstance(Auto()(llama, DPO()), FrozenModel)
    assert Auto()(llama, SFT()) is None


def test_another_model_takes_the_policys_dtype_and_attention(tmp_path):
    make_llama(seed=5).save_pretrained(tmp_path)
    policy = make_llama(attn_implementation="eager").bfloat16()
    reference = AnotherModel(str(tmp_path))(policy, DPO())
    assert reference.model.dtype == torch.bfloat16
    assert reference.model.config._attn_implementation == "eager"
    assert not reference.starts_equal


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"vocab_size": 301}, "vocabulary size 300 and 301"),
        ({"eos_token_id": 2}, r"end-of-sequence ids \[0\] and \[2\]"),
        ({"eos_token_id": [2, 3]}, r"end-of-sequence ids \[0\] and \[2, 3\]"),
        ({"attn_implementation": "eager"}, "attention implementation sdpa and eager"),
    ],
)
def test_names_what_makes_two_models_incomparable(other, difference):
    with pytest.raises(UserError, match=f"policy and reference differ in {difference}: the log-ratio"):
        check_comparable(make_llama(), make_llama(**other))


def test_dtypes_must_agree():
    with pytest.raises(UserError, match=r"dtype torch.float32 and torch.bfloat16"):
        check_comparable(make_llama(), make_llama().bfloat16())


def test_a_reference_nobody_reads_and_one_that_is_missing():
    with pytest.raises(UserError, match=r"SFT\(\) does not read one"):
        Frozen().check(SFT())
    with pytest.raises(UserError, match=r"reference=none: DPO\(.*\) needs a reference"):
        NoReference().check(DPO())
    Auto().check(SFT())
    NoReference().check(SFT())


def test_a_chat_model_may_end_by_more_tokens_than_its_base():
    check_comparable(make_llama(eos_token_id=[0, 5]), make_llama())
