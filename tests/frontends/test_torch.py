"""PyTorch models: names, modes, values against PyTorch, and errors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import tvm
from torch import nn

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.training.ops import attrs_of
from tests.frontends.messages import refused

TOLERANCE = 2e-5  # of the largest magnitude in the output; both sides are float32 with different orders of summation


class Block(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.c2, self.b2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.down = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b2(self.c2(F.relu(self.b1(self.c1(x)), inplace=True)))
        return torch.relu(y + self.down(x))


def _mobile(i: int, o: int, s: int) -> list[nn.Module]:
    return [
        nn.Conv2d(i, i, 3, s, 1, groups=i, bias=False),
        nn.BatchNorm2d(i),
        nn.Hardswish(inplace=True),
        nn.Conv2d(i, o, 1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU6(inplace=True),
    ]


def cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2)),
        *(nn.Conv2d(8, 12, 3, bias=False), nn.BatchNorm2d(12), nn.SiLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Dropout(0.25), nn.Linear(12, 10)),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), (5, 16)),
    "norm_mlp": (
        lambda: nn.Sequential(
            *(nn.Linear(8, 24), nn.SiLU(), nn.LayerNorm(24), nn.Linear(24, 24), nn.GELU(), nn.GELU("tanh"), nn.Linear(24, 3))
        ),
        (2, 3, 8),
    ),
    "cnn": (cnn, (2, 3, 12, 12)),
    "resnet": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
            *(Block(8, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(16, 10)),
        ),
        (2, 3, 32, 32),
    ),
    "mobile": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2, 1), *_mobile(8, 12, 2), *_mobile(12, 16, 1), nn.AvgPool2d(2)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        ),
        (2, 3, 32, 32),
    ),
    "conv_1d": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 5, 2, 3, 2, groups=2), nn.BatchNorm1d(6), nn.MaxPool1d(2), nn.Hardtanh(-0.5, 0.4)
        ),
        (3, 4, 33),
    ),
    "conv_same": (lambda: nn.Sequential(nn.Conv2d(2, 4, (4, 3), padding="same", dilation=(1, 2)), nn.ELU(0.7)), (2, 2, 9, 8)),
    "conv_3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), nn.AvgPool3d(2)), (1, 2, 4, 5, 6)),
    "pools": (
        lambda: nn.Sequential(
            *(nn.MaxPool2d(3, 2, 1, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, count_include_pad=False, ceil_mode=True)),
            nn.AvgPool2d(2, 1, 1),
        ),
        (2, 3, 14, 15),
    ),
    "norms": (
        lambda: nn.Sequential(nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True), nn.AdaptiveAvgPool2d(2)),
        (2, 6, 4, 8),
    ),
    "activations": (
        lambda: nn.Sequential(
            *(nn.LeakyReLU(0.1), nn.Softplus(2.0), nn.Mish(), nn.SELU(), nn.CELU(0.5), nn.PReLU(3), nn.Hardsigmoid()),
            *(nn.Tanh(), nn.Sigmoid(), nn.LogSoftmax(1), nn.Softmax(-1)),
        ),
        (4, 3, 5),
    ),
}


def _settle(model: nn.Module) -> nn.Module:
    """Random running statistics, so that batch normalisation is not the identity."""
    for child in model.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.running_mean.normal_()
            child.running_var.uniform_(0.5, 2.0)
    return model


def _close(found: np.ndarray, expected: torch.Tensor) -> None:
    wanted = expected.detach().numpy()
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    scale = max(float(np.abs(wanted).max(initial=0)), 1e-3)
    np.testing.assert_allclose(found.astype(float) / scale, wanted.astype(float) / scale, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("name", "training"), [*((name, True) for name in MODELS), ("cnn", False)])
def test_models(name: str, training: bool, infer: Any) -> None:
    torch.manual_seed(1)
    make, shape = MODELS[name]
    model = _settle(make()).train(training)
    x = torch.randn(shape)
    program = from_torch(model, (x,))
    assert program.inputs == ("input",) and program.outputs == ("output",)
    assert list(program.parameters) == [n for n, _ in model.named_parameters()]
    assert list(program.states) == [n for n, _ in model.named_buffers()]
    assert program.state_updates == (tuple(n for n, _ in model.named_buffers()) if training else ())
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        kept = {**program.parameters, **program.states}[name]
        assert kept.tobytes() == value.detach().numpy().tobytes()
    main = program.module["main"]
    assert [p.name for p in main.params] == [*program.inputs, *program.parameters, *program.states]
    assert len(main.body.blocks) == 1 and len(list(program.module.functions)) == 1
    results = infer(program, x.numpy())
    assert len(results) == 1 + len(program.state_updates)
    _close(results[0], model.eval()(x))


def test_batch_norm_modes_of_each_module(inspect: Any) -> None:
    model = cnn().train()
    model[6].eval()
    model[1].momentum = 0.3
    program = from_torch(model, (torch.randn(2, 3, 12, 12),))
    found = [
        (attrs_of(c)["frozen"], attrs_of(c)["momentum"], attrs_of(c)["unbiased"])
        for c in inspect.calls(program, "gensyn.batch_norm")
    ]
    assert found == [(False, 0.3, True), (True, 0.1, True)]
    assert program.state_updates == ("1.running_mean", "1.running_var", "1.num_batches_tracked")


def test_num_batches_tracked_counts(infer: Any) -> None:
    model = nn.BatchNorm1d(3).train()
    results = infer(from_torch(model, (torch.randn(4, 3),)), np.ones((4, 3), np.float32))
    assert results[-1] == 1 and results[-1].dtype == np.int64


def test_dropout_modes(inspect: Any) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.25), nn.Dropout(0.0), nn.Dropout2d(0.125)).train()
    model[0].eval()
    program = from_torch(model, (torch.randn(2, 3, 4, 4),))
    dropouts = inspect.calls(program, "gensyn.dropout")
    assert [attrs_of(c)["p"] for c in dropouts] == [0.25, 0.125]
    assert [[int(d) for d in c.ty.shape] for c in dropouts] == [[2, 3, 4, 4], [2, 3, 1, 1]]
    assert "gensyn.dropout" not in inspect.operators(from_torch(model.eval(), (torch.randn(2, 3, 4, 4),)))


def test_no_gradient_passes_a_detach() -> None:
    """The gradient of sum(detach(w x) * (w x)) for w is that of one factor."""

    class Stopped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0, -3.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.w * x
            return (y.detach() * y).sum()

    program = from_torch(Stopped(), (torch.ones(2),))
    optimizer = gensyn_tvm.SGD(lr=1.0)
    step = gensyn_tvm.training_step(program, loss=lambda y, t: y, target=TensorType((), "float32"), optimizer=optimizer)
    clock = {"step": np.int64(0), "seed": np.int64(0), "learning_rate": np.float32(1)}
    given = {"x": np.array([1, 2], np.float32), "target": np.float32(0), **step.parameters, **clock}
    _, w = interpreter.run(step.graph, given)
    assert w.tolist() == [2.0 - 2.0, -3.0 - -6.0 * 2]


class Mixed(nn.Module):
    def forward(self, x: torch.Tensor, n: torch.Tensor) -> dict[str, Any]:
        parts = torch.split(x, [1, 2, 1], dim=1)
        joined = torch.cat([p.transpose(0, 1) * k for k, p in enumerate(parts, 1)], dim=0)
        last = x[:, -1] - x.select(0, -2)[:1]
        stacked = torch.stack(x.unbind(1), -1).clamp(-1, 0.5)
        masked = torch.where(n[:, None] > 1, x, 0.5).masked_fill(x.isnan() | ~(x < 1), 2.0)
        arith = (2 - x) / (n[:, None].float() + 3) + x**3 - x**-2 + n[:, None] * 1.5 + n[:, None] / 2
        return {
            "moves": (joined, last, stacked, x.repeat(2, 1).tril(-1), x.expand(2, 3, 4), F.pad(x, (1, -1, 2, 0), value=3.0)),
            "curves": [x.sinh(), x.cosh(), x.atan()],
            "values": [masked, arith, n + 1, n.float().round().abs().sqrt().reciprocal()],
            "sums": [
                x.sum(),
                x.sum(1, keepdim=True),
                n.sum(),
                x.std(),
                x.var(1, correction=0),
                x.max(1)[1],
                x.argmin(),
                x.amax((0, 1)),
            ],
            "products": [
                x @ x.mT,
                torch.addmm(x[:, :3], x, x.mT[:, :3], beta=0.5, alpha=2),
                torch.baddbmm(x[None], x[None, :, :3], x[None]),
            ],
        }


def test_operators_and_names_of_nested_outputs(infer: Any) -> None:
    torch.manual_seed(2)
    x, n = torch.randn(3, 4), torch.tensor([1, 2, 3])
    program = from_torch(Mixed(), (x, n))
    assert program.inputs == ("x", "n")
    assert program.outputs[:2] == ("output_moves_0", "output_moves_1")
    expected = torch.utils._pytree.tree_flatten(Mixed()(x, n))[0]
    for found, wanted in zip(infer(program, x.numpy(), n.numpy()), expected, strict=True):
        _close(found, wanted)


def test_places_are_module_paths() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    bindings = from_torch(model, (torch.randn(1, 3, 5, 5),)).module["main"].body.blocks[0].bindings
    assert {b.var.name for b in bindings} == {"0:conv2d", "1.0:add", "1.0:batch_norm", "1.1:relu"}


def test_the_module_is_left_alone() -> None:
    model = cnn().train()
    model[1].eval()
    model(torch.randn(2, 3, 12, 12)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    modes, grads = [m.training for m in model.modules()], [p.grad.clone() for p in model.parameters()]
    x, random = torch.randn(2, 3, 12, 12), torch.random.get_rng_state()
    program = from_torch(model, (x,))
    assert torch.equal(random, torch.random.get_rng_state())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    program.parameters["0.weight"][...] = 0
    assert torch.equal(before["0.weight"], model.state_dict()["0.weight"])


def test_tied_and_frozen_parameters(infer: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    x = torch.randn(3, 4)
    program = from_torch(model, (x,))
    assert list(program.parameters) == ["0.weight", "0.bias", "1.bias", "2.weight"]
    assert list(program.states) == ["2.bias"] and program.state_updates == ()
    _close(infer(program, x.numpy())[0], model(x))


def test_exported_program_and_input_names(infer: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    x = torch.randn(3, 4)
    program = from_torch(torch.export.export(model, (x,)), input_names=["pixels"])
    assert program.inputs == ("pixels",) and program.state_updates[0] == "2.running_mean"
    _close(infer(program, x.numpy())[0], model.eval()(x))


def test_float64(infer: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU("tanh")).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    program = from_torch(model, (x,))
    assert program.parameters["0.weight"].dtype == np.float64
    _close(infer(program, x.numpy())[0], model(x))


# ---- errors ---------------------------------------------------------------------------------------------------------


class Lambda(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function, self.fc = function, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self.fc(x))


def _no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x * 2
    return y + x


X = torch.zeros(2, 4)
IMAGE = torch.zeros(2, 4, 5, 5)
REFUSED = {
    "several operators": (
        Lambda(lambda x: torch.linalg.eigh(torch.fft.fft(x).real @ x.T)[0]),
        X,
        r"(?s)aten\.\w*fft.*eigh.*docs/operators",
    ),
    "place": (nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.AlphaDropout(0.3))), X, r"1\.0:"),
    "no_grad": (Lambda(_no_grad), X, r"(?s)'torch.no_grad'.*requires_grad=False"),
    "momentum": (nn.Sequential(nn.BatchNorm1d(4, momentum=None)), X, r"(?s)BatchNorm1d.*module 0.*momentum=None"),
    "divisor": (nn.AvgPool2d(2, divisor_override=3), IMAGE, r"divisor_override=3"),
    "dtype": (Lambda(lambda x: x + x), X.to(torch.complex64), r"complex64"),
    "memory": (Lambda(lambda x: x[:, 1:].as_strided((2, 2), (4, 1), 0)), X, r"(?s)as_strided.*not in the input"),
    "random": (Lambda(lambda x: x + torch.rand_like(x)), X, r"(?s)aten\.rand.*PyTorch's generator.*input of forward"),
    "shape": (Lambda(lambda x: x[x > 0]), X, r"(?s)aten\.index\.Tensor.*depends on data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    model, x, text = REFUSED[case]
    with refused(text, UnsupportedOperatorError):
        from_torch(model, (x,))


@pytest.mark.parametrize("name", ("sin", "cos", "tan", "asin", "acos", "asinh", "atanh"))
def test_circular_functions(name: str) -> None:
    """PyTorch's own are within a few units in the last place."""

    class Apply(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return getattr(torch, name)(x)

    x = torch.linspace(-0.99, 0.99, 101)
    found = gensyn_tvm.compile(from_torch(Apply(), (x,)))(x.numpy())
    assert np.allclose(found, getattr(torch, name)(x.double()).numpy(), rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_narrow_floats_compute_in_float32(dtype: torch.dtype) -> None:
    """Each operator rounds once, so results are within a few units in the last place of PyTorch's."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype).eval()
    x = torch.randn(3, 4).to(dtype)
    name = str(dtype).removeprefix("torch.")
    found = gensyn_tvm.compile(from_torch(model, (x,)))(x.view(torch.int16).numpy().view(np.dtype(name)))
    assert found.dtype.name == name
    expected = model(x).detach().float().numpy()
    assert np.abs(found.astype(np.float32) - expected).max() <= 4 * torch.finfo(dtype).eps * np.abs(expected).max()


def _branch(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def _shared_memory() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.data)
    return model


def _dynamic() -> Any:
    return torch.export.export(nn.Linear(4, 4), (torch.zeros(3, 4),), dynamic_shapes=({0: torch.export.Dim("n")},))


UNREADABLE: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "not a module": (lambda: 3, {"example_inputs": (X,)}, r"(?s)found: int.*torch\.nn\.Module"),
    "no inputs": (lambda: nn.Linear(4, 4), {"example_inputs": ()}, r"an empty tuple"),
    "a list": (lambda: nn.Linear(4, 4), {"example_inputs": [X]}, r"(?s)found: list.*tuple of tensors"),
    "not a tensor": (lambda: nn.Linear(4, 4), {"example_inputs": (3,)}, r"example input 0 is no tensor\n  found: int"),
    "wrong shape": (lambda: nn.Linear(5, 4), {"example_inputs": (X,)}, r"torch.export cannot export"),
    "branch": (
        lambda: Lambda(_branch),
        {"example_inputs": (X,)},
        r"(?s)in: \S*test_torch.py:\d+: return x if x.sum\(\) > 0.*data-dependent control flow.*torch.where",
    ),
    "names": (
        lambda: nn.Linear(4, 4),
        {"example_inputs": (X,), "input_names": ["a", "b"]},
        r"(?s)\['a', 'b'\].*1 different names, for input",
    ),
    "clash": (lambda: nn.Linear(4, 4), {"example_inputs": (X,), "input_names": ["weight"]}, r"names weight are used twice"),
    "shared memory": (_shared_memory, {"example_inputs": (X,)}, r"different objects share memory\n  in: 0.weight and 1.weight"),
    "dynamic": (_dynamic, {}, r"(?s)a dimension is not static.*dynamic_shapes"),
    "inputs twice": (lambda: torch.export.export(nn.Linear(4, 4), (X,)), {"example_inputs": (X,)}, r"own example inputs"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable(case: str) -> None:
    make, kwargs, text = UNREADABLE[case]
    with refused(text):
        from_torch(make(), **kwargs)


def test_only_plain_relax_is_left() -> None:
    program = from_torch(cnn(), (torch.randn(2, 3, 12, 12),))
    for binding in program.module["main"].body.blocks[0].bindings:
        assert isinstance(binding.value, tvm.ir.Call | tvm.relax.TupleGetItem)
        if isinstance(binding.value, tvm.ir.Call):
            assert not binding.value.op.name.startswith("relax.call_")
