"""Whether offsets are aligned with the body: fields made on purpose, random branches, the file and its table."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from factories import make_record

from deformlib.corpus import Corpus
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.network import load_network, save_network
from deformlib.offsets import offset_magnitude, record_offsets
from deformlib.paper.alignment import (
    alignment_table,
    correlate,
    draw_alignment,
    figure_maps,
    offset_alignment,
    random_fields,
    write_alignment,
)
from deformlib.paper.commands import main
from deformlib.paper.study import METHODS, RECIPES, Experiment
from deformlib.records import ResultsError, write_record


def test_a_field_that_follows_is_told_from_shuffled_ones_and_from_a_place():
    truth = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = correlate(3 * truth + 1, truth)
    assert found["own"] == pytest.approx(1) and found["residual"] == pytest.approx(1)
    assert abs(found["other clip"]) < 0.02 and abs(found["other step"]) < 0.05
    assert correlate(2 - truth, truth)["residual"] == pytest.approx(-1)
    shuffled = correlate(truth.roll(7, 0), truth)
    assert abs(shuffled["own"]) < 0.05 and abs(shuffled["residual"]) < 0.05
    later = correlate(truth.roll(1, 1), truth)
    assert later["other step"] == pytest.approx(0.5, abs=0.05) and abs(later["own"]) < 0.05
    middle = 5 * torch.hann_window(8, False).outer(torch.hann_window(8, False))
    place = correlate(middle.expand_as(truth), truth + middle)
    assert (
        place["own"] > 0.9
        and place["other clip"] == pytest.approx(place["own"], abs=0.01)
        and np.isnan(place["residual"])
    )
    assert all(np.isnan(value) for value in correlate(torch.zeros_like(truth), truth).values())


def test_figure_maps_are_the_figure():
    """Full at the waist, nothing at the left edge, little motion; none once the last frame of a short clip repeats."""
    clip = next(clip for clip in plan_corpus() if clip.name[3:6] == "joy" and clip.n_frames > 60)
    config = RECIPES["classroom"].network
    silhouette, motion = figure_maps(clip, config)
    assert silhouette.shape == motion.shape == (config.steps, config.map_size, config.map_size)
    assert silhouette.min() >= 0 and 0.9 < silhouette.max() <= 1 and silhouette[:, :, 0].max() == 0 < motion.max() <= 1
    assert 0.1 < silhouette.mean() < 0.5 and (silhouette[:, -1, 3:5].amax(1) > 0.6).all()
    assert motion.mean((1, 2)).max() < 0.15
    short = replace(clip, n_frames=config.length // 2)
    assert figure_maps(short, config)[1][config.steps // 2 :].max() == 0  # the last frame repeats


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Corpus]:
    """A tiny run of deformable with branches that are not zero, as files, and the clips that it was tested on."""
    folder, plan = tmp_path_factory.mktemp("trained"), sorted(plan_corpus(), key=lambda clip: clip.n_frames)[:3]
    corpus = Corpus(make_corpus(folder / "clips", plan), 32, cache=folder / "cache")
    experiment = Experiment("clips", "by_actor", "deformable", 3, "tiny")
    net = METHODS["deformable"].network(experiment, 3)
    for layer in net.recurrent:
        torch.nn.init.normal_(layer.input_conv.offset_branch.weight, std=0.1)
    path = folder / "tiny-deformable-by_actor-3.safetensors"
    save_network(net, path, ("a", "b", "c"))
    names = [clip.name for clip in plan]
    columns = {"frames": [0] * 3, "copy": [-1] * 3, "label": [0] * 3, "predicted": [0] * 3}
    record = make_record("deformable", "by_actor", 3, 2, of=3) | {
        "experiment": vars(experiment),
        "validation": {"clip": names} | columns,
    }
    write_record(path.with_suffix(".json"), record)
    return path, corpus


def test_random_branches_move_taps_as_far(trained):
    net, _ = load_network(trained[0])
    clips = torch.rand(2, 1, net.config.length, 32, 32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), record_offsets(net.eval()) as calls:
        trained_fields = net.offset_fields(clips)
    with torch.no_grad():
        for mine, theirs, call in zip(trained_fields, random_fields(net, clips, 0), calls, strict=True):
            far, same = (offset_magnitude(field.movedim(2, 0)) for field in (mine, theirs))
            assert far.mean().item() == pytest.approx(same.mean().item(), rel=1e-3) and not torch.allclose(far, same)
            kernel = torch.nn.init.normal_(torch.empty_like(call.layer.offset_branch.weight), generator=generator)
            seen = torch.nn.functional.conv2d(call.input, kernel, padding=1).unflatten(0, (-1, 2)).transpose(0, 1)
            assert torch.allclose(
                theirs / theirs.norm(), seen / seen.norm(), atol=1e-5
            )  # it sees what the trained one saw


def test_alignment_asks_three_branches_of_every_layer(trained, tmp_path):
    rows = pd.DataFrame(offset_alignment(*trained))
    assert len(rows) == 3 * 2 * 3 and set(rows["clips"]) == {3} and set(rows["seed"]) == {3}
    before, after = (rows[rows["branch"] == branch] for branch in ("untrained", "trained"))
    assert before["own"].isna().all() and (before["displacement"] == 0).all() and (after["displacement"] > 0).all()
    assert after["own"].between(-1, 1).all()
    with pytest.raises(ResultsError, match="fewer than two clips"):
        strangers = Corpus(
            make_corpus(tmp_path / "others", sorted(plan_corpus(), key=lambda clip: clip.n_frames)[3:4]),
            32,
            cache=tmp_path,
        )
        offset_alignment(trained[0], strangers)


def test_alignment_json_says_what_was_asked_and_is_no_run_record(trained):
    path = write_alignment(trained[0].parent, trained[1].folder)
    stored = json.loads(path.read_text())
    assert stored["corpus"]["source"] == "procedural body videos, not GEMEP" and stored["weights"] == [trained[0].name]
    assert {"commit", "versions", "device", "seconds"} <= set(stored) and len(stored["rows"]) == 18
    assert stored["rows"][0]["own"] is None and path.parent.name == "offsets"
    assert [path.name for path in trained[0].parent.glob("*.json")] == ["tiny-deformable-by_actor-3.json"]
    table = alignment_table(stored["rows"])
    assert len(table) == 2 * 3 * 2 and set(table["branch"]) == {"random", "trained"} and set(table["seeds"]) == {1}
    figure, axes = plt.subplots(1, 2)
    draw_alignment(stored["rows"], axes)
    plt.close(figure)
    with pytest.raises(ResultsError, match="holds no weights"):
        write_alignment(trained[0].parent / "clips", trained[1].folder)


def test_the_command_line_measures_alignment(trained, tmp_path, capsys):
    """One sentence where it is written, and one where there are no weights."""
    folder, films = trained[0].parent, str(trained[1].folder)
    assert main(["align", str(folder), "--corpus", films, "--cache", str(folder / "cache")]) == 0
    assert "alignment.json" in capsys.readouterr().out and (folder / "offsets" / "alignment.json").is_file()
    assert main(["align", str(tmp_path), "--corpus", films]) == 1
    assert "holds no weights of deformable runs" in capsys.readouterr().err


def test_the_table_of_alignment_takes_means_over_seeds():
    row = {
        "branch": "trained",
        "truth": "motion",
        "layer": 1,
        "clips": 9,
        "displacement": 1.0,
        "own": 0.5,
        "other clip": 0.4,
        "other step": 0.3,
    }
    table = alignment_table([row | {"seed": seed, "residual": value} for seed, value in enumerate((0.40, 0.44, 0.48))])
    assert len(table) == 1 and table["residual"][0] == pytest.approx(0.44)
    assert table["ci95"][0] == pytest.approx(0.0994 * np.sqrt(7 / 4), abs=1e-4) and table["seeds"][0] == 3
