"""What users get: the built wheel, in an environment of its own, without extras and without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

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


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, repository)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, which finds the dependencies where this interpreter has them."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "guard.py").write_text(GUARD)
    # The paths come after the environment's own, and .pth files that lie there (editable installs) are not read.
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site_packages / "borrowed.pth").write_text("\n".join([*borrowed, "import guard", ""]))
    return folder


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
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


def test_the_wheel_carries_the_version_of_the_package(wheel: Path) -> None:
    assert wheel.name.startswith(f"relqa_loss-{relqa_loss.__version__}-")


def test_the_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 20e6


def test_the_loss_works_from_the_wheel_without_extras_and_network(environment: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LOSS)
    python = environment / "bin" / "python"
    assert run(*without_network(), python, script, cwd=tmp_path, env=bare(tmp_path)).startswith("loss ")


def test_the_command_line_helps_without_extras(environment: Path, tmp_path: Path) -> None:
    assert "usage: relqa" in run(environment / "bin" / "relqa", "--help", cwd=tmp_path, env=bare(tmp_path))
