"""GPUs by name: what they can do, for plans made where there are none. Pure data, from the vendor's data sheets.

Peaks are of dense matrix products, 16 bits on tensor cores with fp32 sums, and fp32 without TF32. Memory is the nominal one.
"""

from __future__ import annotations

from dataclasses import dataclass

from foundation.errors import ConfigError
from training.hardware import Capability, Hardware, Precision

_GIB = 2**30
_TERA = 1e12


@dataclass(frozen=True)
class Gpu:
    """One model of GPU."""

    name: str
    capability: Capability
    gib: int
    tflops_16_bit: float
    tflops_fp32: float
    has_nvlink: bool = False

    def peak(self, precision: Precision) -> float:
        """FLOPs a second."""
        return _TERA * (self.tflops_fp32 if precision == "fp32" else self.tflops_16_bit)


GPUS = {
    "t4": Gpu("Tesla T4", (7, 5), 16, 65, 8.1),
    "v100": Gpu("Tesla V100-SXM2-16GB", (7, 0), 16, 125, 15.7, has_nvlink=True),
    "a10": Gpu("NVIDIA A10", (8, 6), 24, 125, 31.2),
    "l4": Gpu("NVIDIA L4", (8, 9), 24, 121, 30.3),
    "l40s": Gpu("NVIDIA L40S", (8, 9), 48, 362, 91.6),
    "a100-40gb": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 40, 312, 19.5, has_nvlink=True),
    "a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 80, 312, 19.5, has_nvlink=True),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80, 989, 67, has_nvlink=True),
    "h200": Gpu("NVIDIA H200", (9, 0), 141, 989, 67, has_nvlink=True),
}


def gpu(name: str) -> Gpu:
    """The GPU that is called so.

    Raises:
        ConfigError: None is; the message lists those known.
    """
    if name.lower() not in GPUS:
        raise ConfigError(f"--gpu: found {name!r}, expected one of {', '.join(GPUS)}; of another GPU give --peak-tflops and --memory")
    return GPUS[name.lower()]


def gang_of(model: Gpu, gpus: int, on_each_node: int) -> Hardware:
    """So many of them, with every kernel that they can run installed."""
    return Hardware(
        nodes=-(-gpus // on_each_node),
        gpus_per_node=min(gpus, on_each_node),
        gpu=model.name,
        capability=model.capability,
        gpu_bytes=model.gib * _GIB,
        has_varlen=True,
        interconnect="nvlink" if model.has_nvlink else "none",
    )
