"""What users get: wheel and sdist, and the wheel in an environment of its own, without extras and without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import relqa_loss

# Loaded by a .pth line before anything else runs: no sockets, and none of the extras.
GUARD = """
import socket, sys

EXTRAS = {"PIL", "matplotlib", "piq", "scipy", "torchvision"}
EXTRAS |= {"accelerate", "lightning", "pytorch_lightning", "tensorboard", "torchmetrics", "transformers", "wandb"}

class NoExtras:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def refuse(*args, **kwargs):
    raise OSError("the network is cut off")

sys.meta_path.insert(0, NoExtras())
socket.socket.__init__ = refuse
socket.getaddrinfo = refuse
"""

LOSS = """
import importlib.util, socket, sys
from pathlib import Path

try:
    socket.create_connection(("127.0.0.1", 9))
except OSError as error:
    assert "cut off" in str(error), error
else:
    raise AssertionError("the network is not cut off")

import torch
import relqa_loss
from relqa_loss import RelationalLoss

assert Path(relqa_loss.__file__).is_relative_to(sys.prefix), relqa_loss.__file__
torch.set_num_threads(1)
torch.manual_seed(0)
ref = torch.rand(2, 3, 48, 64)
pred = (ref + 0.1 * torch.randn_like(ref)).requires_grad_()
loss = RelationalLoss()(pred, ref)
loss.backward()
assert loss.ndim == 0 and loss.item() > 0, loss
assert pred.grad.isfinite().all() and pred.grad.abs().sum() > 0
assert RelationalLoss()(ref, ref).item() == 0
print("loss", loss.item())
"""


TYPED = """
from torch import Tensor, nn

from relqa_loss import (
    CheckpointSelector, DistortionEngine, Relation, RelationalLoss, SpatiallyWeightedLoss, Triplet, distort
)


def step(pred: Tensor, ref: Tensor) -> Tensor:
    loss_fn = RelationalLoss(axis_weights={"blur": 2.0}, data_range=(-1, 1))
    relation: Relation = loss_fn.relate(pred, ref)
    names: list[str | None] = relation.dominant()
    weighted = SpatiallyWeightedLoss(nn.L1Loss(reduction="none"), loss_fn, axes=("blur",))
    jpeg: Tensor = distort(ref, "jpeg", 0.5)
    verdict = CheckpointSelector([ref[0]], loss_fn).update([jpeg[0]], tag=1)
    print(names, verdict.decision.upper(), weighted(pred, ref))
    return loss_fn.forward(pred, loss_fn.prepare(ref))


def rendered(engine: DistortionEngine, triplet: Triplet) -> Tensor:
    engine.reconder  # a slip
    return engine.render(triplet.reference, triplet.recipe).distorted
"""


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist and the wheel that is built from it, as releases are."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, repository)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (found,) = built.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel: truly empty before if asked for, else with borrowed dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    (site_packages,) = folder.glob("lib/python*/site-packages")
    if request.config.getoption("empty_environment"):
        run(*pip, "install", "--quiet", "--no-cache-dir", wheel, timeout=3600)
    else:
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
        # Paths come after the environment's own, and .pth files that lie there (editable installs) are not read.
        borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (site_packages / "borrowed.pth").write_text("\n".join([*borrowed, ""]))
    (site_packages / "guard.py").write_text(GUARD)
    (site_packages / "guard.pth").write_text("import guard\n")
    return folder


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 300) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def without_network() -> tuple[str, ...]:
    """Prefix that gives a command a network namespace of its own, where the system has and permits that."""
    prefix = ("unshare", "--map-root-user", "--net")
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        return ()
    return prefix


def bare(home: Path) -> dict[str, str]:
    """The caller's variables without those that could lend the child its modules, its caches or an offline switch."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "TORCH_"))}
    return kept | {"HOME": str(home), "HF_HOME": str(home / "hub")}


def test_the_wheel_holds_the_package_and_its_weights_and_nothing_else(wheel: Path, repository: Path) -> None:
    package = {path.relative_to(repository) for path in (repository / "relqa_loss").rglob("*") if path.is_file()}
    wanted = {path.as_posix() for path in package if path.suffix != ".pyc"}
    weights = repository / "weights"
    wanted |= {
        f"relqa_loss/_weights/{path.relative_to(weights).as_posix()}" for path in weights.rglob("*") if path.is_file()
    }
    assert "relqa_loss/_weights/relqa-v1/config.json" in wanted
    assert "relqa_loss/py.typed" in wanted
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - metadata == wanted
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def files_in(archive: Path) -> dict[str, bytes]:
    """Content by name; of an sdist without its top folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            return {name: opened.read(name) for name in opened.namelist()}
    with tarfile.open(archive) as packed:
        members = {member.name.partition("/")[2]: packed.extractfile(member) for member in packed.getmembers()}
        return {name: stream.read() for name, stream in members.items() if stream is not None}


def test_the_wheel_of_the_sdist_is_that_of_the_checkout(wheel: Path, repository: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, repository)
    (direct,) = tmp_path.glob("*.whl")
    assert files_in(direct) == files_in(wheel)


def test_the_sdist_holds_what_the_tests_and_pages_need_and_nothing_private(sdist: Path, repository: Path) -> None:
    names = set(files_in(sdist))
    outside = {name for name in names - {"PKG-INFO"} if not (repository / name).is_file()}
    assert not outside
    tops = {PurePosixPath(name).parts[0] for name in names}
    folders = {"relqa_loss", "weights", "tests", "examples", "benchmarks", "docs"}
    files = {"Makefile", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "PKG-INFO", "pyproject.toml"}
    assert tops == folders | files | {"mkdocs.yml", ".gitignore", ".pre-commit-config.yaml"}
    wrong = {name for name in names if name.endswith((".pyc", ".pt", ".pth", ".ckpt", ".log", ".whl"))}
    assert not wrong and "__pycache__" not in " ".join(names)
    assert {"tests/test_wheel.py", "docs/start.md", "weights/relqa-v1/predictor.safetensors"} <= names
    assert sdist.stat().st_size < 20e6


def test_the_wheel_carries_the_version_of_the_package(wheel: Path) -> None:
    assert wheel.name.startswith(f"relqa_loss-{relqa_loss.__version__}-")


def test_the_index_shows_the_readme_without_links_that_only_a_clone_has(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        head, _, shown = opened.read(name).decode("utf-8").partition("\n\n")
    assert "\nDescription-Content-Type: text/markdown" in head
    assert not [target for target in re.findall(r"\]\(([^)]*)\)", shown) if not re.match(r"https?:", target)]
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert "](docs/start.md)" in readme and "| start, in five minutes | docs/start.md |" in shown
    assert readme.partition("```python")[2].partition("```")[0] in shown


def test_the_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 20e6


def test_the_loss_works_from_the_wheel_without_extras_and_network(environment: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LOSS)
    python = environment / "bin" / "python"
    assert run(*without_network(), python, script, cwd=tmp_path, env=bare(tmp_path)).startswith("loss ")


def test_the_command_line_helps_without_extras(environment: Path, tmp_path: Path) -> None:
    assert "usage: relqa" in run(environment / "bin" / "relqa", "--help", cwd=tmp_path, env=bare(tmp_path))


def test_a_users_code_is_typed_against_the_wheel(environment: Path, repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "typed.py").write_text(TYPED)
    # The options of `make check`, whose cache holds torch already: reading all of it takes a minute.
    options = ("--config-file", repository / "pyproject.toml", "--cache-dir", repository / ".mypy_cache")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--python-executable", environment / "bin" / "python", "typed.py"],
        cwd=tmp_path,
        env=bare(tmp_path),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    slip = TYPED[: TYPED.index("reconder")].count("\n") + 1
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and errors[0].startswith(f"typed.py:{slip}: error:"), done.stdout + done.stderr
    assert "reconder" in errors[0] and "import-untyped" not in done.stdout
