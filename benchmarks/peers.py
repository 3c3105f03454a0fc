"""The peers' environments: each peer gets its own venv in ``.venvs/``, with its own versions, so that neither side bends to the other.

``python -m benchmarks.peers NAME`` makes one; a benchmark makes the one it needs by itself.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.harness import HERE

# What each peer is. Pinned, so that a row can be taken again.
PEERS = {
    "datasets": ("datasets==5.2.0", "transformers==5.23.0", "tokenizers==0.23.3"),
    "trainer": ("torch==2.13.0", "transformers==5.23.0", "tokenizers==0.23.3", "accelerate==1.15.0", "numpy==2.4.6"),
}
FOLDER = HERE.parent / ".venvs"
_STAMP = "pins.txt"


def environment(name: str) -> Path:
    """The Python of a peer's environment; made when it is not there yet, or when its pins changed.

    Raises:
        KeyError: No such peer.
        subprocess.CalledProcessError: pip could not install it.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not is_made(name):
        print(f"making the environment of the peer {name} in {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-qq", *PEERS[name]], check=True)
        (folder / _STAMP).write_text(_stamp(name), encoding="utf-8")
    return python


def is_made(name: str) -> bool:
    """Whether a peer's environment is there, with the pins that it has now."""
    stamp = FOLDER / name / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == _stamp(name)


def _stamp(name: str) -> str:
    return "\n".join(PEERS[name]) + "\n"


def versions(name: str) -> dict[str, str]:
    """The versions that a peer's environment pins."""
    return {pin.partition("==")[0]: pin.partition("==")[2] for pin in PEERS[name]}


if __name__ == "__main__":
    print(environment(sys.argv[1] if len(sys.argv) > 1 else next(iter(PEERS))))
