"""What tells two networks apart: sha256 over their tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .predictor import DistortionPredictor
from .scorer import RelationalScorer


def tensors_digest(module: nn.Module) -> str:
    """sha256 over a module's state, in the order of its keys."""
    return digest_of(module.state_dict())


def distance_digest(
    predictor: DistortionPredictor, scorer: RelationalScorer, axis_weights: Tensor | None = None
) -> str:
    """sha256 over what the distance of a pair depends on, and its gradient; None stands for axis weights of 1.

    Two weights of equal digest measure the same distance, bit for bit, with one version of this package and in one
    floating-point type, whatever their maps and judgements say.
    """
    tensors = {f"predictor.{name}": one for name, one in without_parts(predictor, predictor.map_making()).items()}
    tensors |= {f"scorer.{name}": one for name, one in without_parts(scorer, scorer.judging()).items()}
    if axis_weights is not None and not bool((axis_weights == 1).all()):
        tensors["axis_weights"] = axis_weights
    return digest_of(tensors, json.dumps(scorer.config, sort_keys=True).encode())  # its constants are no tensors


def without_parts(module: nn.Module, left_out: tuple[nn.Module, ...]) -> dict[str, Tensor]:
    """A module's state by name, without that of some of its children."""
    parts = {id(one) for one in left_out}
    prefixes = tuple(f"{name}." for name, one in module.named_children() if id(one) in parts)
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(prefixes)}


def digest_of(tensors: Mapping[str, Tensor], first: bytes = b"") -> str:
    """sha256 over ``first`` and tensors, in the order of their names."""
    digest = hashlib.sha256(first)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
