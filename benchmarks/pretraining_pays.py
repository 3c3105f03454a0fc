"""What pretraining buys on this machine: macro-F1 with and without it, each at its own best learning rate, by labels a class.

From scratch and continued from MiniLM, on a general corpus and on the texts of the task; ``pays_recipes.py`` says what is tried. Every
finished cell is kept in ``--work``, so that hours can be spread over sessions: ``--list`` tells what is there, ``--only`` and ``--minutes``
do a part of it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.cells import Answer, OutOfTime
from benchmarks.drawing import svg_document
from benchmarks.harness import run
from benchmarks.pays_cells import Bench
from benchmarks.pays_recipes import CONFIRMING_SEEDS, FINE_TUNING, LABELS, LONGEST, QUICK_RECIPES, RECIPES, SEEDS, Recipe, told
from benchmarks.rows import Row, Samples, goal_of, row
from corpus.labelled_config import LabelKind

NAME = "pretraining_pays"
ROW = "best_gain_macro_f1"
FEW_LABELS = (10, 100)
"""Where the goal is asked."""
MOST_MINUTES = 30.0
"""Of a recipe that the goal is asked of."""
QUICK_SCALE = 0.5


@dataclass(frozen=True)
class Cell:
    """One finished comparison's side."""

    recipe: Recipe
    labels: int | None
    found: Answer

    @property
    def macro_f1(self) -> float:
        """Mean over seeds, in points."""
        return float(statistics.mean(self.found["macro_f1"]))

    @property
    def name(self) -> str:
        """As ``--only`` takes it."""
        return cell_name(self.recipe, self.labels)


def cell_name(recipe: Recipe, labels: int | None) -> str:
    """``minilm-task-30:10``."""
    return f"{recipe.name}:{told(labels)}"


def measure(
    quick: bool,
    *,
    data: Path | None = None,
    corpus: Path | None = None,
    label_kind: LabelKind = "single",
    work: Path | None = None,
    only: Sequence[str] | None = None,
    minutes: float | None = None,
    tells: bool = False,
    confirms: bool = False,
    threads: int | None = None,
) -> list[Row]:
    """Run the cells that are not finished, and compare those that are."""
    threads = threads or len(os.sched_getaffinity(0))
    recipes, labels = (QUICK_RECIPES, LABELS[:1]) if quick else (RECIPES, LABELS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        # No minutes at all begin nothing, and so tell what is finished.
        bench = Bench(
            folder,
            data=data,
            corpus=corpus,
            kind=label_kind,
            threads=threads,
            minutes=0 if tells else minutes,
            scale=QUICK_SCALE if quick else 1.0,
        )
        cells: dict[str, Cell] = {}
        wanted = [(recipe, count) for count in labels for recipe in recipes]
        for recipe, count in wanted:
            name = cell_name(recipe, count)
            is_asked = only is None or any(fnmatch(name, pattern) for pattern in only)
            with suppress(OutOfTime):
                cells[name] = Cell(recipe, count, _measured(bench if is_asked else bench.finished(), recipe, count, quick))
        if tells:
            for recipe, count in wanted:
                name = cell_name(recipe, count)
                print(f"{name}: {f'macro-F1 {cells[name].macro_f1:.2f}' if name in cells else 'not finished'}")
            raise SystemExit(0)
        return [_row(bench, cells, wanted, quick, confirms, threads)]


def _measured(bench: Bench, recipe: Recipe, labels: int | None, quick: bool) -> Answer:
    rates = FINE_TUNING[recipe.start].rates
    return bench.measured(recipe, labels, rates[1:2] if quick else rates, SEEDS[:1] if quick else SEEDS)


def gains(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """Each pretrained cell beside that of the same start without pretraining, the largest gain first."""
    plain = {(cell.recipe.start, cell.labels): cell for cell in cells if not cell.recipe.stages}
    pairs = [(cell, plain[place]) for cell in cells if cell.recipe.stages and (place := (cell.recipe.start, cell.labels)) in plain]
    return sorted(pairs, key=lambda pair: pair[1].macro_f1 - pair[0].macro_f1)


def _row(
    bench: Bench, cells: dict[str, Cell], wanted: Sequence[tuple[Recipe, int | None]], quick: bool, confirms: bool, threads: int
) -> Row:
    pairs = gains([*cells.values()])
    asked = [(cell, plain) for cell, plain in pairs if cell.labels in FEW_LABELS and cell.recipe.minutes <= MOST_MINUTES]
    if not asked:
        raise SystemExit(f"{len(cells)} of {len(wanted)} cells are finished, too few to compare; run the same command again to go on")
    best, plain = asked[0]
    told_seeds = f"Means of {len(best.found['macro_f1'])} seeds, by which it was chosen, so they flatter"
    if confirms:
        with suppress(OutOfTime):
            best, plain = (
                Cell(cell.recipe, cell.labels, bench.measured(cell.recipe, cell.labels, seeds=CONFIRMING_SEEDS)) for cell in (best, plain)
            )
            told_seeds = f"Means of {len(CONFIRMING_SEEDS)} seeds other than those that it was chosen by"
    unfinished = "" if len(cells) == len(wanted) else f" {len(wanted) - len(cells)} of {len(wanted)} cells are not finished."
    short = "Short times, one seed and one learning rate. " if quick else ""
    return row(
        ROW,
        Samples((best.macro_f1,), (plain.macro_f1,)),
        goal_of(NAME, ROW),
        note=(
            f"{short}Best of {len({cell.recipe.name for cell, _ in asked})} pretrainings: {best.recipe.name} with {told(best.labels)} "
            f"labels a class, against the same start without pretraining. {told_seeds}, {spread(best.found['macro_f1'])} against "
            f"{spread(plain.found['macro_f1'])}, on {len(bench.data.test):,} test rows, {len(bench.data.labels)} classes, "
            f"texts cut at {LONGEST} tokens.{unfinished}"
        ),
        commands=dict.fromkeys(("ours", "peer"), "python benchmarks/programs/train_ours.py"),
        threads={"ours": threads, "peer": threads},
        appendix=table(bench, pairs),
        charts=_charts(bench, [*cells.values()]),
    )


def table(bench: Bench, pairs: Sequence[tuple[Cell, Cell]]) -> str:
    """All that was tried, as Markdown: means over seeds, with the lowest and highest."""
    second = "micro-F1" if bench.kind == "list" else "accuracy"
    lines = [
        f"| pretraining | minutes | tokens | held-out loss | labels a class | macro-F1 with | without | gain | {second} with | without |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for cell, plain in pairs:
        stages = [bench.model(cell.recipe, number + 1) for number in range(len(cell.recipe.stages))]
        losses = " → ".join(f"{stage['curve'][place][1]:.2f}" for stage in stages for place in (0, -1))
        key = second.replace("-F1", "_f1")
        lines.append(
            f"| {cell.recipe.name} | {sum(stage['seconds'] for stage in stages) / 60:.0f} | {sum(stage['tokens'] for stage in stages):,} "
            f"| {losses} | {told(cell.labels)} | {spread(cell.found['macro_f1'])} | {spread(plain.found['macro_f1'])} "
            f"| {cell.macro_f1 - plain.macro_f1:+.2f} | {spread(cell.found[key])} | {spread(plain.found[key])} |"
        )
    return "\n".join(lines)


def spread(figures: Sequence[float]) -> str:
    """``54.2 (53.1 to 55.0)``; the mean alone of one."""
    mean = f"{statistics.mean(figures):.2f}"
    return mean if len(figures) == 1 else f"{mean} ({min(figures):.2f} to {max(figures):.2f})"


def _charts(bench: Bench, cells: Sequence[Cell]) -> dict[str, str]:
    """Held-out loss over tokens, and macro-F1 over minutes of pretraining for each start and number of labels."""
    losses = {}
    for recipe in {cell.recipe.name: cell.recipe for cell in cells if len(cell.recipe.stages) == 1}.values():
        losses[recipe.name] = [(tokens / 1e3, loss) for tokens, loss in bench.model(recipe)["curve"]]
    scores: dict[str, list[tuple[float, float]]] = {}
    for cell in sorted(cells, key=lambda cell: cell.recipe.minutes):
        kinds = {stage.texts for stage in cell.recipe.stages} or {"general", "task"}
        for kind in kinds if len(kinds) == 1 or not cell.recipe.stages else ():
            if cell.labels in FEW_LABELS:
                scores.setdefault(f"{cell.recipe.start}, {kind}, {told(cell.labels)}", []).append((cell.recipe.minutes, cell.macro_f1))
    drawn = {name: points for name, points in scores.items() if len(points) > 1}
    charts = {
        "loss": svg_document("held-out loss", dict([*losses.items()][:8]), "thousand tokens of pretraining"),
        "macro-f1": svg_document("macro-F1 on test rows, points", dict([*drawn.items()][:8]), "minutes of pretraining"),
    }
    return {name: chart for name, chart in charts.items() if chart}


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument("--data", type=Path, metavar="FILE", help="Parquet with text, label and split; default: movie reviews")
    parser.add_argument("--label-kind", choices=("single", "list"), default="single", help="of the data")
    parser.add_argument(
        "--corpus", type=Path, metavar="FILE", help="Parquet with text and split (train, validation); default: movie reviews"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps finished cells, so that a run can be gone on with")
    parser.add_argument(
        "--only", nargs="+", metavar="CELL", help="names or patterns, such as 'minilm*:10'; other cells are taken if finished"
    )
    parser.add_argument("--minutes", type=float, metavar="N", help="begin no cell after that")
    parser.add_argument("--confirm", action="store_true", dest="confirms", help="measure the best once more, with seeds of its own")
    parser.add_argument("--list", action="store_true", dest="tells", help="tell which cells are finished, and end")


if __name__ == "__main__":
    sys.exit(run(NAME, measure, options=options))
