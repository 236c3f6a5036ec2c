"""The claims of the paper: differences between models, robustness, and whether offsets are aligned with the body."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from deformlib.corpus import Corpus
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.network import load_network, save_network
from deformlib.offsets import offset_magnitude, record_offsets
from deformlib.paper.claims import (
    CHOICES,
    COMPARED,
    UNCHANGED,
    alignment_table,
    contrasts,
    correlate,
    describe_runs,
    draw_alignment,
    draw_forest,
    draw_robustness,
    figure_maps,
    offset_alignment,
    random_fields,
    robustness_gain,
    warped_accuracy,
    warped_differences,
    write_alignment,
)
from deformlib.paper.commands import main
from deformlib.paper.study import METHODS, RECIPES, WARPS, Experiment
from deformlib.paper.table2 import COLORS
from deformlib.records import ResultsError, write_record

# Differences and robustness


def run(model: str, seed: int, right: int, of: int = 100, split: str = "by_actor", fall: float = 0.0) -> dict:
    """A record of which `right` of `of` clips are right, the first ones; warped, it loses `fall` of the share at each
    amount.
    """
    share = right / of
    warped = {kind: [[x, share - fall * (x != UNCHANGED[kind])] for x in amounts] for kind, amounts in WARPS.items()}
    return {
        "experiment": {"model": model, "split": split, "seed": seed, "recipe": "classroom", "corpus": "made up"},
        "corpus": {
            "name": "made up",
            "source": "made up",
            "key": "0",
            "classes": ["a", "b"],
            "videos": of,
            "actors": 2,
            "size": 32,
        },
        "settings": {"network": {"length": 16, "size": 32}, "training": {"epochs": 8, "epoch_steps": 100, "batch": 8}},
        "name": f"classroom-{model}-{split}-{seed}",
        "split": {"name": split, "seed": seed, "train": 9, "val": of, "held_out": None, "copies_in_training": [0, 0]},
        "history": [],
        "python": "3.12",
        "versions": {},
        "parameters": 10 if model == "plain" else 20,
        "multiply_adds": None,
        "accuracy": share,
        "validation": {
            "clip": [f"{seed}_{n}.avi" for n in range(of)],
            "frames": [50] * of,
            "copy": [-1] * of,
            "label": [1] * of,
            "predicted": [1] * right + [0] * (of - right),
        },
        "seconds": 1.0,
        "device": "CPU, made up",
        "commit": None,
        "robustness": warped,
    }


@pytest.fixture
def records() -> list[dict]:
    """Plain, and deformable better by 1, 4 and 1 points, which falls half as far; a control with two seeds; one under
    by_copy.
    """
    plain = [run("plain", seed, right, fall=0.2) for seed, right in enumerate((30, 50, 40))]
    deformable = [run("deformable", seed, right, fall=0.1) for seed, right in enumerate((31, 54, 41))]
    return [
        *deformable,
        *plain,
        *(run("frozen_offsets", seed, 45) for seed in (1, 2)),
        run("modulated", 0, 99, split="by_copy"),
    ]


def test_a_known_difference_is_found_with_its_interval_and_its_clips(records):
    table = contrasts(records, COMPARED).set_index("model")
    assert table.index.tolist() == [
        "plain",
        "deformable",
        "frozen_offsets",
    ]  # in the order asked for, only what is there
    line = table.loc["deformable"]
    assert line["minus plain"] == pytest.approx(2) and line["difference ci95"] == pytest.approx(4.3027, abs=1e-4)
    assert line["accuracy"] == pytest.approx(42) and (line["seeds"], line["only model"], line["only plain"]) == (
        3,
        6,
        0,
    )
    assert line["p (McNemar)"] == pytest.approx(2 / 2**6) and line["parameters"] == 20
    assert table.loc["frozen_offsets", ["minus plain", "seeds", "runs"]].tolist() == [pytest.approx(0), 2, 2]
    assert table.loc["plain", ["minus plain", "seeds"]].isna().all() and table.loc[
        "plain", "accuracy"
    ] == pytest.approx(40)
    other = contrasts(records, ["frozen_offsets"], base="deformable")
    assert other["model"].tolist() == ["frozen_offsets"] and other["minus deformable"][0] == pytest.approx(
        (45 - 54 + 45 - 41) / 2
    )


def test_without_its_base_nothing_is_compared(records):
    with pytest.raises(ResultsError, match="no run of plain under by_copy"):
        contrasts(records, COMPARED, "by_copy")
    only = contrasts(records[3:6], CHOICES)
    assert only["model"].tolist() == ["plain"] and only["minus plain"].isna().all()


def test_a_title_says_what_the_numbers_are_of(records):
    assert (
        describe_runs(records)
        == "made up; recipe classroom (16 frames of 32x32, 800 steps of 8 clips), 3 seeds, CPU-sized"
    )
    assert describe_runs(records[:1]).endswith(", 1 seed, CPU-sized")


def test_accuracy_and_robustness_are_told_apart(records):
    table = warped_accuracy(records)
    assert len(table) == 8 * sum(map(len, WARPS.values())) and "modulated" not in set(table["model"])
    found = robustness_gain(warped_differences(table))
    assert np.allclose(found["accuracy"], [11, 14, 11]) and np.allclose(found["robustness"], [10, 10, 10])
    assert (
        len(warped_differences(table, "per_filter")) == 0
        and len(robustness_gain(warped_differences(table, "per_filter"))) == 0
    )
    for record in records:
        del record["robustness"]
    assert len(warped_accuracy(records)) == 0


def test_drawings_show_what_the_tables_hold(records):
    figure, (ax, *_) = plt.subplots(1, 2)
    table = contrasts(records, COMPARED)
    draw_forest(table, ax)
    dots = ax.containers[0].lines[0].get_xydata()
    assert (
        np.allclose(dots, [[2, 1], [0, 0]])
        and [tick.get_text() for tick in ax.get_yticklabels()][0] == "deformable ConvLSTM (n=3)"
    )
    figure, axes = plt.subplots(2, 4)
    draw_robustness(warped_accuracy(records), axes, COLORS, 50)
    gain = axes[1, 0].lines[1].get_xydata()
    assert np.allclose(gain, [[amount, 2 if amount == 0 else 12] for amount in WARPS["rotate"]])
    draw_robustness(warped_accuracy(records[:1]), plt.subplots(2, 4)[1], COLORS, 50)  # one run, no pair
    plt.close("all")


# Offsets and bodies


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
    record = run("deformable", 3, 2, of=3) | {"experiment": vars(experiment), "validation": {"clip": names} | columns}
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
    assert table["ci95"][0] == pytest.approx(0.0994, abs=1e-4) and table["seeds"][0] == 3
