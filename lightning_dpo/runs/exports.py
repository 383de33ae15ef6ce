"""Exports of a run: folders for plain transformers or peft, with a model card and a record for `evaluate`."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_dpo.checkpoints.identity import Facts, packages
from lightning_dpo.checkpoints.reading import FORMAT
from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model
from lightning_dpo.models.adapter_kinds import base_name, own_adapter
from lightning_dpo.models.digests import file_digest
from lightning_dpo.models.frozen import restore
from lightning_dpo.models.merging import merged
from lightning_dpo.models.probe import check_same, probe
from lightning_dpo.printable import name_of, one_line
from lightning_dpo.run_folder import RunFolder, atomic_folder
from lightning_dpo.runs.settings_files import as_dict, resolved_settings
from lightning_dpo.settings import without_secrets

log = logging.getLogger(__name__)

RECORD = "lightning_dpo.json"
_SHOWN = ("val/", "closed_form/")


def export_run(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
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
        card: The model card, in Markdown.
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
        # A merged model needs only transformers.
        text = card.replace("library_name: peft", "library_name: transformers") if model is None else card
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


def base_model_name(config: DictConfig) -> str | None:
    """Hub id or absolute path of the model before training; None for a model that was created in code.

    None also for a name from an environment variable, whose value is not written to files.
    """
    if not OmegaConf.select(config, "model.pretrained") or not OmegaConf.select(config, "model.name"):
        return None
    if "${" in resolved_settings(config)["model"]["name"]:
        return None
    name = config.model.name
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def command(folder: Path) -> str:
    """The command of the run in `folder`."""
    file = RunFolder(folder).command
    return one_line(file.read_text(encoding="utf-8")) if file.exists() else "python -m lightning_dpo.train"


def _listed(values: Mapping[str, object]) -> str:
    """A Markdown list of names and values."""
    return "\n".join(f"- {name}: {value}" for name, value in values.items())


def model_card(
    config: DictConfig,
    metrics: dict[str, float],
    counts: dict[str, int],
    step: int,
    architecture: str,
    trained_with: Mapping[str, Facts],
) -> str:
    """The README.md of an export: base model, data, settings and metrics.

    Args:
        config: Config of the run.
        metrics: Metrics by name; those of validation are shown.
        counts: Numbers of pairs that were kept, removed and truncated.
        step: Optimizer step of the weights.
        architecture: Class of the model and its number of parameters.
        trained_with: The facts of the module's identity. The card contains its digests.
    """
    base = (
        one_line(without_secrets(config.model.name)) if base_model_name(config) else "a model that was created in code"
    )
    identified = {name: of for kind in ("weights", "data", "tokenizer") for name, of in trained_with[kind].items()}
    adapter = "_target_: lightning_dpo.models.NoAdapter" not in OmegaConf.to_yaml(config.adapter)
    # The hub shows a link to the base model. A local path would be invalid there.
    link = f"base_model: {base}\n" if base_model_name(config) and not Path(base).is_dir() else ""
    installed = {"lightning-dpo": version("lightning-dpo"), **packages()}
    versions = ", ".join(f"{name} {of}" for name, of in installed.items())
    shown = sorted(item for item in metrics.items() if item[0].startswith(_SHOWN))
    rows = "\n".join(f"| {name_of(name)} | {value:.4f} |" for name, value in shown)
    number = metrics.get("val/pairs")
    validated = "" if number is None else f", and the metrics those of {number:.0f} validation pairs"
    settings = resolved_settings(config)
    settings = {key: settings[key] for key in ("loss", "adapter", "optimizer", "scheduler", "data")}
    return f"""---
library_name: {"peft" if adapter else "transformers"}
{link}tags: [lightning-dpo, dpo]
---
# {config.run_name}

Trained from {base} ({architecture}) on preference pairs with lightning_dpo.
The weights are those of optimizer step {step}{validated}.

Pairs in the data:

{_listed({name_of(name).replace("_", " "): count for name, count in counts.items()})}

Trained with:

{_listed(identified)}

| metric | value |
|---|---|
{rows}

```yaml
{OmegaConf.to_yaml(OmegaConf.create(settings))}```

{versions}. Command: `{command(Path(config.run_folder))}`
"""
