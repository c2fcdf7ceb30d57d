"""The machine and the versions that a figure was measured with."""

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("penjing", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "onnx", "onnxruntime", "openvino")
KERNELS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "asimddp", "i8mm", "bf16")
VNNI = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
"""Each brings an instruction that sums u8·s8 products in 32 bits."""
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Each multiplies bfloat16 numbers; the last is ARM's."""
SATURATES = ": pairs of u8·s8 products saturate 16 bits, so weights have 7 bits"
X86_KERNELS = {
    "amx_int8": "AMX int8",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512 without VNNI" + SATURATES,
    "avx2": "AVX2 without VNNI" + SATURATES,
}
"""What each instruction set is called, the best first."""
ARM_KERNELS = {"i8mm": "ARM int8 matrix multiply", "asimddp": "ARM dot product", "asimd": "ARM NEON without dot product"}


def instructions() -> list[str]:
    """The instruction sets that matter to the engines' kernels; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return [name for name in KERNELS if name in flags]


def safe_weight_bits() -> int:
    """Bits of int8 weights that no kernel of this CPU overflows with: 8, or 7 on x86 without VNNI.

    There vpmaddubsw adds two products u8·s8 in 16 bits and saturates silently: 2·255·127 does not fit, 2·255·63 does. An x86
    CPU of which nothing is known counts as one without. ARM widens its products (smull, sdot, smmla), so 8 bits are safe.
    """
    return 7 if _is_x86() and not VNNI.intersection(instructions()) else 8


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself; False where the system does not tell."""
    return bool(BFLOAT16.intersection(instructions()))


def kernel_class() -> str:
    """The best integer multiply that the engines find on this CPU, in words."""
    found = set(instructions())
    names = X86_KERNELS if _is_x86() else ARM_KERNELS
    for needed, words in names.items():
        if needed in found:
            return words
    if _is_x86():
        return "x86 without VNNI" + SATURATES
    return "no known int8 instructions: integers may be slower than float"


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686", "x86")


@dataclass(frozen=True)
class Machine:
    """Processor, cores, memory, system, instruction sets."""

    cpu: str
    cores: int | None
    memory_gb: float
    system: str
    instructions: tuple[str, ...]


def machine() -> Machine:
    """The machine that this runs on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return Machine(
        _cpu_name(), os.cpu_count(), round(memory / 2**30, 1), f"{platform.system()} {platform.release()}", tuple(instructions())
    )


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


def cores() -> int:
    """Processors that this process may use: its affinity, and a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):
        return count
