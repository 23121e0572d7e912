"""Makes the environments of peers: one venv each under `.peers/`, the same torch as ours.

A peer is installed with our constraints, so that both sides run on the same torch, transformers
and peft; only what the peer itself needs in another version is left to it. `PIP_ARGS` reaches pip,
for an index of your own. An environment that is there already is left as it is.

    make peers                                 all of them
    python benchmarks/peers.py trl-1.12        one of them; prints its interpreter
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
FOLDER = PROJECT / ".peers"


@dataclass(frozen=True)
class Peer:
    """What is installed to measure a peer.

    Attributes:
        package: Its name on PyPI.
        version: The version compared with.
        extras: Its optional dependencies that are needed.
        unpinned: Packages that our constraints fix at a version this peer cannot use.
    """

    package: str
    version: str
    extras: str = ""
    unpinned: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        extras = f"[{self.extras}]" if self.extras else ""
        return f"{self.package}{extras}=={self.version}"


PEERS = {
    "trl-1.12": Peer("trl", "1.12.0", extras="peft", unpinned=("trl",)),
    "lm-eval": Peer("lm-eval", "0.4.13", extras="hf"),
}


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment, which is made now if it is missing.

    Raises:
        SystemExit: There is no such peer, or pip could not install it.
    """
    if name not in PEERS:
        raise SystemExit(f"no peer {name!r}; allowed: {', '.join(PEERS)}")
    peer, python = PEERS[name], FOLDER / name / "bin" / "python"
    if installed_version(python, peer.package) != peer.version:
        install(peer, python)
    return python


def installed_version(python: Path, package: str) -> str | None:
    """The version of a package in an environment; None without environment or package."""
    if not python.exists():
        return None
    code = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def install(peer: Peer, python: Path) -> None:
    """Make the environment and install the peer into it.

    Raises:
        SystemExit: venv or pip failed; what they said is above.
    """
    pins = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(kept_pins(pins, peer.unpinned))
        constraints.flush()
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        own = shlex.split(os.environ.get("PIP_ARGS", ""))
        commands = (
            [sys.executable, "-m", "venv", str(python.parents[1])],
            [*pip, *own, "-c", constraints.name, peer.requirement],
        )
        for command in commands:
            if subprocess.run(command, stdout=sys.stderr).returncode:
                raise SystemExit(f"could not install {peer.requirement}: {shlex.join(command)}")


def kept_pins(constraints: str, unpinned: tuple[str, ...]) -> str:
    """Constraints without the lines of the packages named; torch always stays."""
    dropped = {name.lower() for name in unpinned} - {"torch"}
    lines = constraints.splitlines(keepends=True)
    return "".join(line for line in lines if line.split("==")[0].lower() not in dropped)


def main() -> None:
    """Make the named environments, or all, and print their interpreters."""
    for name in sys.argv[1:] or PEERS:
        print(peer_python(name))


if __name__ == "__main__":
    main()
