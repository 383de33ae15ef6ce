"""The model card of an export: metadata for the hub, code that loads the model, metrics, data and settings."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, try_to_load_from_cache
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.checkpoints.identity import Facts, packages
from lightning_dpo.labels import LABELS
from lightning_dpo.printable import name_of, one_line
from lightning_dpo.run_folder import RunFolder
from lightning_dpo.runs.settings_files import resolved_settings
from lightning_dpo.settings import without_secrets

# Also of files that were on another machine, or have been moved.
_PATH_STARTS = ("/", "~", "./", "../")
_PATH = re.compile(r"file://[^\s,'\"}\]]+|(?<![\w:/}])(?:(?:~|\.{1,2})/[^\s,'\"}\]]+|/[^\s/,'\"}\]]+/[^\s,'\"}\]]+)")
_SHOWN = ("val/", "closed_form/")
# Metrics in the metadata, and their types there.
_IN_METADATA = {
    "val/rewards/accuracies": "accuracy", "val/rewards/margins": "reward_margin", "val/kl": "kl_divergence",
}  # fmt: skip

_CARD = """---
{metadata}
---
# {name}

Trained from {base} ({architecture}) on preference pairs with lightning_dpo.
The weights are those of optimizer step {step}{validated}.

## Use

{usage}

## Metrics

| metric | value |
|---|---|
{rows}

## Data

{counts}

Trained with:

{identified}

## Settings

```yaml
{settings}```

{versions}. Command: `{command}`
"""


def model_card(
    config: DictConfig,
    metrics: Mapping[str, float],
    counts: Mapping[str, int],
    step: int,
    architecture: str,
    trained_with: Mapping[str, Facts],
    messages: bool,
    adapter: bool,
) -> str:
    """The README.md of an export. It contains no local paths and no secrets.

    Args:
        config: Config of the run.
        metrics: Metrics by name; those of validation are shown.
        counts: Numbers of pairs that were kept, removed and truncated.
        step: Optimizer step of the weights.
        architecture: Class of the model and its number of parameters.
        trained_with: The facts of the module's identity. The card contains its digests.
        messages: Whether the pairs are messages, so that the code uses the chat template.
        adapter: Whether the export contains only an adapter.
    """
    base = one_line(_without_path(without_secrets(name))) if (name := base_model_name(config)) else ""
    identified = {name: of for kind in ("weights", "data", "tokenizer") for name, of in trained_with[kind].items()}
    shown = {name: value for name, value in metrics.items() if name.startswith(_SHOWN) and name in LABELS}
    rows = "\n".join(f"| {LABELS[name].heading} | {value:.4g} |" for name, value in sorted(shown.items()))
    number = metrics.get("val/pairs")
    validated = "" if number is None else f", and the metrics those of {number:.0f} validation pairs"
    settings = resolved_settings(config)
    settings = {key: _without_paths(settings[key]) for key in ("loss", "adapter", "optimizer", "scheduler", "data")}
    versions = ", ".join(
        f"{name} {of}" for name, of in {"lightning-dpo": version("lightning-dpo"), **packages()}.items()
    )
    return _CARD.format(
        metadata=_metadata(config, metrics, adapter).to_yaml(),
        name=config.run_name,
        base=base or "a model that was created in code",
        architecture=architecture,
        step=step,
        validated=validated,
        usage=_usage(base, messages, adapter),
        rows=rows,
        counts=_listed({name_of(name).replace("_", " "): count for name, count in counts.items()}),
        identified=_listed(identified),
        settings=OmegaConf.to_yaml(OmegaConf.create(settings)),
        versions=versions,
        command=_command(Path(config.run_folder)),
    )


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


def _metadata(config: DictConfig, metrics: Mapping[str, float], adapter: bool) -> ModelCardData:
    base, datasets = base_model_name(config), list(_datasets(resolved_settings(config)["data"]))
    on_hub = base is not None and _without_path(base) == base
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=datasets[0] if len(datasets) == 1 else "preference-pairs",
            dataset_name=", ".join(datasets) or "preference pairs",
            dataset_split="validation",
            metric_type=kind,
            metric_name=LABELS[name].text,
            metric_value=round(metrics[name], 6),
        )
        for name, kind in _IN_METADATA.items()
        if name in metrics
    ]
    return ModelCardData(
        # The hub shows a link to the base model. A local path would be invalid there.
        base_model=one_line(without_secrets(base)) if on_hub and base else None,
        datasets=datasets or None,
        license=_license(base) if base else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["lightning-dpo", "dpo"],
        model_name=str(config.run_name) if results else None,
        eval_results=results or None,
    )


def _datasets(data: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the datasets on the hub that a run reads: `rows`, or those of a mixture, unless a file replaces them."""
    rows, path = data.get("rows") or {}, data.get("path")
    for name, one in ({"": rows} if "_target_" in rows else rows).items():
        replaced = path.get(name) if isinstance(path, Mapping) else path
        used = not name or not data.get("sources") or name in data["sources"]
        if used and not replaced and isinstance(one, Mapping) and str(one.get("_target_", "")).endswith("HubRows"):
            identity = str(one["name"])
            # A local folder is not on the hub. The value of an environment variable is not written to files.
            if "${" not in identity and _without_path(identity) == identity:
                yield one_line(identity)


def _license(base: str) -> str | None:
    """The license in the card of the base model, if the card is on this machine."""
    try:
        card = Path(base, "README.md") if Path(base).is_dir() else try_to_load_from_cache(base, "README.md")
        return ModelCard.load(card).data.license if isinstance(card, str | Path) and Path(card).is_file() else None
    except Exception:  # a card of somebody else, in any form; or a name that is not an id
        return None


_CODE = """```python
{imports}

folder = "."  # this folder, or its id on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {kind}.from_pretrained(folder)
inputs = {inputs}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))
```

{served}"""


_OF_TEXT = 'tokenizer("Hello", return_tensors="pt")'
_OF_MESSAGES = """tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)"""


def _usage(base: str, messages: bool, adapter: bool) -> str:
    """Code that loads the export, and commands for vLLM and llama.cpp."""
    if adapter:
        kind, served = (
            "AutoPeftModelForCausalLM",
            f"vllm serve {base or 'BASE'} --enable-lora --lora-modules dpo=FOLDER",
        )
        imports = f"from peft import {kind}\nfrom transformers import AutoTokenizer"
        text = f"vLLM: `{served}`. GGUF: export with `--merge` first."
    else:
        kind = "AutoModelForCausalLM"
        imports = f"from transformers import {kind}, AutoTokenizer"
        text = "vLLM: `vllm serve FOLDER`. GGUF, with llama.cpp: `python convert_hf_to_gguf.py FOLDER`."
    return _CODE.format(imports=imports, kind=kind, served=text, inputs=_OF_MESSAGES if messages else _OF_TEXT)


def _command(folder: Path) -> str:
    """The command of the run in `folder`, without the location of its output and with names instead of paths."""
    file = RunFolder(folder).command
    parts = shlex.split(file.read_text(encoding="utf-8")) if file.exists() else ["python", "-m", "lightning_dpo.train"]
    kept = []
    for part in parts:
        key, equals, value = part.partition("=")
        if not key.lstrip("+~").startswith("hydra."):
            kept.append(f"{key}{equals}{_without_path(value)}" if equals else part)
    return one_line(shlex.join(kept))


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items() if key != "folder"}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return _without_path(value) if isinstance(value, str) else value


def _without_path(value: str) -> str:
    """A text with the last parts of paths instead of the paths of local files and folders.

    >>> _without_path("/home/me/pairs.jsonl"), _without_path("{hh: /home/me/hh.jsonl}"), _without_path("org/name")
    ('pairs.jsonl', '{hh: hh.jsonl}', 'org/name')
    >>> _without_path("[file:///home/me/conf]"), _without_path("${oc.env:HOME}/a.jsonl"), _without_path("Use /think")
    ('[conf]', '${oc.env:HOME}/a.jsonl', 'Use /think')
    """
    if value.startswith(_PATH_STARTS) or ("/" in value and os.path.exists(value)):
        return Path(value).name or value
    return _PATH.sub(lambda match: Path(match[0]).name, value)


def _listed(values: Mapping[str, object]) -> str:
    """A Markdown list of names and values."""
    return "\n".join(f"- {name}: {value}" for name, value in values.items())
