"""TRL's trainer around a small model, to compare with."""

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from tests.support.models import make_llama


def trl_trainer(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Dataset,
    model: PreTrainedModel | None = None,
    reference: PreTrainedModel | None = None,
    **options,
) -> DPOTrainer:
    config = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(pairs),
        max_length=None,
        bf16=False,
        use_cpu=True,
        report_to=[],
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",
        **options,
    )
    return DPOTrainer(
        model=model or make_llama(),
        ref_model=reference or make_llama(),
        args=config,
        train_dataset=pairs,
        processing_class=tokenizer,
    )
