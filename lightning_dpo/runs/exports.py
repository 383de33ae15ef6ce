"""Exports of a run: folders that plain transformers or peft opens, with a model card and a record for `evaluate`."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_dpo.errors import UserError
from lightning_dpo.logps.forward import base_model
from lightning_dpo.models.adapter import base_name, merged, own_adapter
from lightning_dpo.models.probe import check_same, probe
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.settings_files import as_dict, resolved_settings
from lightning_dpo.settings import without_secrets

log = logging.getLogger(__name__)

RECORD = "lightning_dpo.json"
_SHOWN = ("val/", "closed_form/")
_PACKAGES = ("lightning-dpo", "torch", "transformers", "peft", "lightning")


def export_run(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    card: str,
    about: dict[str, Any],
    merge: bool,
    name: str = "export",
) -> None:
    """Write `export/`: the model, or its adapter. With `merge`, also `export_merged/`: the model with its adapter.

    An adapter of a model that was made in code could not be opened again, so it is written merged alone. The policy is
    no use afterwards.

    Args:
        policy: The trained model.
        tokenizer: Its tokenizer.
        folder: Where the folders are made.
        card: The model card, Markdown.
        about: What `record` gave.
        merge: Whether to merge an adapter.
        name: Of the folder.
    """
    folders = {folder / name: policy}
    if isinstance(policy, PeftModel) and not base_name(policy):
        log.info("The model under the adapter was made in code, so the adapter is exported merged into it.")
        folders = {folder / name: None}
    elif isinstance(policy, PeftModel) and merge:
        folders[folder / f"{name}_merged"] = None
    for path, model in folders.items():
        # A merged model is one for plain transformers.
        text = card.replace("library_name: peft", "library_name: transformers") if model is None else card
        if model is None:
            with compared(policy, path):
                export(merged(policy), tokenizer, path, text)
        else:
            export(model, tokenizer, path, text)
        (path / RECORD).write_text(json.dumps(about, indent=2) + "\n")


def export(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, card: str) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` open.

    Args:
        policy: The trained model; of one with an adapter, the adapter alone is written.
        tokenizer: Its tokenizer.
        folder: Where to write; made if it is not there.
        card: The model card, Markdown.
    """
    policy.config.use_cache = True
    if isinstance(policy, PeftModel):
        policy.peft_config[own_adapter(policy)].base_model_name_or_path = base_name(policy)
        # Whether the model's embedding was resized, peft would ask the hub; it never is here.
        policy.save_pretrained(folder, selected_adapters=[own_adapter(policy)], save_embedding_layers=False)
    else:
        policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Path(folder, "README.md").write_text(card, encoding="utf-8")


@contextmanager
def compared(policy: PeftModel, folder: Path) -> Iterator[None]:
    """Within, `policy` is merged and exported to `folder`; afterwards the export is opened and compared with it.

    Raises:
        UserError: The export has other log-probs than the policy; it is removed.
    """
    inner = base_model(policy)
    inner.set_attn_implementation("eager")  # after training it is on the CPU
    expected = probe(cast(PreTrainedModel, policy))
    yield
    model = type(inner).from_pretrained(folder, dtype="auto")
    try:
        check_same(expected, model, f"{folder}: the merged model is not the model with its adapter")
    except UserError:
        shutil.rmtree(folder)
        raise


def record(config: DictConfig) -> dict[str, Any]:
    """What `evaluate` must know: where training began, the loss, whose β rewards have, and what held pairs out."""
    loss = as_dict(config.loss, resolve=True)
    return without_secrets({"base_model": base_model_name(config), "loss": loss, "data": data_settings(config)})


def data_settings(config: DictConfig) -> dict[str, Any]:
    """What decides which pairs validate."""
    names = ("path", "val_path", "val_fraction", "max_pairs", "seed")
    data = as_dict(config.data, resolve=True)
    found = {name: data.get(name) for name in names}
    paths = {name: found[name] for name in ("path", "val_path")}
    return found | {name: str(Path(path).resolve()) for name, path in paths.items() if isinstance(path, str)}


def base_model_name(config: DictConfig) -> str | None:
    """Hub id or absolute path of what training began from; None for a model that was made in code."""
    if not OmegaConf.select(config, "model.pretrained") or not OmegaConf.select(config, "model.name"):
        return None
    name = config.model.name
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def command(folder: Path) -> str:
    """The command of the run in `folder`; of a sweep's job, its own."""
    noted = RunFolder(folder).command
    return noted.read_text(encoding="utf-8").strip() if noted.exists() else "python -m lightning_dpo.train"


def model_card(config: DictConfig, metrics: dict[str, float], counts: dict[str, int], step: int) -> str:
    """The README.md of an export: what it was trained from, on what, how, and how it ended.

    Args:
        config: The run's.
        metrics: By name; those of validation are shown.
        counts: Pairs by what became of them.
        step: Optimizer step of the weights.
    """
    base = without_secrets(config.model.name) if base_model_name(config) else "a model that was made in code"
    adapter = "_target_: lightning_dpo.models.NoAdapter" not in OmegaConf.to_yaml(config.adapter)
    # The hub links a model to the one it came from; a path on this machine means nothing there.
    link = f"base_model: {base}\n" if base_model_name(config) and not Path(base).is_dir() else ""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(metrics.items()) if name.startswith(_SHOWN))
    pairs = "\n".join(f"- {name.replace('_', ' ')}: {count}" for name, count in counts.items())
    keys = ("loss", "adapter", "optimizer", "scheduler", "data")
    settings = resolved_settings(config)
    settings = {key: settings[key] for key in keys}
    return f"""---
library_name: {"peft" if adapter else "transformers"}
{link}tags: [lightning-dpo, dpo]
---
# {config.run_name}

Trained from {base} on preference pairs with lightning_dpo; the weights are those of step {step}.

Pairs:

{pairs}

| metric | value |
|---|---|
{rows}

```yaml
{OmegaConf.to_yaml(OmegaConf.create(settings))}```

{packages}. Command: `{command(Path(config.run_folder))}`
"""
