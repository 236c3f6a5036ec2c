"""Only offsets learn: warps, right offsets and their measures by hand, frozen kernels, records that are whole."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deformlib.align import only_offsets as page
from deformlib.offsets import Field
from deformlib.paper.measures import effective_dilation, fit_similarity
from deformlib.tables import mean_ci

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "align"
RECORDS = sorted(RESULTS.glob("only-offsets-seed-*.json"))
BASE = 2 * torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2))  # nine taps (y, x), 2 px apart


@pytest.fixture(scope="module")
def parts() -> dict[str, page.Digits]:
    return page.split_digits()


def moved_dot(size: float, turn: float, shift: tuple[float, float] = (0.0, 0.0)) -> list[float]:
    """Where a dot 7 px right of the middle goes: (y, x) from the middle."""
    image, one = torch.zeros(1, 1, 32, 32), torch.ones(1)
    image[0, 0, 15:17, 22:24] = 1
    light = page.warp_digits(image, size * one, turn * one, torch.tensor([shift]))[0, 0]
    grid = torch.stack(torch.meshgrid(*2 * [torch.arange(32.0) - 15.5], indexing="ij"))
    return ((light * grid).sum((1, 2)) / light.sum()).tolist()


@pytest.mark.parametrize(
    ("size", "turn", "shift", "place"),
    [
        (1, 0, (0, 0), (0, 7)),
        (1, 90, (0, 0), (-7, 0)),  # counter-clockwise as one sees it: right goes up
        (1.5, 180, (0, 0), (0, -10.5)),
        (0.5, 0, (3, -2), (3, 1.5)),
        (0.5, 90, (3, -2), (-0.5, -2)),  # turned and shrunk about the middle, then moved
    ],
)
def test_a_dot_goes_where_it_is_sent(size: float, turn: float, shift: tuple[float, float], place: tuple[float, float]):
    assert moved_dot(size, turn, shift) == pytest.approx(place, abs=1e-4)


def test_the_split_precedes_all_and_loses_nothing(parts: dict[str, page.Digits]):
    from sklearn.datasets import load_digits

    assert {name: len(part.labels) for name, part in parts.items()} == {"train": 1077, "validation": 360, "test": 360}
    labels = torch.cat([part.labels for part in parts.values()])
    assert labels.bincount().tolist() == torch.from_numpy(load_digits().target).bincount().tolist()
    keys = [{image.numpy().tobytes() for image in part.images} for part in parts.values()]
    assert len(set.union(*keys)) == sum(map(len, keys)), "a picture stands on two sides"
    again = page.split_digits()
    assert all(part.images.equal(again[name].images) for name, part in parts.items())
    assert all(part.labels.bincount(minlength=10).min() >= len(part.labels) // 11 for part in parts.values())


def test_right_offsets_by_hand():
    """Twice the size: a corner goes as far again. A quarter turn: the right tap comes to lie above."""
    wide = page.oracle_offsets(torch.tensor([2.0]), torch.zeros(1), 2).view(9, 2)
    assert torch.allclose(wide, BASE)
    turned = page.oracle_offsets(torch.ones(1), torch.tensor([90.0]), 2).view(9, 2)
    assert torch.allclose(turned[5], torch.tensor([-2.0, -2.0]), atol=1e-6) and turned[4].abs().max() == 0


def test_right_taps_answer_to_a_turned_map_with_the_turned_answer():
    """A quarter turn is exact on the grid: the layer's output is its output of the map that is not turned, turned."""
    torch.manual_seed(0)
    net = page.with_oracle_taps(page.DigitNet())
    layer, x = net.layers[2], torch.rand(2, 16, 16, 16)
    upright = layer(x)
    layer.offset_branch.turn = torch.full((2,), 90.0)
    assert torch.allclose(layer(x.rot90(1, (2, 3))), upright.rot90(1, (2, 3)), atol=1e-5)
    assert not torch.allclose(layer(x), upright, atol=1e-2)


def test_measures_agree_with_those_of_one_field():
    torch.manual_seed(0)
    offset = torch.randn(1, 18, 4, 5)
    spread, fit = page.spread_and_turn(offset, 2)
    assert torch.allclose(spread[0], effective_dilation(Field(offset[0], dilation=2, padding=2)), atol=1e-5)
    degrees, scale = fit_similarity(BASE, BASE + offset[0, :, 2, 3].view(9, 2))
    assert float(fit[0, 2, 3].angle().rad2deg()) == pytest.approx(degrees, abs=1e-3)
    assert float(fit[0, 2, 3].abs()) == pytest.approx(scale, abs=1e-4)


@pytest.mark.parametrize(("size", "turn"), [(0.5, 40.0), (2.0, -60.0)])
def test_measures_find_what_right_offsets_do(size: float, turn: float):
    offset = page.oracle_offsets(torch.tensor([size]), torch.tensor([turn]), 2)
    spread, fit = page.spread_and_turn(offset, 2)
    assert float(spread) == pytest.approx(2 * size, abs=1e-4) and float(fit.abs()) == pytest.approx(size, abs=1e-4)
    assert float(fit.angle().rad2deg()) == pytest.approx(turn, abs=1e-3)


@pytest.mark.parametrize("kind", ["3x3", "wide", "residual", "kernels"])
def test_a_frozen_copy_computes_the_same_and_nothing_else_learns(kind: str, parts: dict[str, page.Digits]):
    torch.manual_seed(0)
    plain = page.DigitNet().eval()
    net, x = page.freeze_and_branch(plain, kind), parts["train"].images[:4]
    assert torch.allclose(net(x), plain(x), atol=1e-5)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    page.train_labels(net, parts["train"], 0, 2, 1e-2, batch=4)
    changed = {name for name, value in net.state_dict().items() if not value.equal(before[name])}
    word = {"residual": "branch", "kernels": r"layers\.[123]\.(weight|bias)"}.get(kind, "offset_branch")
    assert changed and all(re.search(word, name) for name in changed)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="wide"):
        page.freeze_and_branch(page.DigitNet(), "narrow")


def test_supervision_asks_for_the_right_offsets_and_moves_no_kernel(parts: dict[str, page.Digits]):
    """With zero offsets each of three layers is wrong by all of the right ones, on the digit; then branches learn."""
    torch.manual_seed(0)
    plain = page.DigitNet()
    net = page.freeze_and_branch(plain, "wide")
    images, _, size, turn = page.draw_digits(parts["train"], np.random.default_rng(9), 32)
    angle = turn.deg2rad()
    wrong = (size**2 - 2 * size * angle.cos() + 1) * (4 * 4 + 4 * 8) / 18  # |s e^it - 1|^2; taps at 0, 2, 8 ** 0.5
    seen = torch.nn.functional.max_pool2d(images, 2)[:, 0].gt(0.2).sum((1, 2))
    losses = page.train_supervised(net, parts["train"], 9, 2, 1e-2)
    assert losses[0] == pytest.approx(3 * float((wrong * seen).sum() / seen.sum()), rel=1e-4)
    assert all(a.weight.equal(b.weight) for a, b in zip(plain.layers, net.layers, strict=True))
    assert all(layer.offset_branch[-2].weight.abs().max() > 0 for layer in net.layers[1:])


def test_a_run_is_made_once(tmp_path: Path):
    """A record of other settings is replaced; one of the same is read, whatever it says."""
    path = tmp_path / "only-offsets-seed-1.json"
    path.write_text(json.dumps({"settings": {}}))
    (first,) = page.run_only_offsets(tmp_path, [1], {"commit": None}, steps=2, test=3)
    assert json.loads(path.read_text()) == first and set(first["accuracy"]) == set(page.ARMS)
    path.write_text(json.dumps(first | {"cpu_seconds": -1}))
    (again,) = page.run_only_offsets(tmp_path, [1], {}, steps=2, test=3)
    assert again["cpu_seconds"] == -1


def test_five_seeds_of_the_same_digits_and_settings():
    found = [json.loads(path.read_text()) for path in RECORDS]
    assert [record["seed"] for record in found] == [0, 1, 2, 3, 4]
    assert all(record["data"] == found[0]["data"] and record["settings"] == found[0]["settings"] for record in found)
    assert found[0]["settings"]["lr"] == page.LEARNING_RATES and found[0]["settings"]["test"] == 360


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_whole(path: Path):
    """Everything that a run needs to be made again; nothing learns where nothing may."""
    record = json.loads(path.read_text())
    assert record["name"] == path.stem and record["split"] == "by_picture" and record["cpu_seconds"] > 30
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]) and record["versions"]["scikit-learn"]
    assert set(record["accuracy"]) == set(record["parameters"]) == set(page.ARMS)
    assert record["parameters"]["oracle"] == 0 and record["parameters"]["labels"] == 6534
    ratio = record["parameters"]["residual"] / record["parameters"]["supervised"]
    assert 0.98 < ratio < 1.02, "the control has as many parameters"
    accuracy = record["accuracy"]
    assert all(0 <= share <= 1 for arm in accuracy.values() for share in arm.values())
    assert accuracy["oracle"]["size 1.0"] == accuracy["plain"]["size 1.0"], "taps at rest are the plain network"


def test_the_page_shows_the_records():
    """Mean and interval of one arm, counted here anew, stand in the page's table."""
    text = (ROOT / "notebooks" / "workshop" / "only_offsets.ipynb").read_text(encoding="utf-8")
    found = [json.loads(path.read_text())["accuracy"] for path in RECORDS]
    for arm in ("plain", "labels", "supervised_labels", "scratch"):
        mean, half = mean_ci([100 * accuracy[arm]["mixed"] for accuracy in found])
        assert f"{mean:.1f} ± {half:.1f}" in text, arm


def test_committed_weights_spread_and_turn_their_taps(parts: dict[str, page.Digits]):
    """Seed 0 as it is kept, beside the same kernels with offsets of zero: large digits are read again."""
    path = RESULTS / "only-offsets-seed-0.safetensors"
    net, some = page.freeze_and_branch(page.DigitNet(), "wide"), page.Digits(*(p[:60] for p in parts["test"]))
    net.load_state_dict(load_file(path))
    taps = page.measure_taps(net, page.Digits(*(part[:20] for part in parts["test"])))
    assert path.stat().st_size < 2e5 and all(
        a > 2 * b for a, b in zip(taps["dilation"][-1], taps["dilation"][0], strict=True)
    )
    assert all(b - a > 40 for a, b in zip(taps["turn"][0], taps["turn"][-1], strict=True))
    large = page.warp_digits(some.images, torch.full((60,), 2.0), torch.zeros(60))
    moved = float((net(large).argmax(1) == some.labels).float().mean())
    still = page.freeze_and_branch(page.DigitNet(), "3x3")
    still.load_state_dict({key: value for key, value in load_file(path).items() if "branch" not in key}, strict=False)
    assert moved > 0.25 + float((still(large).argmax(1) == some.labels).float().mean())
