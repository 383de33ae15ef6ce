"""The architecture: folders are layers, and imports go down only. A new file needs no entry here."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_dpo

PACKAGE = Path(lightning_dpo.__file__).parent
# From top to bottom. A folder belongs to the layer that names it; so does a file in the root.
LAYERS = [
    {"__main__", "train", "evaluate", "export", "inspect_data", "report", "sample"},
    {"evaluation", "cli", "reports", "runs"},
    {"module", "callbacks", "data"},
    {"shared_prefix", "training", "checkpoints", "models"},
    {"logps", "layouts", "losses", "metrics", "batch", "run_folder", "labels", "settings", "printable", "errors"},
]
# The lowest layer that may import a library; what is not listed may be imported anywhere.
LIBRARIES = {
    "hydra": 1, "omegaconf": 1, "pydantic": 1, "matplotlib": 1, "wandb": 2, "jinja2": 2,
    "datasets": 2, "rich": 2, "lightning": 3, "transformers": 3, "peft": 3,
}  # fmt: skip
PARTS = {part for layer in LAYERS for part in layer}


def part_of(file: Path) -> str:
    """The folder of a file, or its own name in the root."""
    first, *_ = file.relative_to(PACKAGE).with_suffix("").parts
    return first


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if part_of(file) not in ("__init__", "reviews", "conf")]


def level(part: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if part in layer)


def imports(file: Path, types: bool = True) -> Iterator[str]:
    """Modules that a file imports; without those for type checkers only if `types` is False."""
    nodes = [ast.parse(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        nodes += ast.iter_child_nodes(node)


def parts_imported(file: Path, types: bool = True) -> set[str]:
    """Folders, and files in the root, that a file imports; itself excluded."""
    inside = {name.split(".")[1] for name in imports(file, types) if name.startswith("lightning_dpo.")}
    return inside - {part_of(file)}


def graph() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in FILES:
        found.setdefault(part_of(file), set()).update(parts_imported(file, types=False))
    return found


def test_every_folder_belongs_to_a_layer():
    assert {part_of(file) for file in FILES} == PARTS


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_only(file):
    layer = level(part_of(file))
    for part in parts_imported(file):
        assert part in PARTS, f"imports {part}, which nothing but conf/ refers to"
        assert level(part) >= layer, f"imports {part} from a layer above"
    for name in imports(file, types=False):
        library = name.partition(".")[0]
        assert layer <= LIBRARIES.get(library, layer), f"imports {library}"


def test_no_two_folders_import_each_other():
    order = graphlib.TopologicalSorter(graph()).static_order()  # raises CycleError
    assert set(order) == PARTS


def test_module_and_data_meet_in_the_batch_only():
    assert "data" not in graph()["module"]
    assert "module" not in graph()["data"]


def test_losses_import_the_batch_only():
    assert graph()["losses"] == {"batch"}


def test_public_names_are_for_others():
    """`from lightning_dpo import DPOModule` would hide a layer; only the commands, which compose runs, may."""
    users = {part_of(file) for file in FILES if "lightning_dpo" in imports(file)}
    assert users <= LAYERS[0]


def test_the_root_holds_the_commands_and_the_core_types():
    assert len(list(PACKAGE.glob("*.py"))) <= 16


def below(part: str, imported: dict[str, set[str]]) -> set[str]:
    """Everything that a part imports, itself or through others."""
    return imported[part].union(*(below(other, imported) for other in imported[part]))


def test_the_diagram_in_the_docs_shows_these_imports():
    """Arrows that follow from others are left out."""
    imported = graph()
    indirect = {part: set().union(*(below(other, imported) for other in others)) for part, others in imported.items()}
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    arrows = re.findall(r"^    (\w+) --> (\w+)$", page, re.MULTILINE)
    assert arrows == sorted((part, other) for part in imported for other in imported[part] - indirect[part])


def calls() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Every call: its place, what is called, and its keyword arguments."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                named = {str(keyword.arg): ast.unparse(keyword.value) for keyword in node.keywords}
                yield f"{file}:{node.lineno}", ast.unparse(node.func), named


def test_nothing_dangerous_is_called():
    for place, function, _ in calls():
        assert function not in ("yaml.load", "eval", "exec"), place
        assert not function.startswith("torch.hub."), place
    for file in PACKAGE.rglob("*.py"):
        assert {"pickle", "dill", "cloudpickle", "joblib"}.isdisjoint(imports(file)), file
        assert "!= pad_token_id" not in file.read_text(), f"{file}: what is scored is known from lengths"


def test_weights_are_loaded_without_pickle():
    for place, function, named in calls():
        if function in ("torch.load", "load", "trainer.fit"):
            assert named.get("weights_only") == "True", place
        elif "weights_only" in named:  # of a checkpoint that is saved, it means: without the optimizer
            assert named["weights_only"] == "True" or function == "trainer.save_checkpoint", place
