"""What must start fast imports nothing heavy: checked in a fresh interpreter, third-party packages included."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_imports import COMMANDS, HEAVY

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
GRAPHS = sorted(f"graphs.{path.stem}" for path in (ROOT / "graphs").glob("[!_]*.py"))


def heavy_after(statement: str) -> list[str]:
    """Return the heavy modules that a statement loads in a fresh interpreter."""
    program = f"{statement}; import sys; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return sorted(HEAVY & set(done.stdout.split()))


def test_nothing_heavy_is_loaded() -> None:
    modules = ("tools.sandbox.factory", "agents.chat", "agents.models", "eval.report", "eval.results", "distill.plan")
    light = [*COMMANDS, *modules, "distill.own_rows", "train.inputs", *GRAPHS]
    assert heavy_after(f"import {', '.join(light)}") == []


def test_the_check_sees_a_heavy_module() -> None:
    assert heavy_after("import sympy") == ["sympy"]


def test_importing_the_registry_loads_nothing_heavy() -> None:
    heavy = ("openai", "mcp", "torch", "httpx2", "aiohttp", "jsonschema", "tools.search", "tools.browse", "tools.files")
    code = f"import sys, tools.registry; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
