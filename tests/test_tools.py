"""Analysis tools on deformable layers: the formulas, the verdicts, PyTorch's own on ours, the record of the others."""

from pathlib import Path

import pytest
import torch
from analysis_tools import PINNED, TOOLS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deformlib.fast.export import with_torchvision
from deformlib.paper.tools import (
    TORCH_TOOLS,
    compare,
    describe_tools,
    images,
    make_layers,
    products,
    read_tools,
    sampling,
    share,
    try_tool,
)

RECORD = Path(__file__).parent.parent / "results" / "benchmarks" / "tools.json"
LAYERS = ("plain", "ours", "torchvision")


def verdict(name: str, layer: str) -> str:
    """What one of PyTorch's own tools says of a layer."""
    return try_tool(name, TORCH_TOOLS[name], layer)["verdict"]


@torch.no_grad()
def test_the_layers_compute_the_same_and_their_taps_move():
    plain, ours, theirs = make_layers().values()
    x = images(3)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5) and torch.allclose(
        ours(x), with_torchvision(ours)(x), atol=1e-5
    )
    assert ours.fields(x)[0].abs().mean() > 0.1 and plain(x).shape == ours(x).shape


def test_the_formulas_by_hand():
    """Nine taps, 16 channels, 32 filters, 18 offset channels, 120 positions; four for each of 16 numbers a tap."""
    plain, ours, theirs = make_layers().values()
    assert (products(plain), sampling(plain)) == (9 * 16 * 32 * 120, 0)
    assert products(ours) == products(theirs) == 9 * 16 * 50 * 120 and sampling(ours) == 4 * 9 * 16 * 120
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        nn.Conv2d(16, 50, 3, padding=1)(torch.empty(1, 16, 12, 10))
    assert counter.get_total_flops() == 2 * products(ours)


def test_verdicts():
    plain, ours, _ = make_layers().values()
    assert share(products(plain), plain) == "1.00" and share(products(ours) / 2, ours) == "0.50 (0.46)"
    assert share(products(ours) + sampling(ours), ours) == "1.08 (1.00)"
    wanted = torch.tensor([1.0, -4.0])
    assert compare(wanted + 1e-5, wanted) == "same" and compare(0 * wanted, wanted) == "off by 100%"
    assert compare(wanted + torch.tensor([0.0, 2.0]), wanted) == "off by 50%"


def test_a_tool_that_fails_is_a_row_with_its_error():
    def broken(layer: nn.Module) -> str:
        raise RuntimeError("no\n  such layer")

    rows = [try_tool("one", broken, layer) for layer in LAYERS] + [try_tool("two", lambda layer: "same", "ours")]
    assert rows[0] == {"tool": "one", "layer": "plain", "verdict": "fails", "error": "RuntimeError: no such layer"}
    text = describe_tools(rows).splitlines()
    assert text[2].count("fails [1]") == 3 and text[-1] == "[1] RuntimeError: no such layer" and "same" in text[3]


@pytest.mark.parametrize("name", ["FlopCounterMode", "func.vmap", "func.jacrev", "double backward"])
def test_pytorchs_tools_are_right_about_ours(name: str):
    """Ours as an ordinary convolution, without sampling; what is quick of them: the page tries all."""
    right = {"plain": "1.00", "ours": "1.00 (0.93)"} if name == "FlopCounterMode" else {"plain": "same", "ours": "same"}
    assert {layer: verdict(name, layer) for layer in right} == right


def test_forward_mode_is_refused_and_not_wrong():
    """A derivative that is silently zero, as torchvision's is, must never come of ours."""
    assert verdict("func.jvp", "plain") == "same" and verdict("func.jvp", "ours") == "fails"


def test_an_onnx_file_is_read_as_it_was_written():
    """The row of an ordinary convolution in the record, made again: weights lie in the file, not beside it."""
    row = try_tool("ONNX, opset 19", TOOLS["ONNX, opset 19"], "plain")
    assert row in read_tools(RECORD)["rows"]


def test_the_record_is_whole():
    """A row for each tool and layer, the pinned versions, the text beside it; no tool is wrong about nn.Conv2d."""
    record = read_tools(RECORD)
    rows = {(row["tool"], row["layer"]): row for row in record["rows"]}
    assert set(rows) == {(tool, layer) for tool in TOOLS for layer in LAYERS} and len(rows) == len(record["rows"])
    assert all((row["verdict"] == "fails") == (row["error"] is not None) for row in rows.values())
    pinned = dict(line.split("==") for line in PINNED)
    assert {name: record["versions"][name] for name in pinned if name in record["versions"]}.items() <= pinned.items()
    assert all(rows[tool, "plain"]["verdict"][:4] in ("1.00", "1.01", "same") for tool in TOOLS)
    assert describe_tools(record["rows"]) in RECORD.with_suffix(".md").read_text(encoding="utf-8")


def test_the_record_says_where_relevance_is_not_kept():
    """Captum's LRP of a layer with a branch inside gives numbers that are not the logit's; integrated gradients are."""
    rows = {(row["tool"], row["layer"]): row["verdict"] for row in read_tools(RECORD)["rows"]}
    assert rows["captum LRP", "ours"].startswith("off by") and rows["captum IntegratedGradients", "ours"] == "same"
    assert rows["captum LRP", "torchvision"] == "fails"
