"""Peers in environments of their own, which the benchmarks make: `python -m benchmarks.peers [NAME ...]`.

Each lies under `.peers/` (or where INSTRUCTGPT_PEERS says) and sees the packages of the interpreter that runs
this through a .pth file behind its own: torch is there once, and a pinned version that differs from the
project's is found first. An environment whose pins have changed is made again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("INSTRUCTGPT_PEERS", ROOT / ".peers"))
OURS = "ours"
"""The name of the project's own interpreter."""


@dataclass(frozen=True)
class Peer:
    """What an environment holds."""

    pins: tuple[str, ...]
    """Requirements, each with its version."""
    over: str = ""
    """Instead of an environment of its own: a folder of these packages, without what they need, which is
    put in front of the packages of this peer."""


@dataclass(frozen=True)
class Interpreter:
    """How a peer's program is started."""

    python: str
    environment: Mapping[str, str] = field(default_factory=dict)


_TRL = ("transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0")
PEERS: dict[str, Peer] = {
    "trl": Peer(("trl==1.16.0", *_TRL)),
    # The last release with PPO; it runs with the packages of the newest.
    "trl-ppo": Peer(("trl==1.12.0",), over="trl"),
    "transformers": Peer(("transformers==5.23.0", "tokenizers==0.23.3")),
    # Wheels of llama.cpp; llama-cpp-python has none and compiles for minutes.
    "llama.cpp": Peer(("xllamacpp==2026.10.11549",)),
    "lm-eval": Peer(("lm_eval==0.4.13", *_TRL)),
}


def interpreter(name: str) -> Interpreter:
    """Peer `name`, made first where it is not there yet; `ours` is the interpreter that runs this.

    Raises:
        KeyError: no such peer.
        subprocess.CalledProcessError: it could not be made; pip has said why on stderr.
    """
    if name == OURS:
        return Interpreter(sys.executable)
    peer = PEERS[name]
    folder = FOLDER / name
    if peer.over:
        below = interpreter(peer.over)
        _once(folder, peer, lambda: _install(below.python, peer, "--no-deps", "--target", str(folder)))
        return Interpreter(below.python, {"PYTHONPATH": str(folder)})
    python = folder / "bin" / "python"
    _once(folder, peer, lambda: _environment(folder, str(python), peer))
    return Interpreter(str(python))


def _once(folder: Path, peer: Peer, make: object) -> None:
    """Make a folder whole, or leave it where it was made of the same pins."""
    stamp, wanted = folder / "made-of.txt", _stamp(peer)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"making {folder} of {', '.join(peer.pins)}", file=sys.stderr)
    assert callable(make)
    make()
    stamp.write_text(wanted, encoding="utf-8")


def _stamp(peer: Peer) -> str:
    """What a folder is made of: its pins, and the interpreter and packages that it looks through to."""
    return "\n".join([*peer.pins, sys.executable, _packages(sys.executable), ""])


def _environment(folder: Path, python: str, peer: Peer) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    link = Path(_packages(python)) / "behind.pth"
    link.write_text(_packages(sys.executable) + "\n", encoding="utf-8")
    _install(python, peer)


def _packages(python: str) -> str:
    """The folder of an interpreter's own packages."""
    if python == sys.executable:
        return sysconfig.get_path("purelib")
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _install(python: str, peer: Peer, *options: str) -> None:
    """pip of the project's interpreter into another one; what it can see already it does not install."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*command, *options, *peer.pins], check=True, stdout=sys.stderr)


def main() -> int:
    """Make the environments named, or all, and say where each is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *PEERS], help="peers; none = all")
    for name in parser.parse_args().names or PEERS:
        found = interpreter(name)
        print(name, found.python, *(f"{key}={value}" for key, value in found.environment.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
