"""Exports of a run: folders for plain transformers or peft, with a model card and a record for `evaluate`."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_dpo.checkpoints.identity import Facts
from lightning_dpo.checkpoints.reading import FORMAT
from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model
from lightning_dpo.models.adapter_kinds import base_name, own_adapter
from lightning_dpo.models.digests import file_digest
from lightning_dpo.models.frozen import restore
from lightning_dpo.models.merging import merged
from lightning_dpo.models.probe import check_same, probe
from lightning_dpo.printable import one_line
from lightning_dpo.run_folder import atomic_folder
from lightning_dpo.runs.model_card import base_model_name
from lightning_dpo.runs.settings_files import as_dict, resolved_settings
from lightning_dpo.settings import without_secrets

log = logging.getLogger(__name__)

RECORD = "lightning_dpo.json"


def export_run(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: Callable[[bool], str],
    about: dict[str, Any],
    merge: bool,
    name: str = "export",
) -> None:
    """Write `export/` with the model or its adapter; with `merge`, also `export_merged/` with the merged model.

    The adapter of a model that was created in code could not be opened again, so only the merged model is written. The
    policy cannot be used afterwards.

    Args:
        policy: The trained model.
        tokenizer: Its tokenizer.
        folder: Parent of the written folders.
        card: Returns the model card, in Markdown, of an export that contains only an adapter, or of any other.
        about: Result of `record`.
        merge: Whether to also export the merged model.
        name: Name of the folder.
    """
    folders = {folder / name: policy}
    if isinstance(policy, PeftModel) and not base_name(policy):
        log.info(
            "The base model was created in code and cannot be opened again, so the adapter is merged into the export."
        )
        folders = {folder / name: None}
    elif isinstance(policy, PeftModel) and merge:
        folders[folder / f"{name}_merged"] = None
    for path, model in folders.items():
        text = card(isinstance(model, PeftModel))
        with atomic_folder(path) as partial:
            if model is None:
                with compared(policy, partial):
                    export(merged(policy), tokenizer, partial, text)
            else:
                export(model, tokenizer, partial, text)
            (partial / RECORD).write_text(json.dumps(about, indent=2) + "\n")


def export(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, card: str) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` open.

    Args:
        policy: The trained model; with an adapter, only the adapter is written.
        tokenizer: Its tokenizer.
        folder: The folder; created if it does not exist.
        card: The model card, in Markdown.
    """
    # Training disabled it, and the config is saved with the model.
    for config in (policy.config, policy.config.get_text_config()):
        config.use_cache = True
    if isinstance(policy, PeftModel):
        policy.peft_config[own_adapter(policy)].base_model_name_or_path = base_name(policy)
        # Otherwise, peft asks the hub whether the embedding was resized. It is never resized here.
        policy.save_pretrained(folder, selected_adapters=[own_adapter(policy)], save_embedding_layers=False)
    else:
        policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Path(folder, "README.md").write_text(card, encoding="utf-8")


@contextmanager
def compared(policy: PeftModel, folder: Path) -> Iterator[None]:
    """Context in which `policy` is merged and exported to `folder`. At its end, the export is compared with `policy`.

    Raises:
        UserError: The export has other log-probs than the policy.
    """
    restore(policy)
    inner = base_model(policy)
    inner.set_attn_implementation("eager")  # after training, the model is on the CPU
    expected = probe(cast(PreTrainedModel, policy))
    try:
        yield
        model = type(inner).from_pretrained(folder, dtype="auto")
    except UserError:
        raise
    except Exception as error:  # of peft, bitsandbytes and transformers, for combinations that they do not support
        raise UserError(f"the adapter cannot be merged into this model ({one_line(str(error))[:200]})") from error
    check_same(expected, model, "the merged model differs from the model with its adapter, so it is not exported")


def record(config: DictConfig, trained_with: Mapping[str, Facts]) -> dict[str, Any]:
    """What `evaluate` needs: the base model, the loss, what the training depended on, and the validation pairs.

    Args:
        config: Config of the run.
        trained_with: The facts of the module's identity.
    """
    loss = resolved_settings(config)["loss"]
    quantization = OmegaConf.select(config, "model.quantization")
    about = {
        "base_model": base_model_name(config),
        "quantization": quantization,
        "loss": None if "${" in json.dumps(loss) else loss,
    }
    return {"format": FORMAT} | without_secrets(about | {"data": data_settings(config), "trained_with": trained_with})


def data_settings(config: DictConfig) -> dict[str, Any]:
    """What determines the validation pairs: settings, and digests of the files, which can be moved and changed."""
    data = as_dict(config.data, resolve=True)
    files = {name: _digests(data.get(name)) for name in ("path", "val_path")}
    shown = resolved_settings(config)["data"]
    return {name: shown.get(name) for name in ("val_fraction", "max_pairs", "seed")} | files


def _digests(path: Any) -> Any:
    """The digest of a file, or of each file of a mixture; None for what is not a file."""
    if isinstance(path, dict):
        return {name: _digests(one) for name, one in path.items()}
    return file_digest(Path(path)) if isinstance(path, str) and Path(path).is_file() else None


def architecture(policy: PreTrainedModel) -> str:
    """The class of the model that was trained, and its number of parameters.

    `model.config` in the settings describes a model only if `model.pretrained` is false.
    """
    parameters = sum(parameter.numel() for parameter in base_model(policy).parameters())
    return f"{type(base_model(policy)).__name__}, {parameters / 1e6:.3g} M parameters"
