"""The rules of the house: who may import whom, what an import loads, who may print."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import relqa_loss

PACKAGE = Path(relqa_loss.__file__).parent
NAME = "relqa_loss"

# Rooms by floor: a room imports from lower floors, and from its own floor where NEIGHBOURS says so.
FLOORS: tuple[tuple[str, ...], ...] = (
    (
        "relation",
        "validation",
        "layers",
        "displacement",
        "local_statistics",
        "competition",
        "decoder",
        "words",
        "pixels",
        "images",
        "pairing",
        "settings",
        "prepared",
        "spatial_weights",
        "hub",
        "markdown",
        "files",
        "modes",
    ),
    ("predictor", "scorer", "weights"),
    ("digests",),
    ("losses", "tiles", "whole_pair", "weighted", "distortions"),
    (
        "selection",
        "figures",
        "figures_distortions",
        "figures_failures",
        "figures_growth",
        "figures_methods",
        "figures_recovery",
        "figures_restoration",
        "figures_severity",
        "figures_training",
        "places",
        "report",
    ),
    ("training", "evaluation", "demo"),
    ("restoration",),
    ("cli", "integrations"),
)
NEIGHBOURS = {
    ("relation", "validation"),
    ("layers", "validation"),
    ("layers", "relation"),
    ("displacement", "layers"),
    ("displacement", "relation"),
    ("local_statistics", "layers"),
    ("competition", "layers"),
    ("competition", "local_statistics"),
    ("competition", "relation"),
    ("decoder", "displacement"),
    ("decoder", "local_statistics"),
    ("decoder", "layers"),
    ("decoder", "relation"),
    ("words", "relation"),
    ("words", "validation"),
    ("pixels", "validation"),
    ("images", "files"),
    ("images", "pixels"),
    ("images", "validation"),
    ("pairing", "images"),
    ("settings", "relation"),
    ("settings", "validation"),
    ("spatial_weights", "layers"),
    ("spatial_weights", "relation"),
    ("spatial_weights", "settings"),
    ("predictor", "weights"),
    ("scorer", "weights"),
    ("scorer", "predictor"),
    ("losses", "tiles"),
    ("losses", "whole_pair"),
    ("weighted", "losses"),
    ("training", "evaluation"),
    ("demo", "evaluation"),
    ("report", "figures"),
    ("report", "places"),
    ("figures_distortions", "figures"),
    ("figures_failures", "figures"),
    ("figures_recovery", "figures"),
    ("figures_recovery", "figures_failures"),
    ("figures_growth", "figures"),
    ("figures_methods", "figures"),
    ("figures_methods", "figures_training"),
    ("figures_training", "figures"),
    ("figures_restoration", "figures"),
}
# What a room asks of one above it, inside a function: a relation that is told to draw itself finds out how then.
ON_CALL = {("relation", "figures"), ("relation", "words")}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

CORE = {"torch", "numpy", "safetensors", "huggingface_hub"}
# What a room may import beyond CORE, and only when it is needed: inside a function.
ON_DEMAND = {
    "images": {"PIL"},
    "pixels": {"PIL", "imagecodecs", "tifffile"},
    "figures": {"matplotlib"},
    "figures_distortions": {"matplotlib"},
    "figures_failures": {"matplotlib"},
    "figures_recovery": {"matplotlib"},
    "figures_growth": {"matplotlib"},
    "figures_methods": {"matplotlib"},
    "figures_training": {"matplotlib"},
    "relation": {"matplotlib"},
    "figures_restoration": {"matplotlib"},
    "figures_severity": {"matplotlib"},
    "distortions": {"PIL", "piq"},
    "evaluation": {"openpyxl", "pytorch_msssim", "scipy"},
    "cli": {"tqdm"},
}
# torchvision comes along with piq.
EXTRAS = {
    *("PIL", "matplotlib", "openpyxl", "piq", "pytorch_msssim", "scipy", "torchvision"),
    *("accelerate", "lightning", "pytorch_lightning", "tensorboard", "torchmetrics", "transformers", "wandb"),
    *("imagecodecs", "tifffile"),
    *("stlpips_pytorch", "pycvvdp", "ssimulacra2", "flip_evaluator"),
}


@dataclass(frozen=True)
class Import:
    module: str  # dotted, absolute
    line: int
    on_demand: bool  # inside a function or under TYPE_CHECKING


@dataclass(frozen=True)
class Source:
    path: Path
    module: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return room_of(self.module)

    def imports(self) -> Iterator[Import]:
        yield from self._walk(self.tree, on_demand=False)

    def _walk(self, node: ast.AST, on_demand: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, on_demand)
            elif isinstance(child, ast.ImportFrom):
                for module in self._targets(child):
                    yield Import(module, child.lineno, on_demand)
            else:
                deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                )
                yield from self._walk(child, on_demand or deferred)

    def _targets(self, node: ast.ImportFrom) -> list[str]:
        if node.level == 0:
            base = node.module or ""
        else:
            package = self.module.split(".")
            if self.path.name != "__init__.py":
                package = package[:-1]
            base = ".".join(package[: len(package) - node.level + 1] + ([node.module] if node.module else []))
        if base != NAME:
            return [base]
        # `from . import name`: a room, or a name that the package root holds.
        return [f"{NAME}.{alias.name}" for alias in node.names]


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def read_sources() -> list[Source]:
    sources = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources.append(Source(path, module, ast.parse(path.read_text(encoding="utf-8"))))
    return sources


SOURCES = read_sources()


def each_source(*, but: str) -> pytest.MarkDecorator:
    chosen = [source for source in SOURCES if source.room != but]
    return pytest.mark.parametrize("source", chosen, ids=[source.module for source in chosen])


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_walk_sees_the_package() -> None:
    assert {"relqa_loss", "relqa_loss.relation", "relqa_loss.distortions.record"} <= {s.module for s in SOURCES}
    relation = next(source for source in SOURCES if source.module == "relqa_loss.relation")
    assert {"relqa_loss.validation", "torch"} <= {found.module for found in relation.imports()}


def test_every_room_has_a_floor() -> None:
    assert {source.room for source in SOURCES} - {"__init__"} <= FLOOR.keys()


@each_source(but="__init__")
def test_arrows_point_one_way(source: Source) -> None:
    wrong = []
    for found in source.imports():
        if found.module.split(".")[0] != NAME:
            continue
        target = room_of(found.module)
        if target in ("__version__", source.room):
            continue
        above = target not in FLOOR or target == "integrations" or FLOOR[target] >= FLOOR[source.room]
        asked = found.on_demand and (source.room, target) in ON_CALL
        if above and not asked and (source.room, target) not in NEIGHBOURS:
            wrong.append(f"{source.path.name}:{found.line} imports {found.module}")
    assert not wrong


def test_the_package_root_loads_only_the_core() -> None:
    root = next(source for source in SOURCES if source.module == NAME)
    eager = {room_of(found.module) for found in root.imports() if not found.on_demand and found.module.startswith(NAME)}
    assert eager <= {"losses", "predictor", "relation", "scorer", "weighted"}


def test_integrations_do_not_import_one_another() -> None:
    prefix = f"{NAME}.integrations."
    siblings = [
        f"{source.module} imports {found.module}"
        for source in SOURCES
        if source.room == "integrations"
        for found in source.imports()
        if found.module.startswith(prefix) and found.module not in (source.module, f"{prefix}common")
    ]
    assert not siblings


@each_source(but="integrations")
def test_third_party_imports_stay_in_their_rooms(source: Source) -> None:
    wrong = []
    for found in source.imports():
        top = found.module.split(".")[0]
        if top == NAME or top in CORE or top in sys.stdlib_module_names:
            continue
        if not (found.on_demand and top in ON_DEMAND.get(source.room, set())):
            wrong.append(f"{source.path.name}:{found.line} imports {found.module}")
    assert not wrong


def test_every_third_party_import_is_declared() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    declared = {re.split(r"[\[<>=~! ]", requirement)[0].replace("-", "_") for requirement in requirements}
    # pytorch_lightning is the other name under which lightning is installed.
    distributions = {"PIL": "pillow", "pytorch_lightning": "lightning"}
    imported = {found.module.split(".")[0] for source in SOURCES for found in source.imports()}
    imported -= {NAME, *sys.stdlib_module_names}
    assert {distributions.get(name, name) for name in imported} <= declared


@each_source(but="cli")
def test_only_the_command_line_prints(source: Source) -> None:
    prints = [
        f"{source.path.name}:{node.lineno}"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints


@pytest.mark.parametrize(
    ("integration", "frameworks"),
    [
        ("lightning", ["lightning", "pytorch_lightning"]),
        ("torchmetrics", ["torchmetrics"]),
        ("torchvision", ["torchvision"]),
        ("wandb", ["wandb"]),
    ],
)
def test_a_missing_framework_is_one_line_that_names_its_extra(integration: str, frameworks: list[str]) -> None:
    said = run_python(
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({frameworks}))\n"
        "try:\n"
        f"    importlib.import_module('relqa_loss.integrations.{integration}')\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    assert re.fullmatch(rf'this needs .+: pip install "relqa_loss\[{integration}\]"\n', said)


@pytest.mark.parametrize("integration", ["accelerate", "tensorboard", "transformers"])
def test_what_is_handed_the_users_own_object_imports_no_framework(integration: str) -> None:
    loaded = run_python(
        f"import sys\nimport relqa_loss.integrations.{integration}\n"
        "print('\\n'.join(name.split('.')[0] for name in sys.modules))"
    ).split()
    assert "relqa_loss" in loaded and EXTRAS.isdisjoint(loaded)


def test_import_is_light_and_opens_no_socket() -> None:
    loaded = run_python(
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('a socket was opened')\n"
        "socket.socket.__init__ = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "import relqa_loss\n"
        "print('\\n'.join(sys.modules))"
    ).split()
    assert "relqa_loss" in loaded
    heavy = {"relqa_loss.distortions", "relqa_loss.selection", "relqa_loss.figures", "relqa_loss.cli", *EXTRAS}
    assert heavy.isdisjoint(loaded)


def test_the_socket_guard_would_notice() -> None:
    with pytest.raises(AssertionError, match="a socket was opened"):
        run_python(
            "import socket\n"
            "def refuse(*args, **kwargs): raise AssertionError('a socket was opened')\n"
            "socket.socket.__init__ = refuse\n"
            "socket.socket()"
        )


def test_public_names_resolve_and_are_listed() -> None:
    for name in relqa_loss.__all__:
        assert getattr(relqa_loss, name) is not None
        assert name in dir(relqa_loss)


def test_lazy_names_are_the_ones_of_their_homes() -> None:
    from relqa_loss import distortions, selection

    assert relqa_loss.DistortionEngine is distortions.DistortionEngine
    assert relqa_loss.distort is distortions.distort
    assert relqa_loss.CheckpointSelector is selection.CheckpointSelector


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'relqa_loss' has no attribute 'RelationalLos'"):
        relqa_loss.RelationalLos  # noqa: B018
