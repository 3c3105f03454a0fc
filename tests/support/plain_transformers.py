"""Python processes in which transformers is there and raybert's packages are not: who a bundle has to work for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PREAMBLE = f"""
import sys, importlib.util
sys.path = [entry for entry in sys.path if entry != {str(ROOT)!r}]
assert not any(importlib.util.find_spec(name) for name in ("foundation", "encoder", "training", "serving"))
"""


def run_without_us(code: str, cwd: Path) -> str:
    """Run ``code``; returns the last line of what it printed.

    Raises:
        AssertionError: It failed; holds its stderr.
    """
    # An editable install puts the checkout on sys.path; -I keeps the rest of the environment out.
    done = subprocess.run([sys.executable, "-I", "-c", _PREAMBLE + code], capture_output=True, text=True, cwd=cwd, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
