"""The engine of the deformable operator: orders of the sums, gradients, borders, half precision, memory, transforms."""

import json
import math
from functools import partial
from itertools import product

import pytest
import torch
import torchvision
from factories import LAYERS, ORDERS, deform_arguments, deform_operators, moving_layer, outputs_and_gradients
from tools import benchmark
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from deformlib.deform import DeformConv2d, deform_conv2d, deform_conv2d_loops, per_filter_deform_conv2d
from deformlib.fast.deform import SHORT, GridGather, bilinear_samples, normalised_grid, padded_size, projects_first

every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and this machine has none")


def test_whole_pixels_stay_in_their_cell():
    """On a padded map every whole pixel comes back as it was, whatever the size."""
    for dtype, length in product((torch.float32, torch.float64), range(1, 600)):
        pixels, (_, padded) = torch.arange(-2, length + 1, dtype=dtype), padded_size((1, length))
        assert length <= padded < 2 * length and padded & (padded - 1) == 0
        x, y = normalised_grid(torch.stack([pixels, pixels]).view(1, 1, 2, -1), (padded, padded))[0, 0].T
        assert torch.equal(((x + 1) * padded - 1) / 2, pixels) and torch.equal(x, y)
    far = torch.tensor([math.inf, -math.inf, 1e30, -7.5]).view(1, 1, 1, 4).expand(1, 1, 2, 4)
    assert normalised_grid(far, (8, 8))[0, 0, :, 0].tolist() == [1.375, -1.375, 1.375, -1.375]  # pixels 9 and -2
    x, y = normalised_grid(far, (4, 16))[0, 0].T.tolist()  # pixels 17 and -2
    assert x == [1.1875, -1.1875, 1.1875, -1.1875] and y == [7.75, -1.75, 7.75, -1.75]


@every_order
def test_without_gradients_the_same_numbers_come_without_bookkeeping(order, monkeypatch):
    """No autograd function is applied under no_grad; the output is the same to the last bit."""
    (*arguments, mask), options = deform_arguments(order)
    expected = deform_conv2d(*arguments, mask=mask, **options).detach()
    monkeypatch.setattr(GridGather, "apply", None)
    with torch.no_grad():
        assert torch.equal(deform_conv2d(*arguments, mask=mask, **options), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_the_engine_equals_its_plain_twin_and_both_know_their_gradients(masked, projected):
    """PyTorch's kernel against ordinary operations: whole and far points too, the gradient, and the gradient's."""
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    maps, points = torch.randn(4, 2, 3, 5, 4, **double), 4 * torch.randn(4, 2, 2 + masked, 6, **double)
    points[:2] = points[:2].round()  # of one image, two offset groups
    weight = torch.randn(2, 3, 2 * 3 * 2, **double).requires_grad_() if projected else None
    arguments = [maps.requires_grad_(), points.requires_grad_(), weight]
    leaves = [argument for argument in arguments if argument is not None]
    results = []
    for function in (GridGather.apply, GridGather.plain):
        output = function(*arguments)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for engine, twin in zip(*results, strict=True):
        assert engine.shape == twin.shape and torch.allclose(engine, twin, rtol=0, atol=1e-10)
    arguments[1] = (points.detach().floor() + 0.2 + 0.6 * torch.rand_like(points)).requires_grad_()
    assert torch.autograd.gradcheck(GridGather.apply, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(GridGather.apply, arguments, fast_mode=True)


def test_the_plain_twin_reads_four_pixels():
    maps = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    points = torch.tensor([[0.25, 1.5], [2.5, 0.0], [-1.0, 1.0], [torch.nan, 1.0]]).T.view(1, 1, 2, 4)
    twin = bilinear_samples(maps, points).flatten().tolist()
    assert twin[:3] == [3.25, 3.5, 0.0] and math.isnan(twin[3])


@pytest.mark.parametrize("name", [name for name in ORDERS if name != "per filter"])
def test_the_order_is_chosen_by_counting(name):
    groups, offset_groups, filters, _ = ORDERS[name]
    weight = torch.zeros(filters, 4 // groups, 3, 3)
    blocks = math.lcm(groups, offset_groups)
    assert projects_first(weight, groups, blocks, (1, 1)) == name.startswith("project first")
    assert not projects_first(weight, groups, blocks, (1, 2))


@every_order
@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_takes_the_same_side_of_the_kink_as_the_loops(order, border):
    """Zero offsets and offsets of whole pixels, also on the border: gradients of all arguments."""
    arguments, options = deform_arguments(order, size=(2, 2), batch=1)
    arguments[1] = (arguments[1].detach() * 0.7).round().requires_grad_()
    results = []
    for operator in (deform_conv2d, deform_conv2d_loops):
        x, offset, weight, bias, mask = arguments
        output = operator(x, offset, weight, bias, mask=mask, border=border, **options)
        results.append(torch.autograd.grad(output.square().sum(), arguments))
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, rtol=0, atol=1e-9)


@every_order
@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_equals_loops_at_both_borders_and_per_filter(order, border):
    (x, offset, weight, bias, mask), options = deform_arguments(order, batch=1)
    with torch.no_grad():
        got, expected = (
            operator(x, offset, weight, bias, mask=mask, border=border, **options)
            for operator in (deform_conv2d, deform_conv2d_loops)
        )
        assert torch.allclose(got, expected, rtol=0, atol=1e-10)
        other = deform_conv2d(
            x, offset, weight, bias, mask=mask, border={"zero": "clamp", "clamp": "zero"}[border], **options
        )
        assert not torch.allclose(other, got, rtol=0, atol=1e-3)


@every_order
@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_gradcheck_and_gradgradcheck(order, border):
    arguments, options = deform_arguments(order, size=(3, 2), batch=1)

    def function(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, mask=mask, border=border, **options)

    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])  # the second writes half a minute of C++ for each
@pytest.mark.parametrize("order", ["project first", "sample first, groups", "per filter"])
def test_compiles_without_graph_breaks(order, backend):
    arguments, options = deform_arguments(ORDERS[order], dtype=torch.float32)

    def function(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, mask=mask, **options)

    torch.compiler.reset()
    results = []
    for call_it in (function, torch.compile(function, fullgraph=True, backend=backend)):
        output = call_it(*arguments)
        results.append([output, *torch.autograd.grad(output.square().sum(), arguments)])
    for plain, compiled in zip(*results, strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("order", "dtype"),
    [
        ("project first, offset groups", torch.float32),
        ("sample first, groups", torch.bfloat16),
        ("per filter", torch.bfloat16),
    ],
)
def test_shapes_and_dtypes_are_known_without_numbers(order, dtype):
    """What torch.library.opcheck asks of a fake operator: the same shape, dtype and strides, gradients included."""
    arguments, options = deform_arguments(ORDERS[order], dtype=dtype)

    def both_passes(x, offset, weight, bias, mask):
        output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
        return output, *torch.autograd.grad(output.float().sum(), (x, offset, weight, bias, mask))

    real = both_passes(*arguments)
    with FakeTensorMode() as mode:
        fake = both_passes(*(mode.from_tensor(argument).requires_grad_() for argument in arguments))
    assert [(t.shape, t.dtype, t.stride()) for t in fake] == [(t.shape, t.dtype, t.stride()) for t in real]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("filters", "dtype", "kind"),
    [
        (SHORT // 18, torch.bfloat16, torch.float32),
        (SHORT // 18 + 1, torch.bfloat16, torch.bfloat16),
        (SHORT // 18 + 1, torch.float16, torch.float32),
    ],
)
def test_small_products_stay_in_float32(filters, dtype, kind, autocast):
    """Then nothing but the output is rounded: by half of a last place at most."""
    torch.manual_seed(0)
    maps, weight = torch.randn(1, 1, 2, 8, 8).to(dtype), torch.randn(1, filters, 18).to(dtype)
    points = (torch.rand(1, 9, 2, 40) * 8).requires_grad_()
    exact = GridGather.plain(maps.double(), points.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = [function(maps, points, weight) for function in (GridGather.apply, GridGather.plain)]
    assert GridGather.columns(torch.rand(1, 1, 2, 9, 40), points, maps, weight).dtype == kind
    for output in outputs:
        rounded_once = (output.double() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps / 2 + 1e-5
        assert output.dtype == dtype and bool(rounded_once.all()) == (kind == torch.float32)


def test_offsets_in_float64_leave_columns_of_float32():
    maps, points = torch.rand(1, 1, 2, 8, 8), torch.rand(1, 9, 2, 40).double()
    assert (
        GridGather.columns(torch.rand(1, 1, 2, 9, 40).double(), points, maps, torch.rand(1, 3, 18)).dtype == maps.dtype
    )


@pytest.mark.parametrize("filters", [8, 64])
@pytest.mark.parametrize("channels", [4, 64])
@pytest.mark.parametrize("size", [8, 40])
def test_an_activation_in_place_may_follow(channels, filters, size):
    """One block or several, by maps or by rows: the output is a tensor of its own, side by side in memory."""
    x, results = torch.randn(2, channels, size, size), []
    layer = DeformConv2d(channels, filters, 3, padding=1, bias=False)
    nn.init.normal_(layer.offset_branch.weight, std=0.2)
    for inplace in (False, True):
        output = layer(x)
        assert output.is_contiguous()
        layer.zero_grad()
        nn.functional.leaky_relu(output, 0.2, inplace).sum().backward()
        results.append([parameter.grad for parameter in layer.parameters()])
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(plain, ours)


@every_order
@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_keeps_points_exact(order, dtype, close):
    exact, options = deform_arguments(order, size=(4, 130))  # bfloat16 has no 129.3
    exact[1] = (exact[1].detach() / 8).round(decimals=2).requires_grad_()
    short = [t.detach().to(dtype if i in (0, 2, 3) else torch.float32).requires_grad_() for i, t in enumerate(exact)]
    exact = [t.detach().double().requires_grad_() for t in short]
    results = []
    for x, offset, weight, bias, mask in (exact, short):
        output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
        results.append([output, *torch.autograd.grad(output.float().sum(), (x, offset, weight, bias, mask))])
    assert results[1][0].dtype == dtype
    for right, got, argument in zip(results[0], results[1], [short[0], *short], strict=True):
        assert got.dtype == argument.dtype
        assert (got.double() - right).norm() <= close * right.norm()


@pytest.mark.parametrize("options", [{}, {"per_filter": True}, {"modulated": True}, {"groups": 2}])
def test_autocast_makes_outputs_of_its_own_dtype(options):
    torch.manual_seed(0)
    layer = DeformConv2d(8, 4, 3, padding=1, **options)
    nn.init.normal_(layer.offset_branch.weight, std=0.02)
    x = torch.randn(2, 8, 9, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert (output.float() - layer(x)).norm() <= 0.03 * output.float().norm()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


def test_large_maps_are_worked_on_in_blocks():
    """Blocks of lines of one image, and of several images, join to the whole; per filter, too."""
    torch.manual_seed(0)
    for shape, filters in (((1, 3, 70, 70), 2), ((5, 3, 20, 20), 4), ((2, 3, 100, 60), 4)):
        x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(filters, 3, 3, 3, dtype=torch.float64)
        offset = torch.randn(shape[0], 18, *shape[2:], dtype=torch.float64)
        given_tensors = [x.requires_grad_(), offset.requires_grad_(), weight.requires_grad_()]
        geometry = {"stride": 1, "padding": 1, "dilation": 1}
        for mine, other in zip(
            *outputs_and_gradients(deform_operators(geometry), [*given_tensors, None, None]), strict=True
        ):
            assert torch.allclose(mine, other, rtol=0, atol=1e-9)
        fields = offset.detach().unflatten(1, (9, 1, 2)).expand(-1, -1, filters, -1, -1, -1).flatten(1, 3)
        shared = deform_conv2d(x, offset, weight, padding=1)
        assert torch.allclose(per_filter_deform_conv2d(x, fields, weight, padding=1), shared, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "paper, layers 2 and 3",
        "ResNet stage 3",
        pytest.param("classroom, layer 1", marks=pytest.mark.slow),
        pytest.param("classroom, layers 2 and 3", marks=pytest.mark.slow),
        pytest.param("ResNet stage 1", marks=pytest.mark.slow),
    ],
)  # in the other two torchvision needs seconds, and several times our memory: make benchmark
@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "with gradients"])
def test_takes_no_more_memory_than_torchvision(name, gradients):
    arguments = benchmark.tensors(*benchmark.CASES[name], "cpu", torch.float32)
    ours, theirs = (
        benchmark.peak(partial(benchmark.call, operator, arguments, gradients), "cpu")
        for operator in (benchmark.ours, benchmark.theirs)
    )
    assert 0 < ours <= theirs


def test_the_benchmark_compares_operators_that_agree():
    """Ours, torchvision's and the columns in plain PyTorch, on a shape with all options."""
    shape = benchmark.Shape((2, 8, 7, 6), 4, kernel=3, stride=2, dilation=2, groups=2, offset_groups=4, masked=True)
    arguments, geometry = benchmark.draw(shape, "cpu", torch.float32)
    operators = (deform_conv2d, benchmark.grid_columns, torchvision.ops.deform_conv2d)
    ours, columns, theirs = (benchmark.both_passes(each, arguments, geometry, True) for each in operators)
    assert torch.allclose(ours, theirs, atol=1e-5) and torch.allclose(columns, theirs, atol=1e-5)


def test_the_sweep_reaches_far_and_is_sorted(tmp_path):
    shapes = benchmark.SWEEP
    assert len(set(shapes)) == len(shapes) >= 40 and len({str(shape) for shape in shapes}) == len(shapes)
    reach = {name: {getattr(shape, name) for shape in shapes} for name in benchmark.Shape._fields}
    assert {1, 3, 8, 16, 64, 256, 512} <= {size[1] for size in reach["size"]} and {1, 512} <= reach["filters"]
    assert {1, 32} <= {size[0] for size in reach["size"]} and {1, 3, 5, 7} <= reach["kernel"]
    assert {1, 4, 8, 16} <= reach["offset_groups"] and {1, 4} <= reach["groups"] and reach["masked"] == {True, False}
    assert 2 in reach["stride"] and 2 in reach["dilation"]
    benchmark.main(["--quick", "--folder", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json", "sweep.md"]
    rows = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))["results"]
    worst = [min(row["forward_time"] / 1.2, row["both_time"] / 1.5) for row in rows]
    assert worst == sorted(worst) and all(row[f"both_{unit}"] > 0 for row in rows for unit in ("ms", "mb"))


@no_gpu
@every_order
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_cpu(order, dtype):
    arguments, options = deform_arguments(order, dtype=torch.float32)
    results = []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        moved = [
            t.detach().to(device, kind if i in (0, 2, 3) else torch.float32).requires_grad_()
            for i, t in enumerate(arguments)
        ]
        x, offset, weight, bias, mask = moved
        output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
        results.append([output, *torch.autograd.grad(output.float().sum(), moved)])
    for cpu, gpu in zip(*results, strict=True):
        assert (gpu.cpu().float() - cpu).norm() <= (1e-4 if dtype == torch.float32 else 0.03) * cpu.norm()


@every_order
@pytest.mark.parametrize(("border", "other"), [("zero", 0.3), ("clamp", -50.0), ("zero", math.inf)])
def test_a_not_a_number_offset_stays_visible(order, border, other):
    """One tap of one position: the outputs that it feeds, in all forms, whatever its other axis is; and no more."""
    (x, offset, weight, bias, mask), options = deform_arguments(order, size=(2, 2), batch=1)
    for axis in (0, 1):
        bad = offset.detach().clone()
        bad[0, axis, 1, 1], bad[0, 1 - axis, 1, 1] = torch.nan, other
        with torch.no_grad():
            got, loops = (
                operator(x, bad, weight, bias, mask=mask, border=border, **options)
                for operator in (deform_conv2d, deform_conv2d_loops)
            )
        assert torch.allclose(got, loops, rtol=0, atol=1e-10, equal_nan=True)
        assert 0 < got[0, :, 1, 1].isnan().sum() == got.isnan().sum()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_offsets_that_overflowed_read_zero(dtype):
    """float16 ends at 65,504."""
    offset = torch.full((1, 18, 5, 5), 60000.0).to(dtype) * 1e35
    assert offset.isinf().all()
    for options in ({}, {"per_filter": True}):
        output = deform_conv2d(
            torch.ones(1, 2, 5, 5).to(dtype), offset, torch.ones(1, 2, 3, 3).to(dtype), padding=1, **options
        )
        assert output.dtype == dtype and (output == 0).all()


@every_order
def test_gradients_through_infinite_offsets_are_finite_twice(order):
    (x, offset, weight, bias, mask), options = deform_arguments(order, batch=1)
    offset = offset.detach().clone()
    offset.view(-1)[::3], offset.view(-1)[1::5] = math.inf, -math.inf
    offset.requires_grad_()
    output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
    first = torch.autograd.grad(output.square().sum(), (x, offset, weight, mask), create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), (x, offset, weight, mask))
    assert all(each.isfinite().all() for each in (output, *first, *second))


@every_order
def test_function_transforms_equal_autograd(order):
    """torch.func's grad, vmap and jacrev, alone and together, against ordinary gradients."""
    pairs = [deform_arguments(order, size=(3, 2), seed=seed, batch=1) for seed in (3, 4, 5)]
    (_, _, weight, bias, _), options = pairs[0]
    stacked = [torch.stack([arguments[i].detach() for arguments, _ in pairs]) for i in (0, 1, 4)]

    def loss(x, offset, mask, weight):
        return deform_conv2d(x, offset, weight, bias, mask=mask, **options).square().sum()

    one_by_one = []
    for x, offset, mask in zip(*stacked, strict=True):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, offset, mask, weight)]
        one_by_one.append(torch.autograd.grad(loss(*leaves), leaves))
    each = vmap(grad(loss, argnums=(0, 1, 2, 3)), in_dims=(0, 0, 0, None))(*stacked, weight)
    for got, wanted in zip(each, zip(*one_by_one, strict=True), strict=True):
        assert torch.allclose(got, torch.stack(wanted), rtol=0, atol=1e-9)

    x, offset, mask = (tensor[0] for tensor in stacked)
    each = vmap(grad(loss, argnums=(0, 1, 2, 3)), in_dims=(None, 0, None, None))(x, stacked[1], mask, weight)
    for got, wanted in zip(each, one_by_one[0], strict=True):  # the same map, other places
        assert torch.allclose(got[0], wanted, rtol=0, atol=1e-9)
    wanted = torch.autograd.functional.jacobian(lambda o: deform_conv2d(x, o, weight, mask=mask, **options), offset)
    for chunk_size in (None, 1):  # all outputs at once, and one by one
        moved = jacrev(lambda o: deform_conv2d(x, o, weight, mask=mask, **options), chunk_size=chunk_size)(offset)
        assert torch.allclose(moved, wanted, rtol=0, atol=1e-9)
    kernels = torch.stack([weight.detach(), 2 * weight.detach()])
    each = vmap(lambda kernel: deform_conv2d(x, offset, kernel, mask=mask, **options))(kernels)
    assert torch.allclose(each[1], 2 * deform_conv2d(x, offset, weight, mask=mask, **options), rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
def test_gradients_of_every_clip_by_functional_call(options):
    layer, x = moving_layer(options), torch.randn(3, 4, 5, 5)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters, image):
        return functional_call(layer, parameters, (image[None],)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.allclose(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


@every_order
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_forward_mode_is_refused_and_never_silently_zero(order):
    (x, offset, weight, bias, mask), options = deform_arguments(order, size=(3, 2), batch=1)

    def function(x):
        return deform_conv2d(x, offset, weight, bias, mask=mask, **options)

    for transform in (lambda: jvp(function, (x,), (x,)), lambda: jacfwd(function)(x)):
        with pytest.raises(NotImplementedError, match="jvp"):
            transform()
    _, change = torch.autograd.functional.jvp(function, x, x)  # two gradients give the same
    assert torch.allclose(change, function(x) - bias.view(-1, 1, 1), rtol=0, atol=1e-9)  # it is linear in x
