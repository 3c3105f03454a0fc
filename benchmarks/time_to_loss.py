"""The row ``time_to_loss_4x256`` of ``pretrain_throughput``: seconds until our recipe has the held-out loss that the Trainer ends with.

The Trainer trains for ten minutes in each of run_mlm's two forms and at three learning rates, its schedule ending with the time; the lowest
loss is the one to reach. Ours is ``configs/pretrain_texts_cpu.yaml``, its schedule ending with a budget, the first of ``BUDGETS`` that
is enough. Evaluation and saving stop the clock. Every run is a cell that is kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.cells import Answer, Cells
from benchmarks.harness import HERE
from benchmarks.rows import Row, Samples, goal_of, row
from benchmarks.texts import LENGTH, MASK_SHARE, TOKENIZER, build, documents, grouped, held_out, lines, masked_loss, tokenised, write_rows
from benchmarks.turns import NEVER, Side, steps_in
from encoder.loading import load_tokenizer
from foundation.config import load
from training.config import PretrainConfig

ROW = "time_to_loss_4x256"
RECIPE = HERE.parent / "configs" / "pretrain_texts_cpu.yaml"
LAYERS, HIDDEN, PEER_ROWS = 4, 256, 32
PEER_SECONDS = 600.0
QUICK_SCALE = 0.1
BUDGETS = (210.0, 300.0, 420.0, 600.0)
QUICK_DOCUMENTS = 2_000
LOOKS, QUICK_LOOKS = 14, 5
"""Evaluations of ours in a budget."""
RATES = (2.5e-4, 5e-4, 1e-3)
"""Of the Trainer, around its best; 2e-3 was worse still."""
FORMS = ("grouped", "lines")
HELD_OUT_ROWS = 400
GRACE = 1.03
"""How much longer than its time a run may take to end its schedule; what it takes is what counts."""
LEAST = 0.9
"""Share of its time that the Trainer has at least; how fast it is varies, and is known only roughly beforehand."""


def time_to_loss(corpus: Path | None, work: Path, *, tokenizer: str = TOKENIZER, quick: bool, threads: int) -> Row:
    """Run what is not finished, and judge."""
    import torch

    torch.set_num_threads(threads)
    scale = QUICK_SCALE if quick else 1.0
    cells = Cells(work / "time_to_loss")
    data = _Data(corpus, work / ("quick" if quick else "full"), tokenizer, QUICK_DOCUMENTS if quick else None)
    same = {"rows": HELD_OUT_ROWS, "corpus": corpus.name if corpus else None, "threads": threads, "documents": data.fingerprint}
    reached: dict[tuple[str, float], Answer] = {}
    for form in FORMS:
        for peak_lr in RATES[1:2] if quick else RATES:
            asked = same | {"side": "trainer", "form": form, "peak_lr": peak_lr, "seconds": PEER_SECONDS * scale}
            reached[form, peak_lr] = cells.find(asked, lambda asked=asked: _peer(data, asked, threads))  # type: ignore[misc]
    best = min(reached, key=lambda setting: reached[setting]["loss"])
    goal_loss = reached[best]["loss"]
    recipe = load(PretrainConfig, RECIPE, [f"data={data.packed.folder}"])
    own = recipe.model_dump(mode="json", exclude={"data"})
    mine: Answer = {}
    for budget in BUDGETS:
        asked = same | {"side": "ours", "recipe": own, "seconds": budget * scale, "looks": QUICK_LOOKS if quick else LOOKS}
        mine = cells.find(asked, lambda asked=asked: _ours(data, asked, threads))  # type: ignore[misc]
        if any(loss <= goal_loss for _, loss in mine["curve"]):
            break
    first = next((seconds for seconds, loss in mine["curve"] if loss <= goal_loss), None)
    return row(
        ROW,
        Samples((first or mine["curve"][-1][0],), (reached[best]["seconds"],)),
        goal_of("pretrain_throughput", ROW),
        note=_note(reached, best, mine, first, own["new_model"]["output_bias"], quick),
        commands={
            "ours": f"python benchmarks/programs/train_ours.py (configs/{RECIPE.name}, steps={mine['steps']})",
            "peer": f"python benchmarks/programs/pretrain_trainer.py ({best[0]}, rate {best[1]:g}, {reached[best]['steps']} steps)",
        },
        threads={"ours": threads, "peer": threads},
        peer_versions=peers.versions("trainer"),
    )


class _Data:
    """Built and tokenised once; lies in the work folder."""

    def __init__(self, corpus: Path | None, work: Path, ref: str, most: int | None) -> None:
        table = documents(corpus, most)
        self.packed = build(table, work / "packed", tokenizer=ref)
        self.fingerprint = self.packed.manifest.fingerprint
        self.tokenizer = load_tokenizer(str(self.packed.tokenizer_folder))
        self.held_out = held_out(type(self.packed).open(self.packed.folder, "validation"), HELD_OUT_ROWS, self.tokenizer.mask_token_id)
        self.files = {form: work / f"{form}-{self.fingerprint[:12]}.npz" for form in FORMS}
        columns = (table.column(name).to_pylist() for name in ("text", "split"))
        texts = [text for text, split in zip(*columns, strict=True) if split == "train"]
        for form, file in self.files.items():
            if not file.is_file():
                rows = (
                    grouped(tokenised(texts, self.tokenizer, truncate=False))
                    if form == "grouped"
                    else list(tokenised(lines(texts), self.tokenizer, truncate=True))
                )
                write_rows(file, rows, special=self.tokenizer.all_special_ids)

    def loss(self, save: Callable[[str], Any]) -> float:
        """The held-out loss of what ``save`` writes into a folder."""
        from transformers import AutoModelForMaskedLM

        with tempfile.TemporaryDirectory() as folder:
            save(folder)
            return masked_loss(AutoModelForMaskedLM.from_pretrained(folder), self.held_out)


def _peer(data: _Data, asked: Mapping[str, Any], threads: int) -> Answer:
    """One run of the Trainer: ``loss`` at its end, ``steps``, ``seconds``, real ``tokens``."""
    seconds = asked["seconds"]

    def command(max_steps: int) -> list[str]:
        spec = {
            "rows": str(data.files[asked["form"]]),
            "tokenizer": str(data.packed.tokenizer_folder),
            "layers": LAYERS,
            "hidden": HIDDEN,
            "heads": max(1, HIDDEN // 64),
            "batch_rows": PEER_ROWS,
            "padding": "longest",
            "length": LENGTH,
            "mask_share": MASK_SHARE,
            "workers": 1,
            "compile": False,
            "learning_rate": asked["peak_lr"],
            "decay": "linear",
            "warmup_steps": round(0.06 * max_steps),
            "max_steps": max_steps,
            "seed": 0,
            "threads": threads,
        }
        return [str(peers.environment("trainer")), str(HERE / "programs" / "pretrain_trainer.py"), json.dumps(spec)]

    steps, found = steps_in(command(NEVER), seconds, threads), None
    # One that was thought too slow has not had its time, and has it then.
    while found is None or found["seconds"] < seconds * LEAST:
        steps = round(steps * seconds / found["seconds"]) if found else steps
        with Side(command(steps), threads=threads) as side:
            found = side.ask({"do": "steps", "count": steps, "seconds": seconds * GRACE})
            loss = data.loss(lambda folder: side.ask({"do": "save", "folder": folder}))
    return {"loss": loss, "planned_steps": steps, **{name: found[name] for name in ("steps", "seconds", "tokens")}}


def _ours(data: _Data, asked: Mapping[str, Any], threads: int) -> Answer:
    """One run of ours: ``curve`` of (seconds, loss), ``steps``, ``tokens``."""
    seconds = asked["seconds"]
    recipe = {**asked["recipe"], "data": str(data.packed.folder)}

    def command(more: dict[str, Any]) -> list[str]:
        spec = {"verb": "pretrain", "recipe": recipe | more, "threads": threads}
        return [sys.executable, str(HERE / "programs" / "train_ours.py"), json.dumps(spec)]

    final = recipe["masking"]["final_share"] or recipe["mask_share"]
    # The mean share: a step with more masks takes longer.
    constant = {"mask_share": (recipe["mask_share"] + final) / 2, "masking": {**recipe["masking"], "final_share": None}, "steps": NEVER}
    steps = steps_in(command(constant), seconds, threads)
    curve: list[tuple[float, float]] = []
    done, tokens, clock = 0, 0, 0.0
    with Side(command({"steps": steps}), threads=threads) as side:
        while done < steps and clock < seconds * GRACE:
            found = side.ask({"do": "steps", "count": steps - done, "seconds": seconds / asked["looks"]})
            done, tokens, clock = done + found["steps"], tokens + found["tokens"], clock + found["seconds"]
            curve.append((clock, data.loss(lambda folder: side.ask({"do": "save", "folder": folder}))))
    return {"curve": curve, "planned_steps": steps, "steps": done, "tokens": tokens}


def _note(
    reached: Mapping[tuple[str, float], Answer], best: tuple[str, float], mine: Answer, first: float | None, bias: str, quick: bool
) -> str:
    tried = "; ".join(
        f"{form}, learning rate {peak_lr:g}: {answer['loss']:.3f} after {answer['steps']:,} steps, {answer['tokens']:,} tokens"
        for (form, peak_lr), answer in reached.items()
    )
    curve = ", ".join(f"{seconds:.0f} s {loss:.3f}" for seconds, loss in mine["curve"])
    outcome = f"reached after {first:.0f} s" if first else "NOT reached; the figure is the longest budget's, and the ratio an upper bound"
    short = "A tenth of the time, and one learning rate of the peer's. " if quick else ""
    return (
        f"{short}Held-out loss, 15 % of whole pieces of documents masked, one function for both. Trainer ({PEER_ROWS} rows of {LENGTH} "
        f"tokens, no dropout, linear decay): {tried}. The loss to reach is {reached[best]['loss']:.3f}, {outcome}. "
        f"Ours, {mine['steps']:,} steps, {mine['tokens']:,} tokens, output_bias {bias}: {curve}."
    )
