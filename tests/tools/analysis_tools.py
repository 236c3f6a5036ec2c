"""Third-party analysis tools on a deformable layer: installs them beside this environment, tries each in
another process, and writes results/benchmarks/tools.json and tools.md (python tests/tools/analysis_tools.py).
"""

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from deformlib.files import atomic_write
from deformlib.paper.tools import (
    CHANNELS,
    FILTERS,
    SIZE,
    Tool,
    compare,
    describe_tools,
    images,
    share,
    try_tool,
)

PINNED = (  # without what they ask for: PyTorch and the rest are those of this environment
    "fvcore==0.1.5.post20221221",
    "iopath==0.1.10",
    "yacs==0.1.8",
    "portalocker==4.4.2",
    "termcolor==3.3.0",
    "torchinfo==1.8.0",
    "ptflops==0.7.5",
    "thop==0.1.1.post2209072238",
    "captum==0.9.0",
)
TRIED = (
    "torch",
    "torchvision",
    "fvcore",
    "torchinfo",
    "ptflops",
    "thop",
    "captum",
    "onnx",
    "onnxscript",
    "onnxruntime",
)
FOLDER = Path(__file__).parents[2] / "results" / "benchmarks"


def fvcore(layer: nn.Module) -> str:
    """FlopCountAnalysis, whose unit is a multiply-add."""
    from fvcore.nn import FlopCountAnalysis

    return share(FlopCountAnalysis(layer, images(1)).total(), layer)


def torchinfo(layer: nn.Module) -> str:
    """summary, of which the multiply-adds in all."""
    from torchinfo import summary

    return share(summary(layer, input_data=images(1), verbose=0).total_mult_adds, layer)


def ptflops(layer: nn.Module, backend: str) -> str:
    """get_model_complexity_info, by hooks on modules ("pytorch") or on operations ("aten")."""
    from ptflops import get_model_complexity_info

    shape, silent = (CHANNELS, *SIZE), {"as_strings": False, "print_per_layer_stat": False}
    return share(get_model_complexity_info(layer, shape, backend=backend, **silent)[0], layer)


def thop(layer: nn.Module) -> str:
    """profile."""
    from thop import profile

    return share(profile(layer, inputs=(images(1),), verbose=False)[0], layer)


class Classifier(nn.Module):
    """A layer, ReLU, mean and three logits, all without bias: what attributions share out is the logit itself."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, parameter in layer.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        torch.manual_seed(0)
        self.layer, self.relu, self.linear = layer, nn.ReLU(), nn.Linear(FILTERS, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.relu(self.layer(x)).mean((2, 3)))


def captum(layer: nn.Module, name: str, **options: int) -> str:
    """An attribution of one logit to pixels: whether its sum is the logit, which is 0 for a black image."""
    from captum import attr

    net, x = Classifier(layer), images(2)
    found = getattr(attr, name)(net).attribute(x, target=1, **options)
    return compare(found.sum((1, 2, 3)), net(x)[:, 1], 1e-2)


def onnx(layer: nn.Module, opset: int, dynamo: bool = True) -> str:
    """torch.onnx.export for any batch: what ONNX Runtime computes from it on a CPU, and of how many nodes."""
    import onnxruntime
    from onnx import load

    layer, names = layer.eval(), {"input_names": ["x"], "output_names": ["y"]}
    free = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        options = {"opset_version": opset, "dynamo": dynamo, "external_data": False}  # one file, read as bytes below
        torch.onnx.export(layer, (images(2),), path, **options, **names, **free)
        kinds = Counter(node.op_type for node in load(path).graph.node)
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"x": images(5).numpy()})
    own = next((f", {kind}" for kind in ("DeformConv", "GridSample", "Loop") if kind in kinds), "")
    return f"{compare(torch.from_numpy(output), layer(images(5)))} ({sum(kinds.values())} nodes{own})"


TOOLS: dict[str, Tool] = {
    "fvcore": fvcore,
    "torchinfo": torchinfo,
    "ptflops, by modules": lambda layer: ptflops(layer, "pytorch"),
    "ptflops, by operations": lambda layer: ptflops(layer, "aten"),
    "thop": thop,
    "captum IntegratedGradients": lambda layer: captum(layer, "IntegratedGradients", n_steps=200),
    "captum DeepLift": lambda layer: captum(layer, "DeepLift"),
    "captum LRP": lambda layer: captum(layer, "LRP"),
    "ONNX, opset 19": lambda layer: onnx(layer, 19),
    "ONNX, opset 18": lambda layer: onnx(layer, 18),
    "ONNX, older exporter": lambda layer: onnx(layer, 19, dynamo=False),
}


def environment(folder: Path) -> Path:
    """A Python that has the pinned tools and, behind them, all that this one has."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    inside = Path(sysconfig.get_path("purelib", "venv" if os.name == "posix" else "nt_venv", paths))
    (inside / "beside.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    python = Path(sysconfig.get_path("scripts", "venv" if os.name == "posix" else "nt_venv", paths)) / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PINNED], check=True)
    return python


PAIRS = [(name, layer) for name in TOOLS for layer in ("plain", "ours", "torchvision")]


def rows_by(python: Path) -> list[dict]:
    """All rows, from another Python; a process that crashes is a row of its own, and another goes on behind it."""
    rows: list[dict] = []
    while len(rows) < len(PAIRS):
        command = [python, __file__, "--start", str(len(rows))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"tool"')]
        if len(rows) < len(PAIRS):
            error = f"the process ended with code {done.returncode}"
            rows.append(
                dict(zip(("tool", "layer"), PAIRS[len(rows)], strict=True)) | {"verdict": "fails", "error": error}
            )
    return rows


def try_from(start: int) -> None:
    """Print a row as a line of JSON for each tool and layer from number `start` on, as soon as it is known."""
    for name, layer in PAIRS[start:]:
        with redirect_stdout(io.StringIO()):
            row = try_tool(name, TOOLS[name], layer)
        print(f"\n{json.dumps(row)}", flush=True)


def write_record(rows: list[dict], folder: Path) -> None:
    """Write tools.json and tools.md: the versions that were tried, and the rows."""
    pinned = dict(line.split("==") for line in PINNED)
    versions = {"python": platform.python_version()}
    versions |= {name: pinned.get(name) or version(name) for name in TRIED}
    text = [
        "# Third-party analysis tools on a deformable layer",
        "Written by `python tests/tools/analysis_tools.py`; notebooks/workshop/tools.ipynb says what the words mean.",
        describe_tools(rows),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
    ]
    for name, said in (
        ("tools.json", json.dumps({"versions": versions, "rows": rows}, indent=1)),
        ("tools.md", "\n\n".join(text)),
    ):
        with atomic_write(folder / name) as beside:
            beside.write_text(f"{said}\n", encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    """Try all tools and write the record; with --start those from this number on, whose rows are printed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where tools.json and tools.md go")
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.start is not None:
        try_from(options.start)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_by(environment(Path(folder)))
    write_record(rows, options.folder)


if __name__ == "__main__":
    main()
