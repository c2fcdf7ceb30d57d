"""The machine and the versions that a figure was measured with."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("penjing", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "onnx", "onnxruntime", "openvino")
KERNELS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm")


def instructions() -> list[str]:
    """The instruction sets that matter to the engines' kernels; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return [name for name in KERNELS if name in flags]


def safe_weight_bits() -> int:
    """8, or 7 on an x86 CPU without VNNI, where sums of two u8·s8 products overflow 16 bits silently."""
    found = set(instructions())
    return 7 if "avx2" in found and not found & {"avx_vnni", "avx512_vnni", "amx_int8"} else 8


def machine() -> dict[str, Any]:
    """Processor, cores, memory, system, instruction sets."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "instructions": instructions(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The project's own commit, where it runs from a checkout."""
    here = Path(__file__).parent
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=here, capture_output=True, text=True, timeout=5)
        if top.returncode or not (Path(top.stdout.strip()) / "src" / "penjing").is_dir():
            return None
        result = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, timeout=5)
        return result.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None
