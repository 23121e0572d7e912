"""What this machine offers - device, number formats, memory, versions - and what that allows."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import NamedTuple

TESTED = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "trl": "1.16.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "scikit-learn": "1.9.1",
    "sacrebleu": "2.6.0",
    "fairlearn": "0.15.0",
    "evaluate": "0.4.6",
}
"""Versions the suite passes with: those of constraints.txt."""
GIB = 2**30


class Finding(NamedTuple):
    """One line of the examination."""

    name: str
    text: str


def examine(configs: Path = Path("configs")) -> list[Finding]:
    """Look at the machine; nothing is downloaded, loaded or changed.

    Args:
        configs: Folder whose runs are listed with the hardware they name in their first lines.
    """
    memory = memory_bytes()
    disk = shutil.disk_usage(".").free
    return [
        Finding("python", f"{platform.python_version()} on {platform.platform()}"),
        *_torch_findings(),
        Finding("cores", f"{cores()}"),
        Finding("memory", f"{memory / GIB:.1f} GiB"),
        Finding("disk", f"{disk / GIB:.1f} GiB free here"),
        *(_version_finding(name, tested) for name, tested in TESTED.items()),
        Finding("network", _network()),
        Finding("room", _room(memory)),
        *_config_findings(configs),
    ]


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or its control group's if that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    group = Path("/sys/fs/cgroup/memory.max")
    if group.is_file() and (text := group.read_text().strip()) != "max":
        limits.append(int(text))
    return min(limits)


def _torch_findings() -> list[Finding]:
    """Device and number formats, where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        return [Finding("device", "unknown: torch is not installed")]
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        bf16 = "yes" if torch.cuda.is_bf16_supported() else "no"
        return [Finding("device", f"cuda: {', '.join(names)}"), Finding("bfloat16", bf16)]
    if torch.backends.mps.is_available():
        return [Finding("device", "mps"), Finding("bfloat16", "yes")]
    return [Finding("device", "cpu"), Finding("bfloat16", _cpu_bfloat16())]


def _cpu_bfloat16() -> str:
    """Whether this processor multiplies bfloat16 in hardware."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    found = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if found:
        return f"in hardware ({', '.join(found)})"
    return "only emulated here, slower than float32"


def _version_finding(name: str, tested: str) -> Finding:
    """Installed version of a package against the tested one."""
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, f"not installed (tested: {tested})")
    same = found.split("+")[0] == tested
    return Finding(name, found if same else f"{found} (tested: {tested})")


def _network() -> str:
    """Whether the hub's client may use the network."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return "off (HF_HUB_OFFLINE=1)"
    return "used only by runs that name a hub id"


def _room(memory: int) -> str:
    """Rule of thumb: LoRA stages hold the weights once, and need as much again to work."""
    parts = [
        f"{memory / 2 / size / 1e9:.1f} billion parameters in {name}"
        for name, size in (("float32", 4), ("bfloat16", 2))
    ]
    return f"LoRA stages up to about {' or '.join(parts)} on the CPU"


def _config_findings(folder: Path) -> list[Finding]:
    """Each run's own words on the hardware it was measured on."""
    findings = []
    for path in sorted(folder.glob("*.yaml")):
        head = path.read_text(encoding="utf-8").splitlines()[:12]
        named = [line.lstrip("# ") for line in head if "ardware" in line and line.startswith("#")]
        findings.append(Finding("run", f"{path}  {named[0] if named else ''}".rstrip()))
    return findings
