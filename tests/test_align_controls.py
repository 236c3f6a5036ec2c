"""Controls of taps that follow: what is hidden of a frame, a plain network, foresight, a film from a file."""

import json
import re
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from deformlib.align import controls, follow
from deformlib.align.taps import flow_from_taps
from deformlib.make.figures import plan_corpus
from deformlib.make.pairs import Film, film_pairs
from deformlib.tables import mean_ci

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "align"
RECORDS = sorted(RESULTS.glob("coarse-*.json"))
FLAT = sorted(RESULTS.glob("align-flat-*.json"))


@pytest.fixture(scope="module")
def film() -> Film:
    """A short film of a person of corpus 1."""
    return film_pairs(plan_corpus(1)[18], most=12)


def test_a_coarse_frame_knows_the_means_alone():
    """Two frames whose blocks have the same means look alike; an even frame stays as it is."""
    torch.manual_seed(0)
    frame = torch.rand(2, 1, 16, 24)
    shuffled = frame.unflatten(3, (6, 4)).flip(4).flatten(3)  # within each row of a block
    assert torch.allclose(controls.coarse(frame), controls.coarse(shuffled), atol=1e-6)
    assert controls.coarse(frame).shape == frame.shape and not torch.allclose(controls.coarse(frame), frame, atol=0.1)
    assert torch.allclose(controls.coarse(torch.full((1, 1, 8, 8), 0.3)), torch.tensor(0.3))


def test_the_plain_network_is_larger_and_begins_as_its_skip():
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 32, 32), torch.rand(2, 1, 32, 32)
    for skip, begin in (("a", a), ("b", b)):
        net = controls.PlainNet(skip=skip)
        out, offset, flow, quarter = net(a, b)
        assert torch.equal(out, begin) and not offset.any() and not flow.any() and not quarter.any()
        assert [each.shape for each in (offset, flow, quarter)] == [each.shape for each in follow.AlignNet()(a, b)[1:]]
        trained = [each.numel() for each in net.parameters() if each.requires_grad]
        assert sum(trained) > sum(each.numel() for each in follow.AlignNet().parameters())
        with torch.no_grad():
            net.draw[-1].weight.normal_()
        torch.autograd.grad(net(a, b)[0].square().sum(), [net.head.weight, net.trunk[0][0].weight])  # all has a say


def test_offsets_come_from_the_means_and_pixels_from_the_full_frame():
    """Mirrored within rows of blocks, a has the same means: the same offsets, and another picture."""
    torch.manual_seed(0)
    a, b, net = torch.rand(1, 1, 32, 32), controls.coarse(torch.rand(1, 1, 32, 32)), controls.CoarseNet(4)
    mirrored = a.unflatten(3, (8, 4)).flip(4).flatten(3)
    with torch.no_grad():
        (out, offset, *_), (other, same, *_) = net(a, b), net(mirrored, b)
        assert torch.allclose(offset, same, atol=1e-4) and offset.abs().max() > 0.1
        assert (out - other).abs().mean() > 0.01
        assert torch.allclose(offset, net.offsets(controls.coarse(a), b)[0])


def test_a_network_sees_what_it_is_given_and_is_asked_the_rest(film: Film):
    """Training hides b from the network, not from the loss."""
    given = []

    class Spy(follow.AlignNet):
        def forward(self, a, b):
            given.append(b)
            return super().forward(a, b)

    torch.manual_seed(0)
    losses = follow.train_align(Spy(4), [film._replace(actor=1)], 0, 12, batch=2, see=controls.coarse)
    assert len(given) == len(losses) == 12 and np.isfinite(losses).all()
    assert torch.allclose(controls.coarse(given[0]), given[0], atol=0.2)  # smooth already
    pairs = follow.KnownPairs([film], every=64)
    given.clear()
    net = Spy(4)
    hidden, full = follow.measure_network(net, pairs, controls.coarse), follow.measure_network(net, pairs)
    assert torch.equal(given[0], controls.coarse(pairs.b[:16])) and hidden["mse_moving"] != full["mse_moving"]
    assert controls.measure_coarse_dis(pairs)["r"] > 0.3


def test_paths_are_the_joints_of_the_film(film: Film):
    path = controls.joint_paths(plan_corpus(1)[18])
    assert path.shape[1:] == (19, 2) and np.abs(path[: 2 * len(film.joints) : 2] - film.joints).max() < 1e-4


def test_foresight_of_motions_that_are_known():
    """A steady motion tells its next perfectly, a swing of half a period tells it reversed, a random one not."""
    t = np.arange(60.0)[:, None, None]
    steady = np.array([[2.0, 1.0], [-1.0, 3.0]]) * t
    assert abs(controls.foresight([steady], 3)[0] - 1) < 1e-9
    assert controls.foresight([steady], 3)[1] == 2 * (60 - 6)
    swing = 5 * np.cos(np.pi * t / 4) * np.ones((1, 1, 2))
    assert controls.foresight([swing], 4)[0] < -0.99
    wander = np.random.default_rng(0).normal(0, 2, (400, 3, 2)).cumsum(0)
    assert abs(controls.foresight([wander], 2)[0]) < 0.1
    assert controls.foresight([0.1 * steady, steady], 1) == controls.foresight([steady], 1)  # too slow to count


def test_a_film_is_followed(tmp_path: Path, film: Film):
    """A file with a picture wider than high: its middle square, and the displacement that the network gives."""
    wide = [cv2.copyMakeBorder(each, 0, 0, 32, 32, cv2.BORDER_REPLICATE) for each in film.gray]
    path = tmp_path / "own.mkv"
    imageio.imwrite(path, np.stack(wide)[..., None].repeat(3, 3), fps=12, codec="ffv1", plugin="pyav")
    torch.manual_seed(0)
    net = follow.AlignNet(4)
    gray, flow = controls.follow_film(path, net, gap=2, most=4)
    assert gray.shape == (4, 96, 96) and flow.shape == (4, 2, 96, 96)
    for got, kept in ((gray[0], film.gray[2]), (gray[-1], film.gray[-1])):
        assert np.abs(got.astype(int) - kept).max() <= 3
    a, b = (torch.from_numpy(film.gray[j] / 255).float()[None, None] for j in (0, 2))
    with torch.no_grad():
        expected = flow_from_taps(net.offsets(a, b)[0], 3, net.weight)[0, 0].numpy()
    assert np.abs(flow[0] - expected).mean() < 0.2 and np.abs(expected).mean() > 0.3
    with pytest.raises(ValueError, match="12 frames"):
        controls.follow_film(path, net, gap=12)


def runs(arm: str) -> list[dict]:
    """The records of one arm on the test people, by seed."""
    name = rf"coarse-{arm}(-skip-.)?-lr-[\d.]+-seed"
    return [json.loads(path.read_text()) for path in RECORDS if re.match(name, path.name)]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_whole(path: Path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem and record["split"] == "by_actor"
    assert record["data"]["train"]["actors"] == list(range(1, 9))
    assert ("validation" in path.stem) == (record["data"]["measured"]["people"] == "validation")
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]) and record["versions"]["torch"]
    assert record["loss"]["last_50"] < record["loss"]["first_50"] and "threads" in record["device"]
    net = controls.PlainNet() if "plain" in path.stem else follow.AlignNet()
    assert record["parameters"] == sum(each.numel() for each in net.parameters() if each.requires_grad)


def test_both_arms_have_the_same_seeds_data_and_steps():
    arms = {arm: runs(arm) for arm in controls.ARMS}
    taps = arms["taps"]
    for record in [record for found in arms.values() for record in found]:
        for name in ("copy", "coarse", "dis"):
            assert record["results"][name] == taps[0]["results"][name]
        assert record["settings"]["steps"] == 400 and record["data"] == taps[0]["data"]
    assert all([record["seed"] for record in found] == [0, 1, 2, 3, 4] for found in arms.values())


def test_the_plain_network_has_the_best_settings_that_were_tried():
    tried = [json.loads(path.read_text()) for path in RESULTS.glob("coarse-plain-*-validation-*.json")]
    best = min(tried, key=lambda record: record["results"]["network"]["mse_moving"])["settings"]
    assert len(tried) == 4
    assert all(record["settings"][key] == best[key] for record in runs("plain") for key in ("lr", "skip"))


def test_the_page_shows_the_records():
    """Means and intervals, counted here anew, stand in the page's tables: of both arms, and of flat clothes."""
    book = json.loads((ROOT / "notebooks" / "workshop" / "align_controls.ipynb").read_text(encoding="utf-8"))
    tables = [
        "".join(output["data"]["text/plain"])
        for cell in book["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    flat = [json.loads(path.read_text())["results"]["taps"] for path in FLAT]
    groups = [[record["results"]["network"] for record in runs(arm)] for arm in ("taps", "plain")] + [flat]
    for group in groups:
        mean, half = mean_ci([each["mse_moving"] for each in group])
        assert any(f"{mean:.4f} ± {half:.4f}" in table for table in tables)
