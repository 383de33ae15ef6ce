"""HTML pages of reports: self-contained, with everything that runs wrote escaped."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_FOLDER = Path(__file__).parent


def page(template: str, facts: Mapping[str, Any], pictures: Mapping[Path, str]) -> str:
    """A page as text.

    Args:
        template: Name of the template.
        facts: Its variables.
        pictures: PNG files to embed, and their captions.
    """
    templates = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    # The page executes this script and, if a run could inject one, no other.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    embedded = [(base64.b64encode(path.read_bytes()).decode(), text) for path, text in pictures.items()]
    return templates.get_template(template).render(facts, pictures=embedded, script=script, script_digest=digest)
