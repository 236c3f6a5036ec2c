"""The explorer: its numbers against the network's, its JavaScript against Python, its HTML file in a real browser."""

import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from factories import opened, pixels
from torch import nn

from deformlib.explorer import Explorer, as_scene, trace_clip
from deformlib.network import NetworkConfig, NetworkError, VideoNet
from deformlib.offsets import base_points, output_grid, point_weights, sampling_points
from deformlib.views import POSITION

SMALL = {"classes": 3, "length": 8, "size": 24, "conv3d": (4, 4, 4), "hidden": (4, 4, 4), "conv2d": (4, 4, 4)}
STEPS = ((0, 2), (1, 2), (2, 3))
TITLE = 'joy </script><img src=x onerror=alert(1)> & "it\'s"'


def network(spread: float = 0.3, build: Callable = VideoNet, **options: object) -> VideoNet:
    """A small network whose offset branches answer at random; build: from its configuration to the network."""
    torch.manual_seed(0)
    net = build(NetworkConfig(**(SMALL | {"deform_steps": STEPS} | options))).eval()
    for name, parameter in net.named_parameters():
        if "offset_branch" in name:
            torch.nn.init.normal_(parameter, std=spread)
    return net


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.rand(1, 8, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def explorer(clip: torch.Tensor) -> Explorer:
    """Three networks: one without deformation, one with, one with masks; offsets that leave the frame."""
    plain = network(deform_steps=((), (), ()))
    traces = {
        "plain": trace_clip(plain, clip),
        "<b>far</b>": trace_clip(network(1.5), clip),
        "masks": trace_clip(network(modulated=True), clip),
    }
    return Explorer(traces, TITLE)


@pytest.mark.parametrize("options", [{}, {"modulated": True}])
def test_looks_are_what_the_network_used(clip, options):
    net = network(**options)
    seen, fields = trace_clip(net, clip), net.offset_fields(clip[None])
    for layer, steps in enumerate(STEPS):
        for step in range(4):
            field = seen.fields[step][layer]
            if step in steps:
                assert torch.allclose(field.offset, fields[layer][0, steps.index(step)], atol=1e-6)
                assert (field.mask is not None) == bool(options)
            else:
                assert not field.offset.any()
            kernel = net.recurrent[layer].input_conv.weight
            assert torch.allclose(field.weight, kernel.square().sum((0, 1)).sqrt().flatten())
    assert seen.deformable == STEPS and seen.frames.equal(clip[:, ::2].transpose(0, 1))


def test_one_field_a_filter(clip):
    net = network(per_filter=True)
    seen, fields = trace_clip(net, clip, group=3), net.offset_fields(clip[None])
    raw = fields[0][0, 1].unflatten(0, (9, 4, 2))[:, 3]  # channel 2 (tap F + filter)
    assert torch.allclose(seen.fields[2][0].offset, raw.flatten(0, 1), atol=1e-6)


def test_a_deformable_state_does_not_hide_the_input(clip):
    """Both convolutions of a step are recorded; what is shown are the input's offsets."""
    net = network(gates="convolution", deform_state=True)
    seen, fields = trace_clip(net, clip), net.offset_fields(clip[None])
    for layer, steps in enumerate(STEPS):
        for place, step in enumerate(steps):
            assert torch.allclose(seen.fields[step][layer].offset, fields[layer][0, place], atol=1e-6)
        assert not seen.fields[({0, 1, 2, 3} - set(steps)).pop()][layer].offset.any()


def test_looking_changes_nothing_in_the_network(clip):
    net = network().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trace_clip(net, clip)
    assert net.training and all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


def in_place(net: VideoNet) -> VideoNet:
    """Compiled as a whole and in parts, and called before."""
    net.compile(backend="eager")
    net.recurrent[1].compile(backend="eager")
    net(torch.rand(1, 1, 8, 24, 24))
    return net


def in_parts(net: VideoNet) -> VideoNet:
    """Parts that are compiled or parallel."""
    net.conv3d, net.recurrent[0] = (torch.compile(part, backend="eager") for part in (net.conv3d, net.recurrent[0]))
    net.recurrent[2] = nn.DataParallel(net.recurrent[2])
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: torch.compile(nn.DataParallel(in_parts(net))),
        pytest.param(in_place, marks=pytest.mark.slow),  # test_offsets has compiled networks that were called before
    ],
)
def test_a_wrapped_network_looks_where_the_bare_one_does(clip, wrap):
    bare, seen = trace_clip(network(), clip), trace_clip(wrap(network()), clip)
    assert seen.to_frame.equal(bare.to_frame) and seen.deformable == bare.deformable == STEPS
    for step in range(4):
        for one, other in zip(bare.fields[step], seen.fields[step], strict=True):
            assert torch.allclose(one.offset, other.offset, atol=1e-6) and one.weight.equal(other.weight)


def test_the_released_border_is_looked_at_as_it_is_read(clip):
    """The layer that calls the operator is the ConvLSTM itself; no tap inside the map is left outside of it."""
    from deformlib.paper.released import ReleasedVideoNet

    seen = trace_clip(network(2.0, partial(ReleasedVideoNet, defects=("released_border",))), clip)
    points = sampling_points([seen.fields[2][0]], output_grid(seen.fields[2][0]))
    assert seen.fields[2][0].offset.any() and points.min() >= -1e-4 and points.max() <= 5 + 1e-4


class Silent(nn.Module):
    """Says that it deforms at two steps, and calls no operator that could be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.deform_steps, self.input_conv = (1, 2), nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return x, None


def test_what_cannot_be_looked_at_is_said(clip):
    with pytest.raises(NetworkError, match="VideoNet, not a Conv2d"):
        trace_clip(torch.compile(nn.Conv2d(1, 1, 3)), clip)
    with pytest.raises(NetworkError, match="numbers that are not finite"):
        trace_clip(network(), clip / 0)
    net = network()
    net.recurrent[1] = Silent()
    with pytest.raises(NetworkError, match=r"no call of recurrent\.1 was recorded"):
        trace_clip(net, clip)


@pytest.fixture(scope="module")
def diverged(clip: torch.Tensor) -> Explorer:
    """Layer 2 has a weight that is not finite, so layer 3 has such offsets; and a network whose offsets explode."""
    net, large = network(), network()
    with torch.no_grad():
        net.recurrent[1].input_conv.weight[0, 0, 1, 1] = torch.inf
        large.recurrent[2].input_conv.offset_branch.bias.fill_(1e30)
    return Explorer({"diverged": trace_clip(net, clip), "large": trace_clip(large, clip)}, step=2)


def not_json(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def test_a_diverged_network_gives_valid_json(diverged, tmp_path):
    page = diverged.export_html(tmp_path / "page.html").read_text(encoding="utf-8")
    text = re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1]
    layers = json.loads(text, parse_constant=not_json)["scene"]["networks"][0]["layers"]
    assert [layer["weight"].count(None) for layer in layers] == [0, 1, 0]
    assert json.loads(json.dumps(diverged.scene), parse_constant=not_json) == diverged.scene
    assert diverged.scene["margin"] == 4 * 24  # no wider than four frames


def test_points_are_in_pixels_of_the_frame(clip, explorer):
    seen = explorer.traces["plain"]
    for layer, depth in ((0, 1), (2, 1), (2, 3), (1, 2)):
        points = sampling_points(seen.stack(0, layer, depth), (2, 3))
        assert points.mean(0).tolist() == pytest.approx([4 * 2 + 1.5, 4 * 3 + 1.5])
        assert (points.amax(0) - points.amin(0)).tolist() == [8 * depth, 8 * depth]


def test_the_scene_holds_every_point(explorer):
    scene = explorer.scene
    seen = explorer.traces["<b>far</b>"]
    stacks = [seen.stack(step, 2, 3) for step in range(4)]
    points = torch.cat([sampling_points(stack, output_grid(stack[-1])).reshape(-1, 2) for stack in stacks])
    reach = max(-points.min().item(), points.max().item() - 24)
    assert 2 < reach <= scene["margin"] < reach + 1 and json.loads(json.dumps(scene)) == scene
    assert base_points(stacks[0], torch.tensor([[0.0, 0.0]])).tolist() == [[1.5, 1.5]]


def test_scenes_that_do_not_fit_together_are_refused(clip):
    net = network()
    with pytest.raises(ValueError, match="other looked at another clip"):
        as_scene({"one": trace_clip(net, clip), "other": trace_clip(net, clip.flip(1))})
    with pytest.raises(ValueError, match="at least one"):
        as_scene({})


def test_the_explorer_starts_where_something_deforms(clip):
    start = Explorer({"late": trace_clip(network(deform_steps=((3,), (), ())), clip)})
    assert (start.step, start.layer, start.depth, start.row, start.column) == (3, 0, 1, 3, 3)
    start.depth, start.layer = 2, 1
    assert "late" in repr(start) and "step 3, layer 1, 2 deep" in repr(start)
    assert start.points("late").shape == (81, 2)


def test_the_file_is_one_file_and_its_labels_are_harmless(explorer, tmp_path):
    path = explorer.export_html(tmp_path / "explorer.html")
    page = path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]
    assert not re.search(r"(https?:)?//[a-z0-9]+\.", page) and "import " not in page and "fetch(" not in page
    assert page.count("</script>") == 2 and "<img" not in page and "<b>" not in page
    assert "default-src 'none'" in page


@pytest.fixture
def page(browser, explorer: Explorer, tmp_path: Path) -> Iterator:
    with opened(browser, explorer, tmp_path) as page:
        yield page


def test_a_page_says_what_it_cannot_draw(browser, diverged, tmp_path):
    with opened(browser, diverged, tmp_path) as page:
        said = page.locator("figcaption").first
        assert "9 points, 0 outside" in said.inner_text() and "not drawn" not in said.inner_text()
        for layer, lost in ((1, 1), (2, 9)):
            page.locator("select").first.select_option(index=layer)
            page.locator("input[type=checkbox]").set_checked(True)
            assert f"{lost} of them are not drawn: their offsets or weights are not finite" in said.inner_text()
        assert "9 outside the frame" in page.locator("figcaption").nth(1).inner_text()


def shown(page, name: str) -> torch.Tensor:
    """The points that a canvas shows, (y, x, weight)."""
    return torch.tensor(page.locator("figure", has_text=name).locator("canvas").evaluate("canvas => canvas.points"))


def test_javascript_and_python_agree(page, explorer):
    panel = page.locator(".deformlib-explorer")
    panel.focus()
    for step, layer, depth, down, right in (
        (0, 0, 1, 0, 0),
        (1, 1, 1, -3, 2),
        (2, 2, 3, 0, -5),
        (3, 2, 2, 5, 5),
        (2, 1, 2, -1, 0),
    ):
        page.locator("input[type=range]").fill(str(step))
        page.locator("select").first.select_option(index=layer)
        panel.focus()
        page.keyboard.press(str(depth))
        for key, times in (("ArrowDown", down), ("ArrowUp", -down), ("ArrowRight", right), ("ArrowLeft", -right)):
            for _ in range(times):
                page.keyboard.press(key)
        explorer.step, explorer.layer, explorer.depth = step, layer, depth
        explorer.row = min(max(explorer.row + down, 0), 5)
        explorer.column = min(max(explorer.column + right, 0), 5)
        for name in explorer.traces:
            found, expected = shown(page, name), explorer.points(name)
            stack = explorer.traces[name].stack(step, layer, depth)
            weights = point_weights(stack, (explorer.row, explorer.column))
            assert found.shape == (9**depth, 3)
            assert torch.allclose(found[:, :2], expected, atol=1e-3)
            assert torch.allclose(found[:, 2], weights, rtol=1e-4)


def test_hover_slider_and_overlay_change_the_picture(page, explorer):
    start = pixels(page)
    canvas = page.locator("canvas").nth(1)
    box, margin = canvas.bounding_box(), explorer.scene["margin"]
    zoom = box["width"] / (24 + 2 * margin)
    at = [(margin + 0.5 + 4 * place + 1.5) * zoom for place in (1, 4)]  # row 1, column 4
    page.mouse.move(box["x"] + at[1], box["y"] + at[0])
    assert shown(page, "plain")[:, :2].mean(0).tolist() == pytest.approx([5.5, 17.5])  # on every canvas
    hovered = pixels(page)
    assert all(one != other for one, other in zip(start, hovered, strict=True))
    slider = page.locator("input[type=range]").bounding_box()
    page.mouse.move(slider["x"] + 8, slider["y"] + slider["height"] / 2)
    page.mouse.down()
    page.mouse.move(slider["x"] + slider["width"] - 2, slider["y"] + slider["height"] / 2, steps=5)
    page.mouse.up()
    assert page.locator("output").inner_text().strip().startswith("3 (of") and pixels(page) != hovered
    without = pixels(page)
    page.locator(".deformlib-explorer").focus()
    page.keyboard.press("l")
    page.keyboard.press("l")
    before = pixels(page)
    page.keyboard.press("m")
    assert pixels(page)[1] != before[1] != without[1] and page.locator("input[type=checkbox]").is_checked()


def test_hovered_pixels_are_the_computed_points(page, explorer):
    """What the mouse brings up on the canvas, pixel by pixel: the colour of a point where Python says there is one."""
    ramp = [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]
    canvas, margin = page.locator("canvas").first, explorer.scene["margin"]
    box = canvas.bounding_box()
    zoom, place = box["width"] / (24 + 2 * margin), (4, 1)
    at = [(margin + 0.5 + 4 * each + 1.5) * zoom for each in place]
    page.mouse.move(box["x"] + at[1], box["y"] + at[0])
    explorer.step, explorer.layer, explorer.depth = 2, 0, 1
    page.locator("input[type=range]").fill("2")
    page.locator("select").first.select_option(index=0)
    explorer.row, explorer.column = place
    checked, outside = 0, 0
    for number, (name, seen) in enumerate(explorer.traces.items()):
        points, weights = explorer.points(name), point_weights(seen.stack(2, 0), place)
        share = weights / weights.max() * 4
        zoom = page.locator("canvas").nth(number).evaluate("canvas => canvas.width") / (24 + 2 * margin)
        for point, part in zip(points, share.tolist(), strict=True):
            if ((points - point).norm(dim=1) * zoom < 10).sum() > 1:  # another one is drawn over it, or nearly
                continue
            low = min(int(part), 3)
            colour = [one + (part - low) * (other - one) for one, other in zip(ramp[low], ramp[low + 1], strict=True)]
            y, x = ((point + 0.5 + margin) * zoom).round().int().tolist()
            read = f"canvas => [...canvas.getContext('2d').getImageData({x}, {y}, 1, 1).data]"
            assert page.locator("canvas").nth(number).evaluate(read)[:3] == pytest.approx(colour, abs=2)
            checked, outside = checked + 1, outside + bool(((point < -0.5) | (point > 23.5)).any())
    assert checked > 12 and outside > 0


def test_the_page_has_the_colours_of_the_figures(explorer):
    assert POSITION in explorer._esm and POSITION in explorer._css


def test_script_style_and_page_are_part_of_the_package():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    patterns = re.findall(r'"([^"]+)"', re.search(r"package-data.*?deformlib = \[(.*?)\]", project, re.DOTALL)[1])
    for name in ("explorer.js", "explorer.css", "explorer.html"):
        assert any(fnmatch(name, pattern) for pattern in patterns) and (files("deformlib") / name).is_file()


def test_labels_are_text_and_play_plays(page):
    assert page.locator(".title").inner_text() == TITLE and page.locator("img").count() == 0
    assert page.locator("figure strong").nth(1).inner_text() == "<b>far</b>"
    said = page.locator("output")
    before = said.inner_text()
    page.locator("button").click()
    page.wait_for_function("old => document.querySelector('output').innerText !== old", arg=before)
    page.locator("button").click()
    assert page.locator("button").inner_text() == "play"


def test_the_clip_may_be_shown_in_other_pixels(clip):
    large = torch.nn.functional.interpolate(clip, (72, 48))
    seen = trace_clip(network(), clip, large)
    points = sampling_points(seen.stack(1, 0), (2, 3))
    small = sampling_points(trace_clip(network(), clip).stack(1, 0), (2, 3))
    assert seen.frames.shape == (4, 1, 72, 48)
    assert torch.allclose(points, (small + 0.5) * torch.tensor([3.0, 2.0]) - 0.5, atol=1e-4)


def test_chapter_14_switches_custom_widgets_on_in_colab(monkeypatch, tmp_path):
    """On Colab, and only there, before the explorer is shown."""
    stored = json.loads((Path(__file__).parent.parent / "notebooks" / "14_learned_offsets.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in stored["cells"] if cell["cell_type"] == "code"]
    (cell,) = [cell for cell in cells if "google.colab" in cell]
    (tmp_path / "cell.py").write_text(cell)
    asked = []
    colab = ModuleType("google.colab")
    colab.output = SimpleNamespace(enable_custom_widget_manager=lambda: asked.append("on"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    for shell, expected in (
        ("<ipykernel.zmqshell.ZMQInteractiveShell object>", []),
        ("<google.colab._shell.Shell object>", ["on"]),
    ):
        names = {
            "get_ipython": lambda shell=shell: shell,
            "traces": {},
            "titles": {},
            "Explorer": lambda *given: asked.append("made"),
        }
        asked.clear()
        runpy.run_path(str(tmp_path / "cell.py"), names)
        assert asked == [*expected, "made"]


def test_the_gallery_is_small_and_every_picture_of_the_readme_says_what_it_shows():
    root = Path(__file__).parent.parent
    pictures = sorted((root / "results" / "gallery").iterdir())
    assert {picture.suffix for picture in pictures} == {".gif", ".mp4", ".png"} and len(pictures) == 9
    assert sum(picture.stat().st_size for picture in pictures) < 750_000
    assert (root / "results/gallery/follow.gif").stat().st_size < 300_000  # the first that README shows
    for text, place in re.findall(r"!\[(.*?)\]\((results/.*?)\)", (root / "README.md").read_text()):
        assert (root / place).is_file() and len(text.split()) > 4, place
