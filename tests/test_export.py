"""Graphs of deformable layers for other programs: torch.jit.trace, torch.export, ONNX."""

import warnings
from itertools import product

import numpy as np
import pytest
import torch
from factories import LAYERS, moving_layer
from torch import nn
from torch.export import Dim, export

from deformlib.deform import DeformConv2d, deform_conv2d
from deformlib.fast.export import with_torchvision


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("project first", (9, 7)),
        pytest.param("per filter", (80, 90), marks=pytest.mark.slow),  # several blocks, which a graph does not have
        pytest.param("sample first", (9, 7), marks=pytest.mark.slow),
        pytest.param("project first", (80, 90), marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_traced_and_exported_layers_take_any_batch(name, size):
    layer, x = moving_layer(LAYERS[name]), torch.randn(5, 4, *size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and notes what it takes for constant
        traced = torch.jit.trace(layer, x[:2])
    exported = export(layer, (x[:2],), dynamic_shapes=({0: Dim("batch")},)).module()
    for graph, batch in product((traced, exported), (x[:2], x, x[:1])):
        assert torch.allclose(graph(batch), layer(batch), atol=1e-5)


@torch.no_grad()
def test_a_copy_calls_torchvisions_operator():
    """The same numbers from the same weights; the layers that were copied keep ours."""
    net = nn.Sequential(moving_layer({"out_channels": 4}), nn.ReLU(), moving_layer(LAYERS["project first"])).eval()
    twin, x = with_torchvision(net), torch.randn(5, 4, 9, 7)
    assert torch.allclose(twin(x), net(x), atol=1e-5)
    assert net[0].operator is net[2].operator is deform_conv2d is not twin[0].operator
    with pytest.raises(ValueError, match="^1: .*for every filter"):
        with_torchvision(nn.Sequential(nn.ReLU(), moving_layer(LAYERS["per filter"])))


def test_torchvisions_operator_gets_numbers_only():
    """The shape is wrong as well, so that nothing but a message could come of it, whoever checks first."""
    twin = with_torchvision(DeformConv2d(4, 3, 3, padding=1))
    with pytest.raises(ValueError, match="an offset is not a number"):
        twin.sample(torch.zeros(1, 4, 5, 5), torch.full((1, 7, 5, 5), torch.nan))


@pytest.mark.slow
@torch.no_grad()
def test_onnx_has_one_node_for_a_layer(tmp_path):
    import onnx
    import onnxruntime

    net = nn.Sequential(moving_layer({"out_channels": 4}), nn.ReLU(), moving_layer(LAYERS["project first"])).eval()
    twin, x, free = with_torchvision(net), torch.randn(5, 4, 9, 7), ({0: Dim("batch")},)
    torch.onnx.export(twin, (x[:2],), tmp_path / "net.onnx", dynamic_shapes=free, opset_version=19, verbose=False)
    nodes = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert nodes.count("DeformConv") == 2 and "Loop" not in nodes
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for batch in (x[:2], x):
        (output,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        assert np.abs(output - net(batch).numpy()).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_our_own_layer_becomes_onnx_for_any_batch(name: str, tmp_path):
    """One GridSample among ordinary nodes, no loop over a fixed number of images."""
    import onnx
    import onnxruntime

    layer, x, free = moving_layer(LAYERS[name]).eval(), torch.randn(5, 4, 9, 7), ({0: Dim("batch")},)
    torch.onnx.export(layer, (x[:2],), tmp_path / "layer.onnx", dynamic_shapes=free, opset_version=19, verbose=False)
    nodes = [node.op_type for node in onnx.load(tmp_path / "layer.onnx").graph.node]
    assert nodes.count("GridSample") == 1 and "Loop" not in nodes
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    for batch in (x[:2], x):
        (output,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        assert np.abs(output - layer(batch).numpy()).max() < 1e-5
