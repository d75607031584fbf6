"""The house rules: floors, no cycles, `__init__` files of names only, no `print`, an import without side effects."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ttvi"

# Every module has a floor and imports from floors below it. A package listed here stands for all of its files;
# within a package of PEERS, files of the same floor may import each other.
FLOORS = {
    "ttvi.errors": 0,
    "ttvi.typing": 0,
    "ttvi.constraints": 1,
    "ttvi.calling": 1,
    "ttvi.tt.arguments": 1,
    "ttvi.tt.contraction": 1,
    "ttvi.tt.basis": 1,
    "ttvi.tt.cache": 1,
    "ttvi.coordinates": 2,
    "ttvi.prior": 2,
    "ttvi.known_points": 2,
    "ttvi.evaluation_log": 2,
    "ttvi.executors": 2,
    "ttvi.tt.train": 2,
    "ttvi.tt.pivots": 2,
    "ttvi.tt.report": 2,
    "ttvi.tt.algebra": 3,
    "ttvi.tt.interop": 3,
    "ttvi.tt.canonical": 4,
    "ttvi.tt.guard": 5,
    "ttvi.tt.rivals": 5,
    "ttvi.tt.squared": 5,
    "ttvi.tt.sweep": 5,
    "ttvi.tt.ascent": 6,
    "ttvi.tt.cross": 6,
    "ttvi.tt.mixture": 6,
    "ttvi.tt.storage": 6,
    "ttvi.tt.conditioning": 7,
    "ttvi.tt.cross_function": 7,
    "ttvi.tt.optimum": 7,
    "ttvi.tt.rebase": 7,
    "ttvi.tt.regression": 7,
    "ttvi.tt.request": 7,
    "ttvi.tt.rosenblatt": 7,
    "ttvi.tt.sample_bases": 7,
    "ttvi.tt.sample_request": 7,
    "ttvi.tt.slices": 7,
    "ttvi.tt.arithmetic": 8,
    "ttvi.tt.fitting": 8,
    "ttvi.tt.likelihood": 8,
    "ttvi.tt.measure": 8,
    "ttvi.tt.surrogate": 8,
    "ttvi.tt.density": 9,
    "ttvi.tt.function": 9,
    "ttvi.diagnostics": 10,
    "ttvi.records": 10,
    "ttvi.estimates": 11,
    "ttvi.verdict": 11,
    "ttvi.corrected": 12,
    "ttvi.named": 12,
    "ttvi.summary": 13,
    "ttvi.posterior": 14,
    "ttvi.flow": 11,
    "ttvi.plots": 11,
    "ttvi.problems": 12,
    "ttvi.supports": 11,
    "ttvi.target": 12,
    "ttvi.evaluation": 11,
    "ttvi.geometry": 13,
    "ttvi.stages": 15,
    "ttvi.inference": 16,
    "ttvi.cli": 17,
}
PEERS = {"ttvi.flow", "ttvi.geometry", "ttvi.problems", "ttvi.stages", "ttvi.tt.basis"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in NAMES.items()}
PLAIN = [name for name, path in NAMES.items() if path.name != "__init__.py"]
INITS = [name for name, path in NAMES.items() if path.name == "__init__.py"]


def floor_key(name: str) -> str | None:
    """The entry of FLOORS that stands for a module: itself or the package around it."""
    while name and name not in FLOORS:
        name = name.rpartition(".")[0]
    return name or None


def floor(name: str) -> int:
    """Floor of a module; a package without an entry (`ttvi.tt`) is as high as the highest file it may hold."""
    key = floor_key(name)
    return FLOORS[key] if key else max(value for other, value in FLOORS.items() if other.startswith(name + "."))


def imports(name: str) -> set[str]:
    """The ttvi modules that a file imports anywhere, function bodies included."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".") if name in INITS else name.split(".")[:-1]
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join(parts + ([node.module] if node.module else []))
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in NAMES else base)
    return {other for other in found if other in NAMES} - {name}


def test_there_are_modules():
    assert "ttvi" in INITS
    assert len(PLAIN) > 10


@pytest.mark.parametrize("name", PLAIN)
def test_every_file_has_a_floor(name):
    assert floor_key(name), f"{name} has no floor: give it one in FLOORS in {Path(__file__).name}."


def test_every_floor_is_inhabited_and_in_the_table_of_contributing():
    assert set(FLOORS) == {floor_key(name) for name in PLAIN}
    table = {}
    for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines():
        number, files = (line.split("|") + ["", ""])[1:3]
        if number.strip().isdecimal():
            paths = [text.strip(" `") for text in files.split(",")]
            table |= {path.removesuffix(".py").rstrip("/").replace("/", "."): int(number) for path in paths}
    assert table == FLOORS


@pytest.mark.parametrize("name", PLAIN)
def test_imports_come_from_lower_floors(name):
    for other in imports(name):
        key = floor_key(other)
        if key in PEERS and key == floor_key(name):
            continue
        assert floor(other) < floor(name), f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})."


def test_no_cycles():
    done, trail = set(), []

    def visit(name: str) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        trail.append(name)
        for other in sorted(imports(name)):
            # `from package import name` inside that package reads its __init__, which imports the file in turn.
            if other in PLAIN:
                visit(other)
        trail.pop()
        done.add(name)

    for name in PLAIN:
        visit(name)
    assert done == set(PLAIN)


@pytest.mark.parametrize("name", INITS)
def test_init_files_hold_names_only(name):
    def is_name(node: ast.stmt) -> bool:
        if isinstance(node, ast.Import | ast.ImportFrom):
            return True
        if isinstance(node, ast.Assign):
            return all(isinstance(t, ast.Name) and t.id in {"__all__", "__version__"} for t in node.targets)
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

    for node in TREES[name].body:
        assert is_name(node), f"{NAMES[name]}:{node.lineno}: {ast.unparse(node)[:60]}"


@pytest.mark.parametrize("name", PLAIN)
def test_print_stays_in_the_command_line(name):
    calls = [
        node.lineno
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert name == "ttvi.cli" or not calls, f"{NAMES[name]}:{calls[0]}: print"


@pytest.mark.parametrize("name", PLAIN)
def test_every_module_says_what_it_is_for(name):
    assert ast.get_docstring(TREES[name]), f"{NAMES[name]} has no docstring."


SIDE_EFFECTS = """
import random, warnings
import numpy as np
import opt_einsum, scipy.optimize, scipy.special, torch  # what the dependencies do themselves is not ours

torch.manual_seed(7)
def state():
    return (
        torch.get_default_dtype(), torch.get_default_device(), torch.get_rng_state().tolist(), random.getstate(),
        np.random.get_state()[1].tolist(), list(warnings.filters), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.distributions.Distribution.has_rsample, np.geterr(), torch.get_float32_matmul_precision(),
        torch.distributions.Distribution._validate_args, sorted(vars(torch.Tensor)),
    )
before = state()
import ttvi
after = state()
assert before == after, [(a, b) for a, b in zip(before, after) if a != b]
"""


def test_importing_changes_no_global():
    result = subprocess.run([sys.executable, "-c", SIDE_EFFECTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_needs_no_extra():
    """arviz, matplotlib, safetensors and tntorch are loaded by the functions that use them."""
    program = (
        "import sys; import ttvi, ttvi.plots, ttvi.cli; "
        "assert not {'arviz', 'matplotlib', 'safetensors', 'tntorch'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
