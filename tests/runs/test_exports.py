import pytest

from lightning_dpo import UserError
from lightning_dpo.models.lora import LoRA
from lightning_dpo.runs import exports
from lightning_dpo.runs.exports import export_run, record
from tests.support.compose import composed
from tests.support.models import make_llama

FACTS = {"weights": {"starting weights (sha256)": "12ab"}, "data": {"training pairs": "10"}, "tokenizer": {}}


def test_the_record_names_base_and_loss_and_a_model_made_in_code_has_no_name(tmp_path):
    config = composed(tmp_path, "model=llama", "data=hh", "loss.beta=0.3")
    assert record(config, FACTS) == {
        "format": 2,
        "trained_with": FACTS,
        "base_model": "meta-llama/Llama-3.2-1B",
        "quantization": None,
        "loss": {"_target_": "lightning_dpo.losses.DPO", "beta": 0.3, "label_smoothing": 0.0},
        "data": {"path": None, "val_path": None, "val_fraction": 0.05, "max_pairs": None, "seed": 0},
    }
    assert record(composed(tmp_path), FACTS)["base_model"] is None
    assert record(composed(tmp_path, "model=llama", "data=hh", "model.pretrained=false"), FACTS)["base_model"] is None


def test_a_merged_export_that_is_another_model_is_removed_and_rejected(tmp_path, tokenizer, monkeypatch):
    """As peft merged an adapter of a tied LM head: into the embedding as well."""
    policy = LoRA(r=4)(make_llama())
    policy.name_or_path = ""
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    monkeypatch.setattr(exports, "merged", lambda policy: policy.get_base_model())
    with pytest.raises(UserError, match=r"the merged model differs .*, so it is not exported: .* nats"):
        export_run(policy, tokenizer, tmp_path, str, {}, merge=True)
    assert not list(tmp_path.iterdir())
