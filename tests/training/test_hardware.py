"""Decisions are pure functions of the hardware: a table of them, refusals with the key's name, and the shipped recipes as golden data.

After a deliberate change: RAYBERT_WRITE_GOLDEN=1 pytest tests/training/test_hardware.py
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from foundation.config import dump_yaml, load
from foundation.errors import ConfigError
from training.config import FinetuneConfig, PretrainConfig, RunConfig
from training.deepspeed_json import deepspeed_config
from training.hardware import Hardware, attention_kind, compilation, decide, precision, weakest
from training.probe import gang, probe_cpu, probe_gang, probe_plan

ROOT = Path(__file__).resolve().parents[2]
GB = 2**30
NO_GPU = Hardware(cores=2)
T4 = Hardware(gpus_per_node=1, gpu="Tesla T4", capability=(7, 5), gpu_bytes=16 * GB, cores=4)
A100 = Hardware(
    gpus_per_node=8,
    gpu="NVIDIA A100-SXM4-80GB",
    capability=(8, 0),
    gpu_bytes=80 * GB,
    has_varlen=True,
    cores=96,
    interconnect="nvlink",
)
H100 = replace(A100, nodes=4, gpu="NVIDIA H100 80GB HBM3", capability=(9, 0), has_native_bf16=True)
PLACES = {"cpu": NO_GPU, "t4": T4, "8xa100": A100, "4x8xh100": H100}


def recipe(gpus: float = 1, **more: Any) -> PretrainConfig:
    tree = {"data": "packed", "workers": {"count": 2, "gpus_each": gpus}}
    return PretrainConfig.model_validate(tree | more)


def place_of(path: Path) -> str:
    return path.stem.rpartition("_")[2]


RECIPES = sorted(path for verb in ("pretrain", "finetune") for path in (ROOT / "configs").glob(f"{verb}_*.yaml"))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("cpu", ("fp32", False, "runs", False, True, False, 20_000_000)),
        ("t4", ("fp16", True, "block", True, True, False, 20_000_000)),
        ("8xa100", ("bf16", False, "varlen", True, True, True, 20_000_000)),
        ("4x8xh100", ("bf16", False, "varlen", True, True, True, 50_000_000)),
    ],
)
def test_each_place_has_its_decisions(place: str, expected: tuple[Any, ...]) -> None:
    found = decide(PLACES[place], recipe(gpus=0 if place == "cpu" else 1))
    choices = vars(found).values()
    assert tuple(choice.value for choice in choices) == expected
    assert all(choice.reason for choice in choices)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_decisions_and_deepspeed_json_of_a_shipped_recipe_are_the_golden_ones(path: Path) -> None:
    kind: type[RunConfig] = PretrainConfig if path.stem.startswith("pretrain") else FinetuneConfig
    shipped, hardware = load(kind, path), PLACES[place_of(path)]
    assert shipped.workers.most * shipped.workers.gpus_each == hardware.nodes * hardware.gpus_per_node
    decisions = decide(hardware, shipped)
    deepspeed = deepspeed_config(shipped, decisions) if shipped.engine == "deepspeed" else None
    text = json.dumps({"decisions": decisions.as_json(), "deepspeed": deepspeed}, indent=2, sort_keys=True) + "\n"
    file = ROOT / "tests" / "golden" / f"{path.stem}.json"
    if os.environ.get("RAYBERT_WRITE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_every_place_has_a_shipped_recipe_of_either_verb(verb: str) -> None:
    assert {place_of(path) for path in RECIPES if path.stem.startswith(verb)} == set(PLACES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_read_back_as_it_was_written_into_a_runs_folder(path: Path, tmp_path: Path) -> None:
    kind: type[RunConfig] = PretrainConfig if path.stem.startswith("pretrain") else FinetuneConfig
    shipped = load(kind, path)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(shipped))
    assert load(kind, tmp_path / "recipe.yaml") == shipped


@pytest.mark.parametrize(
    ("hardware", "wanted", "found"),
    [
        (NO_GPU, "auto", "fp32"),
        (replace(NO_GPU, has_native_bf16=True), "auto", "fp32"),
        (NO_GPU, "bf16", "bf16"),
        (replace(T4, capability=(8, 9)), "auto", "bf16"),
        (replace(T4, capability=None), "auto", "fp16"),
        (A100, "fp32", "fp32"),
        (A100, "fp16", "fp16"),
    ],
)
def test_precision_is_what_is_wanted_or_what_is_native(hardware: Hardware, wanted: Any, found: str) -> None:
    assert precision(hardware, wanted).value == found


@pytest.mark.parametrize(
    ("hardware", "chosen", "drops", "found"),
    [
        (A100, "bf16", False, "varlen"),
        (A100, "fp16", False, "varlen"),
        (A100, "fp32", False, "block"),
        (A100, "bf16", True, "block"),
        (replace(A100, has_varlen=False), "bf16", False, "block"),
        (T4, "fp16", False, "block"),
        (NO_GPU, "fp32", True, "runs"),
    ],
)
def test_attention_is_varlen_only_where_its_kernels_run(hardware: Hardware, chosen: Any, drops: bool, found: str) -> None:
    assert attention_kind(hardware, chosen, drops=drops).value == found


@pytest.mark.parametrize(
    ("hardware", "wish", "message"),
    [
        (NO_GPU, {"precision": "fp16"}, r"precision: found fp16 on a CPU"),
        (T4, {"precision": "bf16"}, r"precision: found bf16 on Tesla T4 \(compute capability 7\.5\); native from 8\.0 on"),
        (T4, {"attention": "varlen"}, r"attention: found varlen, but Tesla T4 .* lacks the kernels"),
        (replace(A100, has_varlen=False), {"attention": "varlen"}, r"attention: found varlen, but neither"),
    ],
)
def test_what_the_hardware_cannot_do_is_refused_by_the_keys_name(hardware: Hardware, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decide(hardware, recipe(**wish))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"precision": "fp16", "workers": {}}, r"precision is fp16, but workers\.gpus_each is 0"),
        ({"attention": "varlen", "workers": {}}, r"attention is varlen, but workers\.gpus_each is 0"),
        ({"attention": "varlen", "precision": "fp32"}, r"attention is varlen, .* but precision is fp32"),
        ({"attention": "varlen", "dropout": 0.1}, r"attention is varlen, .* set dropout=0"),
        ({"compile": "on", "sharding": {"zero_stage": 3}}, r"compile is on, but sharding\.zero_stage 3"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused_with_the_recipe(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**wish)


def test_on_and_off_are_words_although_yaml_reads_them_as_switches() -> None:
    for word in ("on", "off", "auto"):
        assert load(PretrainConfig, None, ["data=packed", f"compile={word}"]).compile == word


def test_compilation_is_for_gpus_with_kernels_and_whole_parameters() -> None:
    old = replace(T4, capability=(6, 1))
    assert [compilation(place).value for place in (NO_GPU, old, T4)] == [False, False, True]
    assert not compilation(A100, parameters_are_sharded=True).value
    assert compilation(NO_GPU, "on").value
    assert not compilation(A100, "off").value


def test_overlap_needs_others_and_partitioned_gradients() -> None:
    stages = [decide(A100, recipe(sharding={"zero_stage": stage})).overlap_comm.value for stage in range(4)]
    assert stages == [False, False, True, True]
    assert not decide(replace(A100, gpus_per_node=1), recipe()).overlap_comm.value


def test_a_gang_computes_as_its_weakest_worker_can() -> None:
    one = replace(A100, gpus_per_node=1)
    other = replace(one, gpu="NVIDIA L4", capability=(8, 9), gpu_bytes=24 * GB, interconnect="none", has_varlen=False)
    found = weakest([one, other], nodes=2)
    assert (found.gpu, found.capability, found.gpu_bytes) == ("NVIDIA A100-SXM4-80GB", (8, 0), 24 * GB)
    assert (found.interconnect, found.has_varlen, found.nodes) == ("none", False, 2)


def test_workers_are_counted_by_the_node_they_run_on() -> None:
    one = replace(A100, gpus_per_node=1)
    found = gang([("a", one), ("a", one), ("b", one)])
    assert (found.nodes, found.gpus_per_node) == (2, 2)
    assert gang([("a", NO_GPU), ("a", NO_GPU)]) == NO_GPU


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("processor: 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("flags\t\t: fpu avx512f avx512_bf16\n", True),
        ("flags\t\t: amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
    ],
)
def test_native_bf16_is_read_from_the_cpus_flags(tmp_path: Path, text: str, native: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert probe_cpu(tmp_path / "cpuinfo").has_native_bf16 is native
    assert not probe_cpu(tmp_path / "missing").has_native_bf16


def test_a_process_on_a_cpu_finds_its_cpu() -> None:
    found = probe_gang(torch.device("cpu"))
    assert (found.nodes, found.gpus_per_node, found.gpu, found.capability) == (1, 0, None, None)
    assert found.cores == os.cpu_count()
    assert probe_plan(recipe(gpus=0)) == found


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPUs")
def test_a_plan_for_gpus_made_without_any_leaves_decisions_to_the_workers() -> None:
    assert probe_plan(recipe(gpus=1)) is None
