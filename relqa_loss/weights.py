"""Weights: where they are found, whether they are whole, and how they are written.

A weights folder holds four files, and may hold a fifth:

- ``config.json``: ``format_version``, the sections ``predictor`` and ``scorer`` (constructor arguments), ``files``
  (file name -> sha256, hexadecimal) and ``provenance`` (free);
- ``predictor.safetensors`` and ``scorer.safetensors``: the tensors;
- ``README.md``: the model card;
- ``failures.webp``, not always there: a figure that the card refers to. Nothing but the card needs it.

Only safetensors are read, and only after their sha256 has been compared with ``config.json``.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from . import hub
from .files import whole_files
from .validation import unknown_name

FORMAT_VERSION = 7
CONFIG_FILE = "config.json"
PREDICTOR_FILE = "predictor.safetensors"
SCORER_FILE = "scorer.safetensors"
CARD_FILE = "README.md"
FIGURE_FILE = "failures.webp"
FILES = (CONFIG_FILE, PREDICTOR_FILE, SCORER_FILE, CARD_FILE)

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Weights:
    """What a weights folder holds, verified.

    Attributes:
        config: the content of ``config.json``; its sections ``predictor`` and ``scorer`` are dicts of constructor
            arguments, with lists where tuples were saved.
        predictor: tensors of the predictor by state-dict key, on the CPU.
        scorer: tensors of the scorer by state-dict key, on the CPU.
        folder: where they were read from.
        sha256: hexadecimal digest of each safetensors file by file name.
        revision: the commit on the Hub that they are from; None for bundled weights and folders.
    """

    config: dict[str, Any]
    predictor: dict[str, Tensor]
    scorer: dict[str, Tensor]
    folder: Path
    sha256: dict[str, str]
    revision: str | None = None


def bundled() -> tuple[str, ...]:
    """Names of the weights that travel with the package, sorted."""
    return tuple(sorted(_bundled_folders()))


def resolve(weights: str | os.PathLike[str]) -> Path | hub.HubName:
    """What a name or a path stands for; opens no socket.

    Args:
        weights: a bundled name, else an existing folder, else ``owner/name[@revision]`` on the Hugging Face Hub, tried
            in that order. A path object is never a name on the Hub.

    Returns:
        An existing folder, in which :func:`load` checks what there is, or a name on the Hub, where nobody has looked.

    Raises:
        TypeError: neither a string nor a path.
        ValueError: stands for nothing of the three.
    """
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(f"weights must be a str or a path, got {type(weights).__name__}")
    name = os.fspath(weights)
    folders = _bundled_folders()
    if name in folders:
        return folders[name]
    if name and Path(name).is_dir():
        return Path(name)
    hub_name = hub.HubName.parse(name)
    if hub_name is None or not isinstance(weights, str):
        raise ValueError(
            unknown_name("weights", name, sorted(folders))
            + "; an existing folder or owner/name[@revision] on the Hub would also do"
        )
    return hub_name


def at_revision(name: str | os.PathLike[str], revision: str) -> str:
    """``name@revision`` for a name on the Hub.

    Raises:
        ValueError: ``name`` is a bundled name, a path or a folder that is there, which have no revisions, or has one.
    """
    local = not isinstance(name, str) or name in bundled() or Path(name).is_dir()
    parsed = None if local else hub.HubName.parse(os.fspath(name))
    if parsed is None or parsed.revision is not None:
        raise ValueError(f"a revision goes with owner/name on the Hub, got {os.fspath(name)!r} and {revision!r}")
    return str(hub.HubName(parsed.repo, revision))


def fetch(weights: str | os.PathLike[str]) -> Weights:
    """Find weights, from the Hub too, and load them; arguments as for :func:`resolve`.

    Raises:
        TypeError: as :func:`resolve`.
        ValueError: as :func:`resolve` and :func:`load`; the Hub has no such repository or revision, or it holds no
            weights of this package.
        OSError: the Hub refuses (``PermissionError``), cannot be reached (``ConnectionError``) or fails otherwise.
    """
    found = resolve(weights)
    if isinstance(found, Path):
        return load(found)
    try:
        snapshot = hub.download(found, [*FILES, FIGURE_FILE])
    except (ValueError, ConnectionError) as error:
        # What was meant may be a folder, mistyped.
        raise type(error)(
            f"weights {str(found)!r}: not bundled ({', '.join(bundled())}), no folder of that name, and {error}"
        ) from error
    where = f"{found} on the Hub (commit {snapshot.commit})"
    if not (snapshot.folder / CONFIG_FILE).is_file():
        raise ValueError(f"{where} does not hold weights of relqa_loss: it has no {CONFIG_FILE}")
    try:
        return replace(load(snapshot.folder), revision=snapshot.commit)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; to download it anew, remove {snapshot.cache}") from error


def load(folder: str | os.PathLike[str]) -> Weights:
    """Read a weights folder; each file is compared with its sha256 before anything in it is used.

    Args:
        folder: a folder as :func:`save` writes it.

    Raises:
        ValueError: a file is missing, unreadable or not the one that ``config.json`` describes, or ``config.json``
            lacks a section; the message names the file.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    predictor, predictor_digest = _read_tensors(folder / PREDICTOR_FILE, config["files"])
    scorer, scorer_digest = _read_tensors(folder / SCORER_FILE, config["files"])
    digests = {PREDICTOR_FILE: predictor_digest, SCORER_FILE: scorer_digest}
    return Weights(config=config, predictor=predictor, scorer=scorer, folder=folder, sha256=digests)


def save(
    folder: str | os.PathLike[str],
    *,
    predictor: Mapping[str, Tensor],
    predictor_config: Mapping[str, Any],
    scorer: Mapping[str, Tensor],
    scorer_config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    card: str | None = None,
    figure: bytes | None = None,
) -> None:
    """Write the files of a weights folder; equal arguments give equal bytes.

    Nothing is replaced before everything is written, so that a full disk changes nothing. Then each file is replaced in
    one step and ``config.json`` comes last: a reader of a save that was killed there finds the old weights or a digest
    that does not match, never a silent mixture.

    Args:
        folder: created where it does not exist; other files in it are left alone, but a figure of the weights that
            were there before goes.
        predictor: state dict of the predictor, on any device.
        predictor_config: its constructor arguments, as JSON can hold them.
        scorer: state dict of the scorer, on any device.
        scorer_config: its constructor arguments, as JSON can hold them.
        provenance: where the weights come from (recipe, seed, data list, ...), as JSON can hold it.
        card: text of the model card; None writes a short one that states the provenance and claims no figures.
        figure: the card's figure, as the bytes of a WebP file, or None for none.

    Raises:
        TypeError: a configuration or the provenance holds what JSON cannot.
        ValueError: a configuration or the provenance holds NaN or infinity.
    """
    from . import __version__

    folder = Path(folder)
    notes = {key: value if isinstance(value, str) else _to_json(value) for key, value in provenance.items()}
    metadata = notes | {"format": "pt", "relqa_loss": __version__}
    blobs = {
        PREDICTOR_FILE: _to_bytes(predictor, metadata),
        SCORER_FILE: _to_bytes(scorer, metadata),
        CARD_FILE: (_plain_card(provenance) if card is None else card).encode(),
    }
    config = {
        "format_version": FORMAT_VERSION,
        "relqa_loss": __version__,
        "predictor": dict(predictor_config),
        "scorer": dict(scorer_config),
        "files": {name: hashlib.sha256(blobs[name]).hexdigest() for name in (PREDICTOR_FILE, SCORER_FILE)},
        "provenance": dict(provenance),
    }
    blobs[CONFIG_FILE] = (_to_json(config, indent=2) + "\n").encode()

    _write(folder, blobs if figure is None else {FIGURE_FILE: figure, **blobs})
    if figure is None:
        (folder / FIGURE_FILE).unlink(missing_ok=True)


def save_card(folder: str | os.PathLike[str], card: str, figure: bytes | None = None) -> None:
    """Write the model card of an existing weights folder anew; configuration and tensors stay as they are.

    Args:
        folder: of the weights.
        card: its text.
        figure: its figure, as the bytes of a WebP file; None for a card without: one that is there is removed.
    """
    blobs = {} if figure is None else {FIGURE_FILE: figure}
    _write(Path(folder), {**blobs, CARD_FILE: card.encode()})
    if figure is None:
        (Path(folder) / FIGURE_FILE).unlink(missing_ok=True)


def _write(folder: Path, blobs: Mapping[str, bytes]) -> None:
    """Files by name: all of them written, then each replaced in one step, ``config.json`` last."""
    with whole_files(folder) as scratch:
        for name, blob in blobs.items():
            (scratch / name).write_bytes(blob)


def build(cls: type[Module], config: Mapping[str, Any], tensors: Mapping[str, Tensor], file_name: str) -> Module:
    """Module of a weights folder: float32, on the CPU, whatever torch's default dtype and device are.

    The caller's random state stays untouched, since nothing is initialised.

    Args:
        cls: the module's class.
        config: its section of ``config.json``.
        tensors: its tensors.
        file_name: where they were read from, for the message.

    Raises:
        ValueError: the section does not fit the class, or the tensors do not fit the module.
    """
    try:
        with torch.device("meta"):
            module = cls(**config).to(torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{CONFIG_FILE} does not fit {cls.__name__}: {error}") from error
    load_strictly(module, tensors, file_name, assign=True)
    return module


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], file_name: str, *, assign: bool = False) -> None:
    """Put tensors into a module if every key, shape and dtype agrees; otherwise change nothing.

    Args:
        module: what to fill.
        tensors: its state dict as read from a file.
        file_name: the file's name, for the message.
        assign: take the tensors themselves instead of copying their values (a module on the meta device has no values).

    Raises:
        ValueError: missing or unexpected keys, or another shape or dtype.
    """
    wanted = module.state_dict()
    complaints = []
    if missing := sorted(wanted.keys() - tensors.keys()):
        complaints.append(f"missing {_some(missing)}")
    if unexpected := sorted(tensors.keys() - wanted.keys()):
        complaints.append(f"unexpected {_some(unexpected)}")
    different = [
        f"{key} is {_describe(tensors[key])}, needs {_describe(wanted[key])}"
        for key in sorted(wanted.keys() & tensors.keys())
        if tensors[key].shape != wanted[key].shape or tensors[key].dtype != wanted[key].dtype
    ]
    if different:
        complaints.append(_some(different))
    if complaints:
        raise ValueError(f"{file_name} does not fit {type(module).__name__}: {'; '.join(complaints)}")
    module.load_state_dict(dict(tensors), strict=True, assign=assign)


def _bundled_folders() -> dict[str, Path]:
    package = Path(str(importlib.resources.files(__package__)))
    root = package / "_weights"
    # An editable install leaves the weights where the checkout keeps them. Without the second test an unrelated
    # site-packages/weights would be taken for them.
    if not root.is_dir() and (package.parent / "pyproject.toml").is_file():
        root = package.parent / "weights"
    return {path.parent.name: path.parent for path in root.glob(f"*/{CONFIG_FILE}")}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"weights file {path} cannot be read: {error.strerror}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(_read(path).decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"weights file {path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"weights file {path} must hold a JSON object, got {type(config).__name__}")
    version = config.get("format_version")
    if version is None:
        raise ValueError(f"weights file {path} does not belong to weights of relqa_loss: it has no format_version")
    if version != FORMAT_VERSION:
        raise ValueError(f"weights file {path} has format_version {version!r}, this package reads {FORMAT_VERSION}")
    for section in ("predictor", "scorer", "files"):
        if not isinstance(config.get(section), dict):
            raise ValueError(f"weights file {path} lacks the section {section!r}")
    return config


def _read_tensors(path: Path, expected: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    if path.name not in expected:
        raise ValueError(f"weights file {path} has no sha256 in {CONFIG_FILE}")
    blob = _read(path)
    digest = hashlib.sha256(blob).hexdigest()
    if digest != expected[path.name]:
        raise ValueError(
            f"weights file {path} is damaged or not the one {CONFIG_FILE} describes: "
            f"sha256 {digest} ({len(blob)} bytes), expected {expected[path.name]}"
        )
    try:
        return safetensors.torch.load(blob), digest
    except safetensors.SafetensorError as error:
        raise ValueError(f"weights file {path} is not a safetensors file: {error}") from error


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)


def _to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    # Copies, because safetensors refuses tensors that share memory.
    layout = torch.contiguous_format
    copies = {key: tensor.detach().cpu().clone(memory_format=layout) for key, tensor in tensors.items()}
    blob = safetensors.torch.save(copies, metadata)
    # The library writes metadata in an order that changes from process to process; sorted, a save can be repeated bit
    # for bit. Layout of a file: 8 bytes with the header's length (little endian), the JSON header, the data.
    (length,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + blob[8 + length :]


def _plain_card(provenance: Mapping[str, Any]) -> str:
    return (
        "---\nlibrary_name: relqa_loss\ntags: [image-quality-assessment, perceptual-loss]\n---\n\n"
        "# Weights for `relqa_loss`\n\nNo figures have been measured for these weights yet.\n\n"
        f"Provenance:\n\n```json\n{_to_json(dict(provenance), indent=2)}\n```\n"
    )


def _some(items: list[str], limit: int = 5) -> str:
    rest = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
