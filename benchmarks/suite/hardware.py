"""What a measurement runs on, and which cells can run there."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .places import find, missing
from .workloads import FASTA_VARIABLE

GIB = 1024**3

MODELS = ["esm2_t6_8M_UR50D", "esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D"]
"""What all benchmarks measure."""

LARGEST = "esm2_t48_15B_UR50D"
"""`throughput` measures this, too; elsewhere it would take minutes, or not fit beside a second model."""

PRECISIONS = ["fp32", "tf32", "bf16", "fp16", "int8", "fp8"]
"""What is measured, on every machine and beside every commit; what one is, the commit's own table says."""

CPU_MODEL = "esm2_t6_8M_UR50D"

PASS_TOKENS = {
    "esm2_t6_8M_UR50D": 49_152,
    "esm2_t33_650M_UR50D": 16_384,
    "esm2_t36_3B_UR50D": 8_192,
    LARGEST: 3_200,
}
"""On a GPU copies of a workload are joined until a pass has about so many tokens. On an H100 in FP16 8M is twice
as fast as with 16,384, 650M 3 % slower than with 32,768, and 3B 4 % slower than with 16,384, with which a pass in
FP32 would take two seconds."""


LEAST_TOKENS = {"cpu": 1_024, "cuda": 16_384}
"""Of a batch, for which there must be memory."""


UNITS = {
    "fp16": {"avx512_fp16", "fphp"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "i8mm"},
}
"""What a CPU that computes in a precision about as fast as in FP32, or faster, has of these (/proc/cpuinfo)."""

ON_SLOW_CPUS = ("mixed", "fasta")
"""The workloads that are measured in a precision for which a CPU has no units: all would take minutes."""


@dataclass(frozen=True)
class Hardware:
    """The device that cells run on. `memory`: free bytes (a CPU's: all); `capability`: CUDA's, (0, 0) on a CPU.

    `uuid`: the GPU's as nvidia-smi writes it. `slow`: the precisions for which a CPU has no units.
    """

    device: str
    name: str
    memory: int
    capability: tuple[int, int]
    versions: dict[str, str]
    uuid: str = ""
    slow: tuple[str, ...] = ()


def probe() -> Hardware:
    """Look at this machine. Initialises CUDA where there is a GPU: call it in a process that measures nothing."""
    import torch

    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fair-esm": version("fair-esm"),
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        versions |= {"cuda": str(torch.version.cuda), "driver": driver_version()}
        free, _ = torch.cuda.mem_get_info(0)
        return Hardware("cuda", gpu.name, free, (gpu.major, gpu.minor), versions, f"GPU-{gpu.uuid}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Hardware("cpu", cpu_with_cores(), memory, (0, 0), versions, slow=slow_precisions())


def slow_precisions() -> tuple[str, ...]:
    """Those for which this machine's CPU has no units."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return () if platform.machine() == "arm64" else tuple(UNITS)
    return tuple(precision for precision, units in UNITS.items() if not units & flags)


def cpu_with_cores() -> str:
    """The processor's name and how many cores this machine has."""
    return f"{cpu_name()}, {os.cpu_count()} cores"


def cpu_name() -> str:
    """The processor's name as its vendor writes it, without trademark signs."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    else:
        info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
        name = names[0] if names else ""
    for noise in ("(R)", "(TM)", " CPU", " Processor"):
        name = name.replace(noise, "")
    return " ".join(name.split()) or platform.processor() or platform.machine()


def driver_version() -> str:
    """The NVIDIA driver's version, or ``unknown`` where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said[0] if said else "unknown"


def skip_reason(hardware: Hardware, model: str, precisions: tuple[str, ...], workload: str) -> str | None:
    """Why this machine cannot run a cell as labelled, for a user to read; None where it can.

    `precisions` are those loaded at the same time.
    """
    if workload == "fasta" and not os.environ.get(FASTA_VARIABLE):
        return f"set {FASTA_VARIABLE} to a FASTA file of your own proteins to run this workload"
    if workload == "fasta" and (reason := missing("Fasta", "ProteinReader")):
        return reason
    for precision in precisions:
        reason = precision_skip_reason(hardware, precision)
        if reason:
            return reason
    if hardware.device == "cpu" and model != CPU_MODEL:
        return f"{model} is benchmarked on GPUs only, and this machine has none that PyTorch can use"
    slow = [each.upper() for each in precisions if each in hardware.slow]
    if slow and workload not in ON_SLOW_CPUS:
        return f"this CPU has no units for {slow[0]}, which is measured for mixed only"
    tokens = max(LEAST_TOKENS[hardware.device], pass_tokens(model, hardware.device))
    needed = memory_needed(model, precisions, tokens, hardware.device)
    if needed > hardware.memory:
        return (
            f"{model} in {' and '.join(precisions)} needs about {needed / GIB:.1f} GiB; "
            f"{hardware.name} has {hardware.memory / GIB:.1f} GiB free"
        )
    return None


def precision_skip_reason(hardware: Hardware, name: str) -> str | None:
    """Why this machine, or this commit, does not compute in a precision; None where both do."""
    known = find("PRECISIONS")
    if name not in known:
        has = ", ".join(each.upper() for each in known) or "none of the suite's precisions"
        return f"this commit has no {name.upper()}; it has {has}"
    precision = known[name]
    if hardware.device == "cpu":
        mode_of_gpus = f"{name.upper()} is a mode of NVIDIA GPUs, and this machine has none that PyTorch can use"
        return None if precision.on_cpu else mode_of_gpus
    if hardware.capability < precision.capability:
        needed, found = (".".join(map(str, each)) for each in (precision.capability, hardware.capability))
        return f"{name.upper()} needs compute capability {needed}; {hardware.name} has {found}"
    return None


def pass_tokens(model: str, device: str) -> int:
    """The most tokens of a timed pass, if one copy of the workload has no more; so it is one copy on a CPU."""
    return PASS_TOKENS.get(model, 16_384) if device == "cuda" else 1


def memory_needed(model: str, precisions: tuple[str, ...], tokens: int, device: str) -> float:
    """About how many bytes embedding batches of `tokens` takes with the model loaded in each of `precisions`.

    Beside the weights, a layer holds some 24 values for each token and dimension at its widest (the feed-forward's
    4 + 4, queries, keys and values, FP32 copies for the rotation, residuals), of the activations' size; 1 GiB is
    for the libraries.
    """
    shape, known = find("SHAPES")[model], [find("PRECISIONS")[precision] for precision in precisions]
    weights = shape.parameters * sum(each.bytes_per_weight for each in known)
    activation = max(each.activations_on(device).itemsize for each in known)
    return float(weights + 24 * tokens * shape.dim * activation + GIB)
