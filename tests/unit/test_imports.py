"""The direction of imports and their weight, over the whole tree, read from the syntax (nothing is imported).

`tools` <- `agents` <- `graphs` <- `distill`, `eval`, `train`; of the last three only `distill` imports freely, and
inside `train` only `rollout` and `reagent` tie training to graphs. Heavy packages are never imported at the top of a
module that `--help`, the graphs or a chat model reach.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tools", "agents", "graphs", "distill", "eval", "train")
ALLOWED = {
    "tools": {"tools"},
    "agents": {"tools", "agents"},
    "graphs": {"tools", "agents", "graphs"},
    "eval": {"tools", "agents", "graphs", "eval", "train"},
    "train": {"tools", "agents", "eval", "train"},
    "distill": set(PACKAGES),
}
EXTRA = {"train.rollout": {"graphs"}, "train.reagent": {"graphs"}}
HEAVY = frozenset(
    {
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "vllm",
        "ray",
        "datasets",
        "e2b",
        "e2b_code_interpreter",
        "pandas",
        "matplotlib",
        "reasoning_gym",
        "sympy",
        "math_verify",
        "bm25s",
        "markitdown",
        "trafilatura",
    }
)
COMMANDS = (
    *("distill.run", "eval.ablations", "eval.best_of_n_command", "eval.refinement", "eval.simulate", "eval.verdicts"),
    *("eval.agent", "eval.judge", "distill.own_graph"),
    "eval.solve",
    "train.probe",
)
LIGHT_ROOTS = (*COMMANDS, "agents.chat", "graphs", "tools.sandbox.factory")

Sources = Mapping[str, str]


def read_sources(root: Path) -> dict[str, str]:
    """Return the source of every module of the packages by dotted name; a package is its `__init__`."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path.read_text(
            encoding="utf-8"
        )
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }


def imported(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    """Yield the dotted names that an import may load: `from a import b` gives `a` and `a.b`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        parent = module.split(".")[: -node.level]
        base = ".".join([*parent, *([node.module] if node.module else [])])
    yield base
    yield from (f"{base}.{alias.name}" for alias in node.names)


def all_imports(source: str, module: str) -> set[str]:
    """Return every import of a module, those inside functions included."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {name for node in nodes for name in imported(node, module)}


def top_imports(source: str, module: str) -> set[str]:
    """Return the imports that run when the module is imported: not in functions, not for type checkers only."""

    def walk(nodes: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield node
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                yield from walk(node.orelse)
            else:
                for field in ("body", "orelse", "finalbody"):
                    yield from walk(getattr(node, field, []))
                for handler in getattr(node, "handlers", []):
                    yield from walk(handler.body)

    return {name for node in walk(ast.parse(source).body) for name in imported(node, module)}


def direction_faults(sources: Sources) -> list[str]:
    """Return one line for each import that points up."""
    faults = []
    for module, source in sources.items():
        package = module.split(".")[0]
        allowed = ALLOWED[package] | EXTRA.get(module, set())
        for name in sorted(all_imports(source, module)):
            top = name.split(".")[0]
            if top in (*PACKAGES, "tests") and top not in allowed:
                faults.append(f"{module} imports {name}")
    return faults


def weight_faults(sources: Sources, roots: tuple[str, ...] = LIGHT_ROOTS) -> list[str]:
    """Return one line for each heavy import that a light root reaches at import time, with the way to it."""
    faults = []
    ways = {m: m for m in sources if any(m == root or m.startswith(f"{root}.") for root in roots)}
    queue = list(ways)
    while queue:
        module = queue.pop()
        loads = {loaded for name in top_imports(sources[module], module) for loaded in parents(name)}
        faults += [f"{ways[module]} imports {name}" for name in sorted(loads & HEAVY)]
        new = sorted(loads & sources.keys() - ways.keys())
        ways |= {name: f"{ways[module]} -> {name}" for name in new}
        queue += new
    return faults


def parents(name: str) -> list[str]:
    """Return the modules that importing a dotted name loads: `a.b.c` loads `a`, `a.b` and `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def test_imports_point_down() -> None:
    assert direction_faults(read_sources(ROOT)) == []


def test_light_modules_stay_light() -> None:
    assert weight_faults(read_sources(ROOT)) == []


def test_package_files_are_empty() -> None:
    sources = read_sources(ROOT)
    packages = {".".join(p.parent.relative_to(ROOT).parts) for n in PACKAGES for p in (ROOT / n).rglob("__init__.py")}
    assert set(PACKAGES) <= packages
    assert [name for name in sorted(packages) if sources[name].strip()] == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("tools.python", "from agents.types import Task", "tools.python imports agents.types"),
        ("agents.chat", "def f():\n    import graphs.state", "agents.chat imports graphs.state"),
        ("graphs.verifier", "from eval import answers", "graphs.verifier imports eval"),
        ("eval.report", "from distill.config import Config", "eval.report imports distill.config"),
        ("train.sft", "import distill", "train.sft imports distill"),
        ("train.sft", "from graphs.verifier import build_verifier", "train.sft imports graphs.verifier"),
        ("distill.run", "from tests.unit import x", "distill.run imports tests.unit"),
        ("tools.sandbox.local", "from ...agents import types", "tools.sandbox.local imports agents"),
    ],
)
def test_a_planted_import_that_points_up_is_found(module: str, source: str, fault: str) -> None:
    assert fault in direction_faults({module: source})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train.rollout", "from graphs.verifier import build_verifier"),
        ("distill.run", "from train.sft import x\nfrom eval.report import y"),
        ("graphs.teacher", "import toolset\nfrom agents.types import Task"),
    ],
)
def test_an_import_that_points_down_is_no_fault(module: str, source: str) -> None:
    assert direction_faults({module: source}) == []


@pytest.mark.parametrize(
    "line",
    [
        "import torch",
        "from transformers import AutoTokenizer",
        "import matplotlib.pyplot as plt",
        "try:\n    import ray\nexcept ImportError:\n    ray = None",
        "if True:\n    import trl",
        "class A:\n    import sympy",
        "with x:\n    import peft",
    ],
)
def test_a_planted_heavy_import_is_found_through_other_modules(line: str) -> None:
    sources = {
        "graphs.verifier": "from agents import engine",
        "agents": "",
        "agents.engine": "import agents.deep.weights",
        "agents.deep": line,
        "agents.deep.weights": "",
    }
    (fault,) = weight_faults(sources)
    assert fault.startswith("graphs.verifier -> agents.engine -> agents.deep imports ")


@pytest.mark.parametrize(
    "line",
    [
        "def f():\n    import torch",
        "async def f():\n    import torch",
        "class A:\n    def f(self):\n        import torch",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "import torchless",
    ],
)
def test_lazy_imports_are_no_fault(line: str) -> None:
    assert weight_faults({"distill.run": line}) == []


def test_heavy_modules_that_no_light_one_reaches_are_no_fault() -> None:
    assert (
        weight_faults({"distill.run": "def f():\n    import train.sft", "train": "", "train.sft": "import torch"}) == []
    )
