"""What leaves eager mode: one exported program, one ONNX file and two compiled ones for pictures of every size."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import relqa_loss
from relqa_loss import RelationalLoss

PairMaker = Callable[..., tuple[Tensor, Tensor]]

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
ONNX_TOLERANCE = 1e-5
"""Of the largest value: another library's convolutions add in another order."""

SIZES = [(50, 70), (48, 64), (33, 18), (131, 67)]
"""Both, one or no side divides by 16."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ONNX_PACKAGES),
    reason=f"onnx: needs the packages {', '.join(ONNX_PACKAGES)}",
)


class DistanceAndMaps(nn.Module):
    """What an exporter needs: a module that returns tensors."""

    def __init__(self, loss_fn: RelationalLoss) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, pred: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
        rel = self.loss_fn.relate(pred, ref)
        return rel.distance, rel.maps


@pytest.fixture
def module(loss_fn: RelationalLoss) -> DistanceAndMaps:
    return DistanceAndMaps(loss_fn).eval()


def any_size() -> tuple[dict[int, Any], dict[int, Any]]:
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    return free, free


def test_one_exported_program_serves_all_sizes(module: DistanceAndMaps, make_pair: PairMaker) -> None:
    program = torch.export.export(module, make_pair(2, 50, 70), dynamic_shapes=any_size())
    for batch, size in zip((2, 3, 1, 4), SIZES, strict=True):
        pair = make_pair(batch, *size, seed=5)
        for got, expected in zip(program.module()(*pair), module(*pair), strict=True):
            assert got.shape == expected.shape
            torch.testing.assert_close(got, expected, **ROUNDING)


@needs_onnx
def test_one_onnx_file_serves_all_sizes(module: DistanceAndMaps, make_pair: PairMaker, tmp_path: Path) -> None:
    import onnxruntime

    program = torch.onnx.export(
        module,
        make_pair(2, 50, 70),
        input_names=["pred", "ref"],
        output_names=["distance", "maps"],
        dynamic_shapes=any_size(),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "relqa.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "relqa.onnx", options, providers=["CPUExecutionProvider"])
    for batch, size in zip((2, 3, 1, 4), SIZES, strict=True):
        pred, ref = make_pair(batch, *size, seed=5)
        for arguments in ((pred, ref), (ref, ref)):
            found = session.run(None, {"pred": arguments[0].numpy(), "ref": arguments[1].numpy()})
            for got, expected, scale in zip(found, module(*arguments), module(pred, ref), strict=True):
                assert got.shape == tuple(expected.shape)
                assert abs(got - expected.numpy()).max() <= ONNX_TOLERANCE * scale.abs().max()


def test_compiled_for_dynamic_sizes_without_recompiling_for_each(loss_fn: RelationalLoss, make_pair: PairMaker) -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss_fn, fullgraph=True, dynamic=True, backend=counter)
    graphs = []
    for size in [(50, 70), (48, 64), (33, 18), (64, 96), (77, 49), (131, 67)]:
        pred, ref = make_pair(2, *size)
        value, expected = compiled(pred.requires_grad_(), ref), loss_fn(pred, ref)
        torch.testing.assert_close(value, expected, **ROUNDING)
        slopes = [torch.autograd.grad(x, pred)[0] for x in (value, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-8)
        graphs.append(counter.frame_count)
    # One program for sides that divide by 16, one for others; the first sizes may cost one of their own.
    assert graphs[-1] == graphs[2]
    assert graphs[-1] <= 3


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_done_otherwise_for_an_export_gives_the_same_bits(
    module: DistanceAndMaps, make_pair: PairMaker, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    pair = make_pair(2, *size)
    expected = module(*pair)
    for room in (relqa_loss.layers, relqa_loss.scorer):
        monkeypatch.setattr(room, "exporting", lambda: True)
    for got, wanted in zip(module(*pair), expected, strict=True):
        assert torch.equal(got, wanted)
