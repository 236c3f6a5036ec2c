"""Textured shapes: their truth, two networks alike but for the taps, a loss by hand, records that are whole."""

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from deformlib.align import shapes
from deformlib.align.follow import warp
from deformlib.tables import mean_ci

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "align"
RECORDS = sorted(RESULTS.glob("shapes-*.json"))
SEEDS = [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def clips() -> shapes.Shapes:
    return shapes.draw_shapes(np.random.default_rng(5), 24)


def test_a_shape_is_where_its_truth_says(clips: shapes.Shapes):
    """Read at the flow, the second frame gives the third inside of the shape, and the first at twice the flow does."""
    first, second, third = clips.frames.split(1, 1)
    core = torch.nn.functional.max_pool2d((~clips.inside).float()[:, None], 5, 1, 2) == 0  # two pixels from its rim
    wide = torch.where(core, clips.flow, torch.zeros(()))
    copied, read, twice = (
        (image - third)[core].square().mean() for image in (second, warp(second, wide), warp(first, 2 * wide))
    )
    assert read < copied / 20 and twice < copied / 20
    assert clips.frames.min() >= 0 and clips.frames.max() <= 1


def test_a_shape_is_whole_steady_and_not_too_fast(clips: shapes.Shapes):
    assert clips.inside.sum((1, 2)).min() > 100  # a disc of 12 pixels has 113
    assert clips.inside.sum((1, 2)).max() <= 13 * 13
    assert not any(clips.inside.select(axis, end).any() for axis, end in product((1, 2), (0, -1)))
    assert clips.flow.abs().max() <= shapes.SPEED and clips.flow.abs().amax((1, 2, 3)).min() > 0
    assert (clips.flow.abs().sum(1) > 0).eq(clips.inside).all()  # the wall does not move
    again = shapes.draw_shapes(np.random.default_rng(5), 24)
    assert torch.equal(again.frames, clips.frames)
    assert not torch.equal(shapes.draw_shapes(np.random.default_rng(6), 24).frames, clips.frames)


def test_the_networks_are_alike_but_for_the_taps(clips: shapes.Shapes):
    """The same picture before training; the plain one has more parameters, and the same ones but for its last layer."""
    moving, plain = (shapes.NextFrame(kind) for kind in (True, False))
    with torch.no_grad():
        (first, offset), (second, none) = (net(clips.frames[:, :2]) for net in (moving, plain))
    assert (
        torch.allclose(first, second, atol=1e-6)
        and offset.shape == (24, 18, 32, 32)
        and not offset.any()
        and none is None
    )
    sizes = [{name: each.shape for name, each in net.named_parameters()} for net in (moving, plain)]
    assert sizes[0].items() <= sizes[1].items() and sizes[1].keys() - sizes[0].keys() == {"last.weight", "last.bias"}
    assert shapes.NextFrame(True, rest=False)(clips.frames[:, :2])[1].abs().max() > 0


def test_moving_taps_read_where_they_are_sent(clips: shapes.Shapes):
    """All taps sent by (1, -2): the picture of the kernel at rest, shifted."""
    net = shapes.NextFrame(True)
    with torch.no_grad():
        rest = net(clips.frames[:, :2])[0]
        net.branch.bias.copy_(torch.tensor([1.0, -2.0]).repeat(9) / shapes.SPEED)
        moved = net(clips.frames[:, :2])[0]
    assert torch.allclose(moved[..., 2:-3, 4:-2], rest[..., 3:-2, 2:-4], atol=1e-5)


def test_fidelity_by_hand_and_by_loops():
    """Below the threshold nothing, above it all of the distance, the mean over taps, axes and places; in float64."""
    rng = np.random.default_rng(0)
    offset, flow = rng.normal(0, 4, (2, 6, 3, 4)), rng.normal(0, 2, (2, 2, 3, 4))
    total = 0.0
    for image, tap, axis, y, x in product(range(2), range(3), range(2), range(3), range(4)):
        away = abs(offset[image, 2 * tap + axis, y, x] - flow[image, axis, y, x])
        total += away if away > 3 else 0
    found = shapes.offset_fidelity(torch.from_numpy(offset), torch.from_numpy(flow), 3)
    assert abs(float(found) - total / offset.size) < 1e-12 and total > 0
    near = torch.tensor([3.9, -1.9]).view(1, 2, 1, 1).requires_grad_()
    loss = shapes.offset_fidelity(near, torch.ones(1, 2, 1, 1), 3)
    loss.backward()
    assert loss == 0 and not near.grad.any()
    for wrong in ((1, 3, 4, 4), (1, 18, 4, 5), (2, 18, 4, 4)):
        with pytest.raises(ValueError, match="expected"):
            shapes.offset_fidelity(torch.zeros(wrong), torch.zeros(1, 2, 4, 4))


def test_the_truth_measures_as_perfect_and_half_of_it_as_half(clips: shapes.Shapes):
    third = clips.frames[:, 2:]
    found, half = (shapes.measure_shapes(clips, third, factor * clips.flow) for factor in (1.0, 0.5))
    assert found["mse"] == found["mse_shape"] == found["endpoint_error"] == found["wall"] == 0
    assert abs(found["r"] - 1) < 1e-9 and abs(found["slope"] - 1) < 1e-9 and abs(half["slope"] - 0.5) < 1e-9
    assert abs(half["endpoint_error"] - found["endpoint_error_no_motion"] / 2) < 1e-6
    assert shapes.measure_shapes(clips, third, clips.flow.flip(1))["r"] < 0.7  # dx for dy
    off = shapes.measure_shapes(clips, third + 0.1 * clips.inside[:, None])
    assert abs(off["mse_shape"] - 0.01) < 1e-6 and abs(off["mse"] - 0.01 * float(clips.inside.float().mean())) < 1e-6
    assert set(off) == {"mse_shape", "mse"}


def test_flow_carried_on_beats_the_copy_and_the_fast_covers_the_slow(clips: shapes.Shapes):
    found = shapes.measure_others(clips)
    assert found["dis"]["r"] > 0.9 and found["dis"]["endpoint_error"] < 0.8
    assert found["truth"]["mse_shape"] < found["dis"]["mse_shape"] < found["copy"]["mse_shape"] / 3
    assert found["copy"].keys() == found["truth"].keys() == {"mse", "mse_shape"}


def test_lost_taps_are_counted(clips: shapes.Shapes):
    """Sent down by 4: of the taps inside of the frame at rest, those of the lowest rows leave it."""
    net = shapes.NextFrame(True)
    assert shapes.measure_next(net, clips)["lost"] == 0
    with torch.no_grad():
        net.branch.bias.copy_(torch.tensor([4.0, 0.0]).repeat(9) / shapes.SPEED)
    rows = [y + tap for y, tap in product(range(32), (-1, 0, 1)) if 0 <= y + tap < 32]
    expected = sum(row + 4 >= 32 for row in rows) / len(rows)
    assert abs(shapes.measure_next(net, clips)["lost"] - expected) < 1e-6 and expected > 0.1


def test_a_few_steps_lower_the_error_and_the_alarm_is_heard(clips: shapes.Shapes):
    torch.manual_seed(0)
    net = shapes.NextFrame(True)
    before = shapes.measure_next(net, clips)["mse"]
    heard = []
    losses, rang = shapes.train_next(
        net, 0, 20, 1e-2, 8, alarm=lambda calls: heard.append(len(calls)) or ["!"] * (len(heard) - 1)
    )
    assert len(losses) == 20 and rang == [19] and heard == [1, 1]
    assert shapes.measure_next(net, clips)["mse"] < before
    torch.manual_seed(0)
    assert shapes.train_next(shapes.NextFrame(True), 0, 1, 1e-2, 8)[0] == losses[:1]


def test_fidelity_keeps_offsets_near():
    """The same start, far away: with the loss the offsets come back, without it they do not."""
    far = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        net = shapes.NextFrame(True)
        with torch.no_grad():
            net.branch.bias.fill_(10.0)  # 40 pixels: nothing is read there, and no gradient comes back
        shapes.train_next(net, 0, 8, 3e-1, 4, fidelity=weight)
        far.append(float(net.branch.bias.detach().abs().mean()))
    assert abs(far[0] - 10) < 1e-3 and far[1] < 9.5


@pytest.mark.slow
def test_a_run_is_recorded_once(tmp_path: Path):
    record = shapes.run_next(tmp_path, "free", 3, {}, "validation", lambda calls: [], steps=20, lr=1e-3)
    (path,) = tmp_path.glob("*.json")
    assert path.name == "shapes-free-steps-20-lr-0.001-validation-seed-3.json"
    assert record["alarms"] == {"looks": 2, "rang": []} and record["settings"]["lr"] == 1e-3
    path.write_text(json.dumps(record | {"marked": True}))
    assert shapes.run_next(tmp_path, "free", 3, {}, "validation", steps=20, lr=1e-3)["marked"]


def runs(arm: str) -> list[dict]:
    """The records of one arm on the test clips, by seed."""
    return [json.loads(path.read_text()) for path in RECORDS if re.match(rf"shapes-{arm}-test", path.name)]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_whole(path: Path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem and record["split"] == "drawn_anew" and record["seed"] in (*SEEDS, 100)
    assert ("validation" in path.stem) == ("validation" in record["data"]) == (record["seed"] == 100)
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]) and record["versions"]["torch"]
    assert record["parameters"] == sum(
        each.numel() for each in shapes.NextFrame(record["settings"]["moving"]).parameters()
    )
    assert record["cpu_seconds"] > 1 and "threads" in record["device"]


def test_each_arm_has_five_seeds_with_its_settings_and_the_same_clips():
    for arm, settings in shapes.ARMS.items():
        found = runs(arm)
        assert [record["seed"] for record in found] == SEEDS, arm
        assert all(record["settings"] == settings | {"batch": 16, "threads": 1} for record in found), arm
        for name in ("copy", "dis", "truth"):
            assert all(record["results"][name] == runs("taps")[0]["results"][name] for record in found)


def test_learning_rates_are_the_best_that_were_tried():
    """On validation clips, with a seed of their own; both networks tried the same rates."""
    for arm in ("taps", "plain"):
        tried = [json.loads(path.read_text()) for path in RESULTS.glob(f"shapes-{arm}-lr-*-validation-*.json")]
        assert sorted(record["settings"]["lr"] for record in tried) == sorted(shapes.RATES)
        best = min(tried, key=lambda record: record["results"]["network"]["mse_shape"])
        assert best["settings"]["lr"] == shapes.ARMS[arm]["lr"], arm


def test_the_page_shows_the_records():
    """Mean and interval of each network's error, counted here anew, stand in the page's tables."""
    book = json.loads((ROOT / "notebooks" / "workshop" / "shapes.ipynb").read_text(encoding="utf-8"))
    tables = [
        "".join(output["data"]["text/plain"])
        for cell in book["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    for arm in shapes.ARMS:
        mean, half = mean_ci([record["results"]["network"]["mse_shape"] for record in runs(arm)])
        assert any(f"{mean:.4f} ± {half:.4f}" in table for table in tables), arm
