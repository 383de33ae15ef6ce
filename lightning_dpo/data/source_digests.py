"""Digests of what pairs are made from: files, functions and their options. They identify prepared pairs."""

import ast
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import resolve_name
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from lightning_dpo.data.parts import Part
from lightning_dpo.data.sources.hub import NO_SPLIT
from lightning_dpo.models.digests import digest_of, file_digest

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LIBRARIES = tuple({sysconfig.get_path("stdlib"), *site.getsitepackages(), site.getusersitepackages()})


def part_digest(part: Part, validation_only: bool) -> str | None:
    """Digest of a source: rows, function and weight; None if it cannot be known without reading the rows.

    Args:
        part: The source.
        validation_only: Whether training pairs are not needed, unless validation pairs are held out from them.
    """
    parts = [function_digest(part.to_pair), str(part.weight), _split_digest(part, "validation")]
    if not validation_only or parts[-1] == NO_SPLIT:
        parts.append(_split_digest(part, "train"))
    known = [one for one in parts if one is not None]
    return digest_of(one.encode() for one in known) if len(known) == len(parts) else None


def function_digest(function: Callable[..., Any]) -> str | None:
    """Digest of a function's name, options and source, and of the modules of the same project that it uses.

    None if it has no source file, as in a notebook, or if it depends on values that are not part of its source.
    """
    options: list[str] = []
    while isinstance(function, partial):
        options += [repr(function.args), repr(sorted(function.keywords.items()))]
        function = function.func
    if not isinstance(function, FunctionType) or function.__closure__ or any(map(_ADDRESS.search, options)):
        return None
    module = sys.modules.get(function.__module__)
    files = sorted(set(_files(module, set()))) if module is not None else []
    if not files:
        return None
    # Two lambdas have the same name.
    name = f"{function.__qualname__} {function.__code__.co_firstlineno}"
    return digest_of([part.encode() for part in (name, *options)] + [path.read_bytes() for path in files])


def _split_digest(part: Part, split: str) -> str | None:
    """Digest of the rows of a split: of its file, or what a function of rows reports itself, as `HubRows` does."""
    path = part.path if split == "train" else part.val_path
    if path is not None:
        return file_digest(Path(path)) if Path(path).is_file() else None
    if part.rows is None or part.path is not None:
        return NO_SPLIT
    own = getattr(part.rows, "digest", None)
    return own(split) if own is not None else None


def _files(module: ModuleType, seen: set[str]) -> Iterator[Path]:
    """The source files of a module and of those it imports, without the standard library and installed packages."""
    seen.add(module.__name__)
    file = getattr(module, "__file__", None)
    if file is None or file.startswith(_LIBRARIES) or not Path(file).is_file():
        return
    yield Path(file)
    for name in _imported(module, Path(file)):
        if name in sys.modules and name not in seen:
            yield from _files(sys.modules[name], seen)


def _imported(module: ModuleType, file: Path) -> Iterator[str]:
    """Names of the modules that a module imports, at its start or in a function."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = resolve_name(name, module.__package__) if node.level else name
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
