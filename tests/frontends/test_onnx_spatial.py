"""Einsum, GridSample, AffineGrid, RoiAlign, DeformConv against NumPy, PyTorch and ONNX's reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gensyn_tvm.errors import GensynError

from .onnx_peer import assert_close, model, ours, random, reference

NAMES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("bij , bjk -> bik", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
        ("...ii->...i", [(2, 3, 4, 4)]),
        ("a...,a...->...", [(3, 2, 4), (3, 2, 1)]),
        ("ii", [(4, 4)]),
        ("iji->j", [(3, 2, 3)]),
        ("ij->ji", [(3, 4)]),
        ("ij", [(3, 4)]),
        ("ba", [(3, 4)]),
        ("i,j->ij", [(3,), (4,)]),
        ("i,i->i", [(3,), (3,)]),
        ("i,i", [(3,), (3,)]),
        ("abc,cd,de,ae->b", [(2, 3, 4), (4, 5), (5, 6), (2, 6)]),
        ("abij,ijc->abc", [(2, 3, 4, 5), (4, 5, 6)]),
        ("ab,cb,ac->", [(2, 3), (4, 3), (2, 4)]),
        (",ij->ij", [(), (2, 3)]),
        ("ij,kl->k", [(2, 3), (4, 2)]),
        ("iij,jk->ik", [(3, 3, 4), (4, 2)]),
    ],
)
def test_einsum_is_numpy(equation: str, shapes: list[tuple[int, ...]]) -> None:
    inputs = [random(*shape, seed=k) for k, shape in enumerate(shapes)]
    wanted = np.einsum(equation, *(x.astype(np.float64) for x in inputs))
    proto = model("Einsum", inputs, rank=wanted.ndim, equation=equation)
    assert_close(ours(proto, inputs)[0], np.asarray(wanted, np.float32))


def test_integer_einsum_wraps() -> None:
    inputs = [random(3, 4, dtype="int32"), random(4, 5, 4, dtype="int32", seed=1)]
    found = ours(model("Einsum", inputs, equation="ij,jkj->ik"), inputs)[0]
    assert_close(found, np.einsum("ij,jkj->ik", *inputs))


@pytest.mark.parametrize("equation", ("ij,jk->il", "ij->ij,", "i->i", "ij,jk->iik", "i.j,jk->ik", "ij,ik->jk", "i1,jk->i"))
def test_refused_equations(equation: str) -> None:
    inputs = [random(3, 4), random(4, 5)]
    with pytest.raises(GensynError):
        ours(model("Einsum", inputs, rank=2, equation=equation), inputs)


@pytest.mark.parametrize("align", (0, 1))
@pytest.mark.parametrize("padding", ("zeros", "border", "reflection"))
@pytest.mark.parametrize("mode", ("nearest", "linear", "cubic"))
def test_grid_sample_is_torch(mode: str, padding: str, align: int) -> None:
    x, grid = random(2, 3, 5, 6), random(2, 7, 4, 2, seed=1) * np.float32(1.3)
    proto = model("GridSample", [x, grid], mode=mode, padding_mode=padding, align_corners=align)
    tensors = torch.from_numpy(x), torch.from_numpy(grid)
    wanted = torch.nn.functional.grid_sample(*tensors, mode=NAMES[mode], padding_mode=padding, align_corners=bool(align))
    assert_close(ours(proto, [x, grid])[0], wanted.numpy(), 1e-5)


@pytest.mark.parametrize("padding", ("zeros", "border", "reflection"))
def test_volumetric_grid_sample_is_torch(padding: str) -> None:
    x, grid = random(2, 2, 3, 4, 5), random(2, 3, 2, 4, 3, seed=1)
    proto = model("GridSample", [x, grid], mode="linear", padding_mode=padding)
    tensors = torch.from_numpy(x), torch.from_numpy(grid)
    wanted = torch.nn.functional.grid_sample(*tensors, mode="bilinear", padding_mode=padding, align_corners=False)
    assert_close(ours(proto, [x, grid])[0], wanted.numpy(), 1e-5)


@pytest.mark.parametrize("mode", ("nearest", "linear", "cubic"))
@pytest.mark.parametrize("padding", ("zeros", "border", "reflection"))
def test_hostile_grids_read_inside_the_image(mode: str, padding: str) -> None:
    """Coordinates that are not finite or huge: some value, no crash; with zeros and nearest +0 or an element."""
    x = random(1, 1, 4, 4)
    grid = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e10, 0.0, -1.0], np.float32)
    grid = np.stack(np.meshgrid(grid, grid), -1)[np.newaxis]
    found = ours(model("GridSample", [x, grid], mode=mode, padding_mode=padding), [x, grid])[0]
    assert found.shape == (1, 1, 8, 8)
    if mode == "nearest":
        assert set(found.reshape(-1)) <= {np.float32(0), *x.reshape(-1)}


@pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid behavior has changed:UserWarning")
@pytest.mark.parametrize("align", (0, 1))
@pytest.mark.parametrize("size", ((2, 1, 3, 5), (2, 1, 3, 4, 2), (2, 1, 1, 4)))
def test_affine_grid_is_torch(size: tuple[int, ...], align: int) -> None:
    n = len(size) - 2
    inputs = [random(2, n, n + 1), np.array(size, np.int64)]
    wanted = torch.nn.functional.affine_grid(torch.from_numpy(inputs[0]), list(size), align_corners=bool(align))
    assert_close(ours(model("AffineGrid", inputs, constants=(1,), align_corners=align), inputs)[0], wanted.numpy())


@pytest.mark.parametrize("mode", ("avg", "max"))
@pytest.mark.parametrize("transformation", ("half_pixel", "output_half_pixel"))
def test_roi_align_is_the_reference(mode: str, transformation: str) -> None:
    x, rng = random(2, 3, 8, 9), np.random.default_rng(1)
    low = rng.uniform(-2, 6, (5, 2))
    rois = np.concatenate([low, low + rng.uniform(0.1, 9, (5, 2))], axis=1).astype(np.float32)
    inputs = [x, rois, np.array([0, 1, 1, 0, 1], np.int64)]
    given: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transformation, "spatial_scale": 0.75}
    proto = model("RoiAlign", inputs, output_height=3, output_width=2, sampling_ratio=2, **given)
    assert_close(ours(proto, inputs)[0], reference(proto, inputs)[0], 1e-5)


def test_roi_align_of_images_that_do_not_exist_reads_inside() -> None:
    inputs = [random(2, 1, 4, 4), np.array([[0, 0, 3, 3]] * 2, np.float32), np.array([7, 2**40], np.int64)]
    found = ours(model("RoiAlign", inputs, output_height=1, output_width=1, sampling_ratio=1), inputs)[0]
    assert np.isfinite(found).all()


@pytest.mark.parametrize(("groups", "offsets"), ((1, 1), (2, 1), (1, 2)))
def test_deformable_convolution(groups: int, offsets: int) -> None:
    x, w = random(2, 4, 5, 6), random(6, 4 // groups, 3, 2, seed=1)
    shape = (2, offsets * 3 * 2, 3, 3)
    offset, bias = random(2, 2 * shape[1], *shape[2:], seed=2), random(6, seed=3)
    mask = random(*shape, seed=4)
    given: dict[str, Any] = {"strides": [2, 2], "pads": [1, 0, 1, 0], "group": groups, "kernel_shape": [3, 2]}
    for offset_ in (offset, np.zeros_like(offset)):
        inputs = [x, w, offset_, bias, mask]
        proto = model("DeformConv", inputs, offset_group=offsets, **given)
        assert_close(ours(proto, inputs)[0], reference(proto, inputs)[0], 1e-5)
    plain = [x, w, np.zeros_like(offset), bias]
    conv = ours(model("Conv", [x, w, bias], **given), [x, w, bias])[0]
    assert_close(ours(model("DeformConv", plain, offset_group=offsets, **given), plain)[0], conv)


def test_refusals() -> None:
    inputs = [random(1, 1, 4, 4), np.zeros((1, 4), np.float32), np.zeros(1, np.int64)]
    with pytest.raises(GensynError, match="sampling_ratio 0"):
        ours(model("RoiAlign", inputs), inputs)
