"""What a type checker and an editor know of the public API."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import lightning_dpo

PACKAGE = Path(lightning_dpo.__file__).parent
api = pytest.importorskip("mypy.api")

SCRIPT = """
import lightning
import torch
from lightning_dpo import DPO, DPOModule, Frozen, LoRA, PreferenceDataModule
from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.callbacks import Samples
from lightning_dpo.data.sources import hh_pair
from lightning_dpo.losses import PairLogps, PreferenceLossFunction
from lightning_dpo.metrics import ValidationOutput


class Squared(PreferenceLossFunction):
    has_rewards = False
    columns = frozenset({"weight"})

    def losses(self, pairs: PairLogps) -> torch.Tensor:
        return (1 - (pairs.chosen_logratio - pairs.rejected_logratio)).square()


class Mine(DPOModule):
    def validation_step(self, batch: PreferenceBatch, batch_idx: int) -> ValidationOutput:
        output = super().validation_step(batch, batch_idx)
        margins: torch.Tensor = output["loss"].margins
        self.log("val/largest", margins.max(), batch_size=len(batch.chosen))
        return output


module = Mine("gpt2", Squared(), Frozen(), LoRA(r=8), lambda weights: torch.optim.AdamW(weights, lr=1e-5))
data = PreferenceDataModule("pairs.jsonl", tokenizer="gpt2", source=hh_pair, batch_size=8)
lightning.Trainer(max_epochs=1, callbacks=[Samples("out")]).fit(module, data)
tokens: int = data.pairs.counts["train"]
beta: float = DPO(beta=0.2).beta
"""
WRONG = """
from lightning_dpo import DPO, DPOModule
from lightning_dpo.batch import PreferenceBatch

DPO(beta="0.1")
DPOModule("gpt2", loss=0.1)


def lengths(batch: PreferenceBatch) -> None:
    print(batch.completion_length)
    PreferenceBatch(input_ids=batch.input_ids)
"""


def check(folder: Path, script: str) -> str:
    (folder / "script.py").write_text(script)
    # The checkout's own cache, if CI has checked the package already: transformers and torch take a minute.
    cache = PACKAGE.parent / ".mypy_cache"
    output, errors, _ = api.run(["--ignore-missing-imports", f"--cache-dir={cache}", str(folder / "script.py")])
    assert not errors
    return output


@pytest.mark.timeout(300)
def test_a_users_script_type_checks(tmp_path):
    assert check(tmp_path, SCRIPT).startswith("Success")


@pytest.mark.timeout(300)
def test_wrong_types_and_names_are_found(tmp_path):
    found = check(tmp_path, WRONG)
    assert 'Argument "beta" to "DPO" has incompatible type "str"; expected "float"' in found
    assert 'Argument "loss" to "DPOModule" has incompatible type "float"' in found
    assert '"PreferenceBatch" has no attribute "completion_length"; maybe "completion_lengths"?' in found
    assert 'Missing named argument "completion_index" for "PreferenceBatch"' in found


FOLDERS = ["lightning_dpo", *(f"lightning_dpo.{name}" for name in (
    "callbacks", "data", "data.sources", "losses", "layouts", "models", "runs", "training",
))]  # fmt: skip
NAMES = sorted({(folder, name) for folder in FOLDERS for name in importlib.import_module(folder).__all__})


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_public_signatures_say_what_they_take(folder, name):
    """No bare `Any`, which would switch the checker off. A row of data is JSON: its values can have any type."""
    value = getattr(importlib.import_module(folder), name)
    if inspect.isclass(value):
        value = value.__init__
    if not inspect.isfunction(value):
        return  # a name for a type
    hints = inspect.get_annotations(value, eval_str=True)
    assert "typing.Any" not in str(hints).replace("dict[str, typing.Any]", "a row"), hints


def test_few_lines_are_exempt_and_each_reports_why():
    lines = [
        line for file in PACKAGE.rglob("*.py") for line in file.read_text().splitlines() if "# type: ignore" in line
    ]
    assert len(lines) <= 30
    for line in lines:
        comment = line.partition("# type: ignore[")[2]
        assert comment.partition("]")[2].strip().startswith("#"), line


def test_every_tensor_attribute_is_annotated():
    """`self.weight = torch.zeros(...)` is inferred; what is set by name is not."""
    by_name = ("self.register_buffer", "self.add_state")
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                annotated = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
                calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
                named = {call.args[0].value for call in calls if ast.unparse(call.func) in by_name}
                assert named <= annotated, f"{file}: {node.name}"
