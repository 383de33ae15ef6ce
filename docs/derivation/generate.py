"""Writes docs/derivation.md and its pictures from finished runs.

python -m lightning_dpo.train sweep=beta logger=csv
python -m lightning_dpo.train loss=two_way logger=csv
python -m docs.derivation.generate outputs/reviews-two_way/TIME outputs/reviews-dpo/TIME/*/
"""

import argparse
from pathlib import Path
from string import Template

from docs.derivation import numbers, pictures
from docs.derivation.runs import ReviewsRun

_HERE = Path(__file__).parent


def generate(two_way: Path, dpo: list[Path], target: Path) -> None:
    """Write the page and its pictures.

    Args:
        two_way: Folder of a run with `loss=two_way`.
        dpo: Folders of runs with `loss=dpo` and different β. The page explains the one nearest to 0.5.
        target: The page. The pictures are written to a folder with its name.
    """
    runs = sorted((ReviewsRun(folder) for folder in dpo), key=lambda run: run.beta)
    main, other = min(runs, key=lambda run: abs(run.beta - 0.5)), ReviewsRun(two_way)
    folder = target.with_suffix("")
    folder.mkdir(exist_ok=True)
    pictures.draw_level(main, folder / "level.png")
    pictures.draw_gradient_weights(main, folder / "gradient_weights.png")
    pictures.draw_frontier(runs, other, folder / "frontier.png")
    page = Template((_HERE / "page.md").read_text(encoding="utf-8")).substitute(
        numbers.denominators(other, main),
        beta=f"{main.beta:g}",
        two_way_beta=f"{other.beta:g}",
        four_forms=numbers.four_forms(main),
        partition=numbers.partition(main),
        partition_small=numbers.partition(runs[0]),
        small_beta=f"{runs[0].beta:g}",
        level=numbers.level(main),
        gradient_weights=numbers.gradient_weights(main),
        sweep=numbers.sweep(runs),
        two_way=numbers.two_way(other, main),
        reference_mass=f"{main.reference_mass:.2f}",
        mass=f"{main.metrics['closed_form/mass_on_reviews']:.2f}",
    )
    target.write_text(page, encoding="utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Write docs/derivation.md from finished runs of the default task.")
    parser.add_argument("two_way", type=Path, help="folder of a run with loss=two_way")
    parser.add_argument("dpo", type=Path, nargs="+", help="folders of runs with loss=dpo and different beta")
    parser.add_argument("--target", type=Path, default=_HERE.with_suffix(".md"), help="the page to write")
    arguments = parser.parse_args()
    generate(arguments.two_way, arguments.dpo, arguments.target)


if __name__ == "__main__":
    main()
