"""`python -m lightning_dpo.export RUN`: the model of a run's checkpoint as a folder for transformers or peft."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.cli.config import register_resolvers
from lightning_dpo.errors import UserError
from lightning_dpo.printable import escape_unencodable, one_line
from lightning_dpo.run_folder import RunFolder, started_runs
from lightning_dpo.runs.history import read_history, validation_after
from lightning_dpo.runs.settings_files import loaded, resolved_settings

log = logging.getLogger(__name__)

_BUILT = ("model", "adapter")


def export_checkpoint(run: Path, checkpoint: str, merge: bool, trust_remote_code: bool = False) -> Path:
    """Export a checkpoint of the run in a folder.

    Args:
        run: Folder of the run.
        checkpoint: `best` or `last`.
        merge: Also export the model with the adapter merged into it.
        trust_remote_code: Execute the code that comes with the model, as the run did.

    Returns:
        The folder of the export: `export_best` or `export_last`.

    Raises:
        UserError: The folder is not a run, or does not have this checkpoint.
    """
    from peft import PeftModel

    from lightning_dpo import DPOModule
    from lightning_dpo.checkpoints.identity import Identity
    from lightning_dpo.checkpoints.reading import entry_of, opened
    from lightning_dpo.models.facts import check_finite, weights_facts
    from lightning_dpo.models.preparation import ready_policy
    from lightning_dpo.runs.exports import architecture, export_run, record
    from lightning_dpo.runs.model_card import model_card

    config, checked = config_of(run, trust_remote_code)
    path = RunFolder(run).checkpoint(checkpoint)
    if not path.is_file():
        raise UserError(f"{path} does not exist; the run has {_checkpoints(run)}")
    model = checked.build("model")
    identity, base = Identity(), ready_policy(model.policy())
    identity.add("weights", weights_facts(base, model))
    policy = checked.build("adapter")(base)
    if merge and not isinstance(policy, PeftModel):
        raise UserError("--merge has no effect: the run trained all weights and has no adapter")
    saved = opened(path)
    if isinstance(policy, PeftModel):  # its base is not in the checkpoint
        identity.opens(entry_of(saved)["trained_with"])
    module = DPOModule(policy)
    module.policy = policy
    module.load_state_dict(saved["state_dict"])
    check_finite(policy)
    metrics, data = metrics_at(run, saved["global_step"]), results_of(run)
    facts = entry_of(saved)["trained_with"]
    counts, messages = data.get("data", {}), data.get("messages", False)
    card = partial(model_card, config, metrics, counts, saved["global_step"], architecture(policy), facts, messages)
    name = f"export_{checkpoint}"
    export_run(policy, model.tokenizer(), run, card, record(config, facts), merge, name)
    return run / name


def config_of(
    run: Path, trust_remote_code: bool = False, keys: Sequence[str] = _BUILT
) -> tuple[DictConfig, CheckedConfig]:
    """The config of a run, and the parts that are built, checked because the folder may come from somebody else."""
    path = RunFolder(run).config
    if not path.is_file():
        runs = started_runs(run)
        instead = f"; choose a run in it, such as {runs[0].path}" if runs else ""
        raise UserError(f"{run} is not the folder of a run: {path} does not exist{instead}")
    register_resolvers()
    try:
        config = loaded(path)
        config.run_folder, config.run_name = str(run), (RunFolder(run).sweep or run).parent.name
        settings = resolved_settings(config)
    except Exception as error:  # of YAML and OmegaConf, for a file that is damaged or foreign
        raise UserError(f"{path} is not the config of a run ({one_line(str(error))[:200]})") from error
    trusted = ["model.trust_remote_code=true"] if trust_remote_code else []
    # Only what is built is checked, because a check imports the targets.
    built = OmegaConf.create({key: settings.get(key) for key in keys})
    return config, CheckedConfig(built, keys, trusted)


def metrics_at(run: Path, step: int) -> dict[str, float]:
    """The validation metrics after `step` optimizer steps, according to `metrics.csv`."""
    path = RunFolder(run).history
    row = validation_after(step, read_history(path))
    return {name: float(value) for name, value in row.items() if value and name != "step"}


def results_of(run: Path) -> dict[str, Any]:
    """The content of `metrics.json`; empty if the run is not finished."""
    path = RunFolder(run).metrics
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _checkpoints(run: Path) -> str:
    return ", ".join(sorted(path.stem for path in RunFolder(run).checkpoints.glob("*.ckpt"))) or "none"


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser(
        prog="lightning-dpo export",
        description="Writes the model of a run's checkpoint to RUN/export_best or RUN/export_last, with tokenizer and "
        "model card. A finished run already has the model of its last step in RUN/export.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, such as outputs/NAME/TIME")
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), default="best", help="the checkpoint to export (default: best)"
    )
    parser.add_argument("--merge", action="store_true", help="also export the model with the adapter merged into it")
    parser.add_argument("--trust-remote-code", action="store_true", help="execute the code that comes with the model")
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="upload the export to this model repository on the hub; a new one is public"
    )
    arguments = parser.parse_args()
    escape_unencodable()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        from lightning_dpo.runs.upload import Upload

        upload = None if arguments.push is None else Upload(arguments.push)  # a login is checked before the export
        folder = export_checkpoint(arguments.run, arguments.checkpoint, arguments.merge, arguments.trust_remote_code)
        print(folder)
        if upload is not None:
            merged = folder.with_name(f"{folder.name}_merged")
            print(upload(merged if arguments.merge and merged.exists() else folder))
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
