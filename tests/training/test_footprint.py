"""What a worker holds: the formulas agree with what autograd saves and with torch's own record of a step's allocations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus.order import StepRows
from encoder.config import AttentionKind
from tests.support.steps import one_thread
from tests.support.tiny import make_encoder, make_packed
from training.assembly import Assembly, assemble, loop_arguments
from training.config import PretrainConfig
from training.engine import TorchEngine, WithObjective
from training.flops import Dimensions, attended_length, dimensions
from training.footprint import STAGES, Footprint, Microbatch, Way, activations, footprint, state_bytes
from training.loop import train
from training.measuring import document_lengths

ROWS = 32
SIZE = Dimensions(hidden=256, intermediate=1024, layers=4, vocabulary=30_000, heads=4)
PLAIN = Way("runs")
MICRO = Microbatch(tokens=2048, asked=307, attended=94.0, outputs=30_000)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("footprint")
    return make_packed(place / "packed", make_encoder(place / "encoder"), rows=400)


def recipe(packed: Path, **more: Any) -> PretrainConfig:
    shape = {"family": more.pop("family", "bert"), "layers": more.pop("layers", 3), "hidden": 128, "positions": 64}
    tree = {"data": str(packed), "new_model": shape, "steps": 6, "rows_per_step": ROWS, "tokens_per_microbatch": 100_000}
    return PretrainConfig.model_validate(tree | more)


def first_batch(assembly: Assembly) -> Any:
    rows = np.arange(ROWS)
    return assembly.objective.batch(StepRows(np.zeros_like(rows), rows), range(ROWS), 1.0)


def described(recipe: PretrainConfig, assembly: Assembly, batch: Any) -> Microbatch:
    found = batch["documents"]
    is_padded, longest = assembly.attention == "padded", found.layout.longest
    tokens = len(found.layout.lengths) * longest if is_padded else len(found.ids_N)
    attended = longest if is_padded else attended_length(document_lengths(recipe, assembly))
    return Microbatch(tokens, len(found.asked_K), attended, assembly.model.config.vocab_size)


def saved_bytes(assembly: Assembly, batch: Any, precision: Any) -> int:
    """Of storages that the graph keeps, the model's own and what is as wide as the vocabulary left out."""
    wrapped = WithObjective(assembly.model, assembly.objective, precision)
    own = {parameter.untyped_storage().data_ptr() for parameter in assembly.model.parameters()}
    vocabulary = assembly.model.config.vocab_size
    found: dict[int, int] = {}
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_weight = precision != "fp32" and tensor.dtype == torch.bfloat16 and tensor.ndim == 2 and len(set(tensor.shape) & sizes) == 2
        if storage.data_ptr() not in own and vocabulary not in tensor.shape and not is_weight:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # else its address would be used again
        return tensor

    sizes = {size for parameter in assembly.model.parameters() for size in parameter.shape}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        wrapped(batch)
    return sum(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
@pytest.mark.parametrize(
    ("attention", "precision", "dropout"),
    [("runs", "fp32", 0.0), ("runs", "fp32", 0.1), ("block", "fp32", 0.0), ("block", "bf16", 0.0), ("padded", "fp32", 0.0)],
)
def test_activations_are_what_autograd_saves(packed: Path, family: str, attention: AttentionKind, precision: str, dropout: float) -> None:
    made = recipe(packed, family=family, attention=attention, dropout=dropout)
    with one_thread():
        assembly = assemble(made, "", attention=attention)
        batch = first_batch(assembly)
        saved = saved_bytes(assembly, batch, precision)
    way = Way(attention, is_16_bit=precision != "fp32", has_dropout=dropout > 0)
    assert activations(dimensions(assembly.model.config), described(made, assembly, batch), way) == pytest.approx(saved, rel=0.1)


@pytest.mark.slow
def test_a_steps_peak_is_what_torch_records(packed: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    made = recipe(packed)
    with one_thread():
        assembly = assemble(made, "", attention="runs")
        engine = TorchEngine(assembly.model, assembly.objective, made.optimiser)
        steps = train(engine, assembly.objective, steps=6, order=assembly.order, **loop_arguments(made, 6, "runs"))
        for _ in range(2):
            next(steps)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            next(steps)
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    )
    recorded = int(np.cumsum([change for _, change in changes]).max())
    parameters = sum(parameter.numel() for parameter in assembly.model.parameters())
    size, micro = dimensions(assembly.model.config), described(made, assembly, first_batch(assembly))
    found = footprint(None, parameters, 1, size, micro, Way("runs"), on_gpu=False)
    assert found.states == 12 * parameters
    assert found.tensors - found.states == pytest.approx(recorded, rel=0.15)


@pytest.mark.parametrize(
    ("stage", "workers", "parameter_multiples"),
    [(None, 1, 16), (0, 4, 16), (1, 4, 8 + 12 / 4), (2, 4, 4 + 16 / 4), (3, 4, 20 / 4)],
    ids=["torch", "0", "1: weights and gradients whole", "2: weights whole", "3"],
)
def test_states_are_divided_as_zero_says(stage: int | None, workers: int, parameter_multiples: float) -> None:
    assert state_bytes(stage, 1000, workers) == 1000 * parameter_multiples


def held(stage: int | None, way: Way = PLAIN, *, micro: Microbatch = MICRO, workers: int = 8, on_gpu: bool = True) -> Footprint:
    return footprint(stage, 100_000_000, workers, SIZE, micro, way, on_gpu=on_gpu)


def test_each_stage_holds_less_than_the_one_before_it() -> None:
    totals = [held(stage).states + held(stage).gradients for stage in STAGES]
    assert totals == sorted(totals, reverse=True)


def test_more_workers_hold_less_each_from_stage_1_on() -> None:
    assert held(0, workers=16).states == held(0).states
    assert all(held(stage, workers=16).states < held(stage).states for stage in (1, 2, 3))


def test_recomputing_activations_and_16_bits_hold_less_of_them() -> None:
    assert activations(SIZE, MICRO, Way("runs", recomputes=True)) < 0.5 * activations(SIZE, MICRO, Way("runs"))
    assert activations(SIZE, MICRO, Way("block", is_16_bit=True)) < 0.75 * activations(SIZE, MICRO, Way("block"))


def test_activations_grow_with_the_tokens_computed_at_once() -> None:
    twice = Microbatch(2 * MICRO.tokens, 2 * MICRO.asked, MICRO.attended, MICRO.outputs)
    assert activations(SIZE, twice, Way("runs")) == pytest.approx(2 * activations(SIZE, MICRO, Way("runs")), rel=1e-6)


def test_a_second_micro_batch_finds_the_gradient_of_the_first() -> None:
    many = Microbatch(100_000, 15_000, MICRO.attended, MICRO.outputs)
    assert held(0, micro=many).gradients == 0
    assert held(0, Way("runs", microbatches=2), micro=many).gradients == 400_000_000


def test_what_is_offloaded_lies_in_the_nodes_memory_and_only_on_gpus() -> None:
    share = 4 * 100_000_000 // 8
    off = Way("runs", offload="optimiser")
    assert [held(stage, off).host - held(stage).host for stage in (None, 0, 1, 2, 3)] == [0, 0, 4 * share, 4 * share, 4 * share]
    assert held(2).states - held(2, off).states == 3 * share
    whole = held(3, Way("runs", offload="all"))
    assert whole.host - held(3).host == 5 * share
    assert held(3, off).states - whole.states == share
    assert held(2, off, on_gpu=False) == held(2, on_gpu=False)
    on_disk = held(3, Way("runs", offload="all", disk_buffer_elements=1_000_000))
    assert on_disk.host - held(3).host == share + 4_000_000
    assert held(3, Way("runs", offload="all", disk_buffer_elements=10**9)) == whole, "a small share needs no more than itself"


def test_checkpoints_are_written_from_a_copy_of_a_workers_share() -> None:
    share = 3 * 4 * 100_000_000 // 8
    assert held(2).host == share
    on_cpu = held(2, on_gpu=False)
    assert on_cpu.host == 0
    assert on_cpu.resident - held(2, on_gpu=False, workers=16).resident > share // 2


def test_what_is_held_is_all_parts_and_more_on_a_cpu_than_on_a_gpu() -> None:
    found = held(2)
    assert found.tensors == found.states + found.gradients + found.activations + found.logits + found.communication
    assert found.tensors < found.resident < held(2, on_gpu=False).resident
