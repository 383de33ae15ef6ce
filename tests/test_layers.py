"""Imports go down only: Hydra above Lightning above transformers above torch."""

import ast
from pathlib import Path

import pytest

import lightning_dpo

PACKAGE = Path(lightning_dpo.__file__).parent
LAYERS = [
    {"command_line", "config", "evaluate", "evaluated_model", "evaluation_report", "export", "exports",
     "hydra_checks", "inspect_data", "report", "results", "run_notes", "sweep_jobs", "sweep_pictures",
     "sweep_processes", "sweep_runs", "sweep_tables", "targets", "train", "without_effect"},
    {"agreement", "callbacks.agreement", "callbacks.checkpoints", "callbacks.guards", "callbacks.memory",
     "callbacks.progress_bar", "callbacks.samples", "callbacks.scored_pairs", "callbacks.throughput",
     "checkpoint_files", "data.datamodule", "data.loader", "loggers", "module", "monitors", "part_times",
     "resume_points", "scoring", "strategies"},
    {"adapter", "attention", "attention_cuda", "checkpoint_checks", "data.chat", "data.encoding",
     "data.forward_size", "data.hh", "data.hub", "data.jsonl", "data.preparation", "data.prompts", "data.shp",
     "data.splitting",
     "data.stack_exchange", "data.tokenization", "data.ultrafeedback", "data.validation", "digests", "flops",
     "generation", "memory", "policy", "prefix_sharing", "probe", "reference", "sharding", "token_table"},
    {"atomic_files", "batch", "data.arguments", "data.dealing", "data.layout_choice", "data.lengths", "data.resume",
     "data.messages", "data.pairs", "data.reading", "data.reasons", "data.sampling", "data.statistics", "errors",
     "evaluation", "launch", "layouts", "layouts.columns", "layouts.padded", "layouts.shared", "lm_head", "logps",
     "losses", "metrics", "optimizers", "pictures", "precision", "run_state", "schedules", "segments", "settings",
     "step_checks", "stop_signals"}
    | {f"losses.{name}" for name in ("interface", "dpo", "ipo", "hinge", "sft")},
]  # fmt: skip
ALLOWED = {
    0: {"hydra", "omegaconf", "pydantic"},
    1: {"lightning", "wandb", "requests"},
    2: {"transformers", "peft", "datasets", "rich", "jinja2", "bs4"},
    3: {"torch", "torchmetrics", "numpy", "pyarrow", "matplotlib"},
}
# Types alone: `datasets.Dataset` is what the loader draws from.
EXCEPTIONS = {
    ("data.loader", "datasets"),
    ("data.lengths", "datasets"),
    ("logps", "transformers"),
    ("lm_head", "transformers"),
}


def layer_of(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if module in layer)


def modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if parts[0] not in ("reviews", "conf") and name not in ("__init__", "callbacks", "data"):
            found[name] = file
    return found


def imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module):
    layer = layer_of(module)
    for name in imports(modules()[module]):
        if name.startswith("lightning_dpo."):
            inside = name.removeprefix("lightning_dpo.")
            assert not inside.startswith("reviews"), f"{module} knows the reviews world"
            assert layer_of(inside) >= layer, f"{module} imports {name} from a layer above"
        for number, libraries in ALLOWED.items():
            top = name.split(".")[0]
            if top in libraries and (module, top) not in EXCEPTIONS:
                assert number >= layer, f"{module} imports {top}"


def test_public_names_are_for_others():
    """`from lightning_dpo import DPOModule` would hide a layer; the composition root is the one that may."""
    users = [name for name, file in modules().items() if "lightning_dpo" in imports(file)]
    assert sorted(users) == ["evaluate", "inspect_data", "train"]


def test_module_and_data_meet_in_the_batch_alone():
    assert not [name for name in imports(modules()["module"]) if name.startswith("lightning_dpo.data")]
    for module, file in modules().items():
        if module.startswith("data."):
            assert "lightning_dpo.module" not in imports(file)


def test_nothing_dangerous_is_called():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        for word in ("weights_only=False)", "import pickle", "yaml.load(", "eval(", "torch.hub", "!= pad_token_id"):
            hits = text.count(word) - text.count("." + word if word == "eval(" else "\0")
            allowed = 1 if (file.name, word) == ("checkpoints.py", "weights_only=False)") else 0
            assert hits <= allowed or file.name == "targets.py", f"{file.name}: {word}"
