"""Taps that follow: a displacement read from fields made by hand, a training that learns, records that are whole."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deformlib.align import follow
from deformlib.align.taps import flow_from_taps, tap_spread
from deformlib.deform import deform_conv2d
from deformlib.make.figures import plan_corpus
from deformlib.make.pairs import Film, film_pairs
from deformlib.tables import mean_ci

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "align"
RECORDS = sorted(RESULTS.glob("align-*.json"))
BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]).view(1, 1, 3, 3)


@pytest.fixture(scope="module")
def films() -> list[Film]:
    """A short film of an actor of the training."""
    clip = next(clip for clip in plan_corpus(0)[80:] if clip.actor in follow.TRAIN_ACTORS)
    return [film_pairs(clip, most=12)]


@pytest.fixture(scope="module")
def known(films: list[Film]) -> follow.KnownPairs:
    return follow.KnownPairs(films, every=8)


def test_a_shift_is_read_as_it_is():
    """All taps carried by (2, -3): so far from the position, whatever the kernel's weights, if they are even."""
    offset = torch.tensor([2.0, -3.0]).repeat(9).view(1, 18, 1, 1).expand(2, 18, 5, 6)
    for weight in (None, BLUR, -BLUR):
        flow = flow_from_taps(offset, 3, weight)
        assert flow.shape == (2, 1, 2, 5, 6)
        assert torch.allclose(flow, torch.tensor([2.0, -3.0])[:, None, None].expand(2, 1, 2, 5, 6))


def test_taps_that_spread_move_nothing_and_a_lone_tap_keeps_its_place():
    spread = torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2)).flatten().view(1, 18, 1, 1)
    assert flow_from_taps(spread, 3, BLUR).abs().max() < 1e-6
    lone = torch.zeros(1, 1, 3, 3)
    lone[0, 0, 0, 2] = -0.5  # |w| counts
    assert flow_from_taps(0 * spread, 3, lone).flatten().tolist() == [-1, 1]
    assert flow_from_taps(0 * spread, 3, lone, dilation=2).flatten().tolist() == [-2, 2]
    assert flow_from_taps(torch.zeros(1, 12, 1, 1), (2, 3)).abs().max() == 0


def test_taps_without_weight_do_not_count():
    offset, weight = torch.full((1, 18, 2, 2), 100.0), torch.zeros(2, 1, 3, 3)
    offset[:, 8:10], weight[1, 0, 1, 1] = 1.5, 2.0
    assert flow_from_taps(offset, 3, weight).eq(1.5).all()


def test_each_group_has_its_own_motion_and_its_own_channels():
    offset = torch.cat([torch.full((1, 18, 3, 3), 2.0), torch.full((1, 18, 3, 3), -1.0)], 1)
    flow = flow_from_taps(offset, 3, torch.ones(3, 4, 3, 3), groups=2)
    assert flow.shape == (1, 2, 2, 3, 3)
    assert torch.allclose(flow[:, 0], torch.tensor(2.0)) and torch.allclose(flow[:, 1], torch.tensor(-1.0))
    weight = torch.ones(1, 2, 3, 3)
    weight[0, 1] = 0
    weight[0, 1, 2, 2] = 1  # the second group reads by its last tap alone
    flow = flow_from_taps(0 * offset, 3, weight, groups=2)
    assert flow[0, 0].abs().max() < 1e-6 and flow[0, 1].eq(1).all()


def test_a_mask_weighs_as_the_kernel_does():
    """A factor of each tap and position: the mask of a modulated layer, and any that is the same everywhere changes
    nothing.
    """
    torch.manual_seed(0)
    offset, mask = torch.randn(2, 36, 3, 4), torch.rand(2, 18, 3, 4) + 0.01
    weight = torch.randn(5, 4, 3, 3)
    plain = flow_from_taps(offset, 3, weight, 2)
    assert torch.allclose(flow_from_taps(offset, 3, weight, 2, mask=0.3 * torch.ones_like(mask)), plain, atol=1e-5)
    found = flow_from_taps(offset, 3, weight, 2, mask=mask)
    where = torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2))
    for image, group, row, column in ((0, 0, 0, 0), (1, 1, 2, 3)):
        shares = weight[:, 2 * group : 2 * group + 2].abs().sum((0, 1)).flatten()
        shares = shares * mask[image].unflatten(0, (2, 9))[group, :, row, column]
        places = where + offset[image].unflatten(0, (2, 9, 2))[group, :, :, row, column]
        expected = (shares[:, None] * places).sum(0) / shares.sum()
        assert torch.allclose(found[image, group, :, row, column], expected, atol=1e-5)
        apart = ((shares * (places - expected).square().sum(1)).sum() / shares.sum()).sqrt()
        spread = tap_spread(offset, 3, weight, 2, mask=mask)
        assert spread.shape == (2, 2, 3, 4) and abs(spread[image, group, row, column] - apart) < 1e-5


def test_a_masked_tap_is_not_read():
    """What the operator reads: with all masks but one at zero, the input at position plus displacement."""
    torch.manual_seed(0)
    ramp = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij"))[None]
    offset, mask = torch.rand(1, 18, 9, 9) - 0.5, torch.zeros(1, 9, 9, 9)
    mask[:, 5] = 1
    flow = flow_from_taps(offset, 3, torch.ones(1, 1, 3, 3), mask=mask)[:, 0]
    read = [deform_conv2d(ramp[:, n : n + 1], offset, torch.ones(1, 1, 3, 3), padding=1, mask=mask) for n in (0, 1)]
    assert torch.allclose((torch.cat(read, 1) - ramp)[..., 2:-2, 2:-2], flow[..., 2:-2, 2:-2], atol=1e-5)
    assert tap_spread(offset, 3, mask=mask).max() < 1e-6


@pytest.mark.parametrize(
    "shape, word", [((1, 18, 2, 2), "mask"), ((1, 9, 2, 3), "mask"), ((1, 9, 2, 2), "reads nothing")]
)
def test_masks_that_do_not_fit_or_shut_everything_are_refused(shape, word):
    with pytest.raises(ValueError, match=word):
        flow_from_taps(torch.zeros(1, 18, 2, 2), 3, mask=torch.zeros(shape))


def test_the_spread_of_a_kernel_at_rest():
    assert tap_spread(torch.zeros(1, 18, 2, 2), 3, BLUR).allclose(torch.tensor(1.0))  # half a pixel squared an axis
    assert tap_spread(torch.zeros(1, 18, 2, 2), 3, BLUR, dilation=2).allclose(torch.tensor(2.0))


def test_what_is_read_is_where_the_operator_looks():
    """One tap with a weight: the operator's output is the input at position plus displacement."""
    torch.manual_seed(0)
    ramp = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij"))[None]
    offset, weight = torch.rand(1, 18, 9, 9) - 0.5, torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 2] = 1
    flow = flow_from_taps(offset, 3, weight)[:, 0]
    read = [deform_conv2d(ramp[:, n : n + 1], offset, weight, padding=1) for n in (0, 1)]
    assert torch.allclose((torch.cat(read, 1) - ramp)[..., 2:-2, 2:-2], flow[..., 2:-2, 2:-2], atol=1e-5)


@pytest.mark.parametrize(
    "shape, kernel, weight, groups, word",
    [
        ((1, 17, 2, 2), 3, None, 1, "18"),
        ((18, 2, 2), 3, None, 1, "18"),
        ((1, 36, 2, 2), 3, torch.ones(1, 3, 3, 3), 2, "multiple of 2"),
        ((1, 18, 2, 2), 3, torch.ones(1, 1, 5, 5), 1, "kernel"),
        ((1, 18, 2, 2), 3, torch.zeros(1, 1, 3, 3), 1, "zero"),
    ],
)
def test_what_does_not_fit_is_refused(shape, kernel, weight, groups, word):
    with pytest.raises(ValueError, match=word):
        flow_from_taps(torch.zeros(shape), kernel, weight, groups)


def test_warp_reads_at_the_flow():
    ramp = torch.arange(12.0).expand(1, 1, 10, 12)
    flow = torch.zeros(1, 2, 10, 12)
    flow[:, 1] = 2.5
    assert torch.allclose(follow.warp(ramp, flow)[..., :9], ramp[..., :9] + 2.5, atol=1e-5)


def test_a_soft_place_finds_a_shift_and_rests_on_a_wall():
    torch.manual_seed(0)
    features = torch.rand(1, 8, 24, 24)
    likeness = follow.correlate(features, features.roll((2, -1), (2, 3)), 3)
    place = follow.soft_place(likeness, 3, torch.tensor(50.0))[0, :, 8:16, 8:16]
    assert torch.allclose(place.mean((1, 2)), torch.tensor([2.0, -1.0]), atol=0.1)
    wall = follow.correlate(torch.ones(1, 8, 24, 24), torch.ones(1, 8, 24, 24), 3)
    assert follow.soft_place(wall, 3, torch.tensor(50.0)).abs().max() < 1e-4


def test_the_truth_measures_as_perfect_and_half_of_it_as_half(known: follow.KnownPairs):
    assert len(known) == len(known.b) and known.a.shape[1:] == (1, 96, 96)
    found, half = (follow.measure(known, known.b, factor * torch.from_numpy(known.flow)) for factor in (1.0, 0.5))
    assert found["mse_moving"] == found["wall"] == found["dense_error"] == 0
    assert found["r"] > 0.9 and 0.85 < found["slope"] < 1.15  # joints are a truth of their own
    assert abs(half["slope"] - found["slope"] / 2) < 1e-5 and abs(half["r"] - found["r"]) < 1e-5
    still = follow.measure(known, known.a, 1e-9 * torch.from_numpy(known.flow))
    assert abs(still["endpoint_error"] - still["endpoint_error_no_motion"]) < 1e-6 and still["mse_moving"] > 0.01
    assert set(follow.measure(known, known.a)) == {"mse_moving"}
    assert follow.measure_dis(known)["r"] > 0.5


def test_pairs_that_are_none_are_refused(films: list[Film]):
    with pytest.raises(ValueError, match="no pair"):
        follow.KnownPairs([films[0]._replace(joints=0 * films[0].joints)])


def test_a_few_steps_lower_the_loss(films: list[Film], known: follow.KnownPairs):
    """On the same pairs before and after; and the same seed begins with the same loss."""
    torch.manual_seed(0)
    net, (a, b) = follow.AlignNet(8), (known.a[:4], known.b[:4])

    def loss() -> float:
        with torch.no_grad():
            return float(follow.align_loss(a, b, *net(a, b)))

    before = loss()
    losses = follow.train_align(net, films, seed=0, steps=20, batch=2)
    assert len(losses) == 20 and loss() < 0.95 * before
    torch.manual_seed(0)
    assert follow.train_align(follow.AlignNet(8), films, seed=0, steps=1, batch=2)[0] == losses[0]


RUNS = [path for path in RECORDS if "checks" in path.name]


def test_the_seeds_are_there_that_the_chapter_names():
    assert [json.loads(path.read_text())["seed"] for path in RUNS] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_whole(path: Path):
    """Everything that a run needs to be made again, and numbers that can be."""
    record = json.loads(path.read_text())
    assert record["name"] == path.stem and record["split"] == "by_actor"
    assert record["data"]["source"].endswith("not GEMEP") and record["data"]["clothes"] in path.stem
    train, test = record["data"]["train"], record["data"]["test"]
    assert (train["corpus"], test["corpus"]) == (0, 1) and train["actors"] == list(range(1, 9))
    assert record["settings"]["steps"] == 1300 and record["cpu_seconds"] > 60
    assert record["parameters"] == sum(each.numel() for each in follow.AlignNet().parameters())
    assert record["loss"]["last_50"] < record["loss"]["first_50"]
    assert (
        re.fullmatch(r"[0-9a-f]{40}", record["commit"])
        and record["versions"]["torch"]
        and "threads" in record["device"]
    )
    assert set(record["results"]) == {"copy", "dis", "untrained", "taps"}
    for name in ("dis", "untrained", "taps"):
        found = record["results"][name]
        assert -1 <= found["r"] <= 1 and found["joints"] > 500 and found["endpoint_error"] > 0
        assert abs(found["wall_over_body"] - found["wall"] / found["body"]) < 1e-6
    assert all(
        record["results"]["taps"]["mse_moving"] < record["results"][name]["mse_moving"] for name in ("copy", "dis")
    )


def test_dis_at_full_size_saw_the_same_pairs(known: follow.KnownPairs):
    """Its record is of the pairs of the others; at full size it comes nearer than the preset, here as well."""
    record = json.loads((RESULTS / "dis-full-size.json").read_text())
    first = json.loads(RUNS[0].read_text())
    assert record["data"]["test"] == first["data"]["test"]
    for column in ("joints", "endpoint_error_no_motion"):
        assert record["results"][column] == first["results"]["dis"][column]
    assert record["results"]["endpoint_error"] < first["results"]["dis"]["endpoint_error"]
    assert follow.measure_dis(known, full_size=True)["mse_moving"] < follow.measure_dis(known)["mse_moving"]


def test_the_same_data_under_every_seed():
    """Copy and DIS are measured in every record, and no seed may change them."""
    found = [json.loads(path.read_text()) for path in RUNS]
    assert all(record["data"] == found[0]["data"] and record["settings"] == found[0]["settings"] for record in found)
    assert all(record["results"][name] == found[0]["results"][name] for record in found for name in ("copy", "dis"))


def test_the_chapter_shows_the_records():
    """Mean and interval of the trained taps, counted here anew, stand in the chapter's table."""
    book = json.loads((ROOT / "notebooks" / "06b_offsets_that_follow.ipynb").read_text(encoding="utf-8"))
    tables = [
        "".join(output["data"]["text/plain"])
        for cell in book["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    found = [json.loads(path.read_text())["results"]["taps"] for path in RUNS]
    for column, digits in (("r", 3), ("slope", 3), ("endpoint_error", 2), ("wall_over_body", 2), ("mse_moving", 4)):
        mean, half = mean_ci([each[column] for each in found])
        assert any(f"{mean:.{digits}f} ± {half:.{digits}f}" in table for table in tables), column


def test_committed_weights_follow_on_this_machine():
    """Seed 0 on one film of a person of corpus 1: no training, the network as it is kept."""
    net = follow.AlignNet()
    path = RESULTS / "align-checks-seed-0.safetensors"
    net.load_state_dict(load_file(path))
    known = follow.KnownPairs([film_pairs(plan_corpus(1)[18], most=24)], every=12)
    found = follow.measure_network(net, known)
    assert path.stat().st_size < 1e6 and found["r"] > 0.8 and 0.6 < found["slope"] < 1.2
