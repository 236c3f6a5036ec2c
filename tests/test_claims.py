"""The claims of the paper: two other tasks, differences between models, robustness, and whether offsets follow the body."""

import json
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from deformlib import __main__, claims, study
from deformlib.bodies import HANDS, make_corpus, plan_corpus, read_manifest
from deformlib.claims import (
    CHOICES,
    CONTROL,
    STYLES,
    WORDS,
    about,
    bought,
    compared,
    correlate,
    draw_follow,
    draw_forest,
    draw_robustness,
    figure_maps,
    film_tasks,
    follow_table,
    offsets_follow,
    plan_tasks,
    random_fields,
    verdict,
    warped_accuracy,
    warped_differences,
    write_follow,
)
from deformlib.corpus import Corpus
from deformlib.network import save_network
from deformlib.offsets import offset_magnitude, record_offsets
from deformlib.results import ResultsError
from deformlib.study import FITTERS, RECIPES, WARPS, Experiment

# Differences and robustness


def run(model: str, seed: int, right: int, of: int = 100, split: str = "by_actor", fall: float = 0.0) -> dict:
    """A record of which `right` of `of` clips are right, the first ones; warped, it loses `fall` of the share at each amount."""
    share = right / of
    warped = {kind: [[x, share - fall * (x != claims.UNCHANGED[kind])] for x in amounts] for kind, amounts in WARPS.items()}
    return {
        "experiment": {"model": model, "split": split, "seed": seed, "recipe": "classroom", "corpus": "made up"},
        "corpus": {"name": "made up", "source": "made up", "key": "0", "classes": ["a", "b"], "videos": of, "actors": 2},
        "settings": {"network": {"length": 16, "size": 32}, "training": {"epochs": 8, "epoch_steps": 100, "batch": 8}},
        "split": {"val": of},
        "parameters": 10 if model == "plain" else 20,
        "accuracy": share,
        "validation": {
            "clip": [f"{seed}_{n}.avi" for n in range(of)],
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
    """Plain, and deformable better by 1, 4 and 1 points, which falls half as far; a control with two seeds; one under by_copy."""
    plain = [run("plain", seed, right, fall=0.2) for seed, right in enumerate((30, 50, 40))]
    deformable = [run("deformable", seed, right, fall=0.1) for seed, right in enumerate((31, 54, 41))]
    return [*deformable, *plain, *(run("frozen_offsets", seed, 45) for seed in (1, 2)), run("modulated", 0, 99, split="by_copy")]


def test_a_known_difference_is_found_with_its_interval_and_its_clips(records):
    table = compared(records, CONTROL).set_index("model")
    assert table.index.tolist() == ["plain", "deformable", "fixed random taps"]  # in the order asked for, only what is there
    line = table.loc["deformable"]
    assert line["minus plain"] == pytest.approx(2) and line["its half width"] == pytest.approx(4.3027, abs=1e-4)
    assert line["accuracy"] == pytest.approx(42) and (line["seeds"], line["only it"], line["only plain"]) == (3, 6, 0)
    assert line["p (McNemar)"] == pytest.approx(2 / 2**6) and line["parameters"] == 20
    assert table.loc["fixed random taps", ["minus plain", "seeds", "runs"]].tolist() == [pytest.approx(0), 2, 2]
    assert table.loc["plain", ["minus plain", "seeds"]].isna().all() and table.loc["plain", "accuracy"] == pytest.approx(40)
    other = compared(records, {"frozen_offsets": "taps"}, base="deformable")
    assert other["model"].tolist() == ["taps"] and other["minus deformable"][0] == pytest.approx((45 - 54 + 45 - 41) / 2)


def test_without_its_base_nothing_is_compared(records):
    with pytest.raises(ResultsError, match="no run of plain under by_copy"):
        compared(records, CONTROL, "by_copy")
    only = compared(records[3:6], CHOICES)
    assert only["model"].tolist() == ["no step"] and only["minus plain"].isna().all()


@pytest.mark.parametrize(
    ("pairs", "end"),
    [
        ([1, 4, 1], "The interval contains 0: no difference is shown, and one of -2.3 or +6.3 is not excluded."),
        ([5, 6, 5], "The interval lies above 0: a difference is shown."),
        ([-5, -6, -5], "The interval lies below 0: a difference is shown."),
        ([0, 0, 0], "The interval contains 0: no difference is shown, and one of +0.0 or +0.0 is not excluded."),
        ([7], "+7.0 points in one pair of runs, from which nothing can be said."),
    ],
)
def test_the_verdict_is_what_the_interval_allows(pairs, end):
    said = verdict(pairs, "mine")
    assert said.startswith("mine: ") and said.endswith(end)


def test_a_title_says_what_the_numbers_are_of(records):
    assert about(records) == "made up; recipe classroom (16 frames of 32x32, 800 steps of 8 clips), 3 seeds, CPU-sized"
    assert about(records[:1]).endswith(", 1 seed, CPU-sized")


def test_accuracy_and_robustness_are_told_apart(records):
    table = warped_accuracy(records)
    assert len(table) == 8 * sum(map(len, WARPS.values())) and "modulated" not in set(table["model"])
    found = bought(warped_differences(table))
    assert np.allclose(found["accuracy"], [11, 14, 11]) and np.allclose(found["robustness"], [10, 10, 10])
    assert len(warped_differences(table, "per_filter")) == 0 and len(bought(warped_differences(table, "per_filter"))) == 0
    for record in records:
        del record["robustness"]
    assert len(warped_accuracy(records)) == 0


def test_drawings_show_what_the_tables_hold(records):
    figure, (ax, *_) = plt.subplots(1, 2)
    table = compared(records, CONTROL)
    draw_forest(table, ax)
    dots = ax.containers[0].lines[0].get_xydata()
    assert np.allclose(dots, [[2, 1], [0, 0]]) and [tick.get_text() for tick in ax.get_yticklabels()][0] == "deformable (n=3)"
    figure, axes = plt.subplots(2, 4)
    draw_robustness(warped_accuracy(records), axes, claims.COLORS, 50)
    gain = axes[1, 0].lines[1].get_xydata()
    assert np.allclose(gain, [[amount, 2 if amount == 0 else 12] for amount in WARPS["rotate"]])
    draw_robustness(warped_accuracy(records[:1]), plt.subplots(2, 4)[1], claims.COLORS, 50)  # one run, no pair
    plt.close("all")


# Offsets and bodies


def test_a_field_that_follows_is_told_from_shuffled_ones_and_from_a_place():
    truth = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = correlate(3 * truth + 1, truth)
    assert found["own"] == pytest.approx(1) and found["particular"] == pytest.approx(1)
    assert abs(found["other clip"]) < 0.02 and abs(found["other step"]) < 0.05
    assert correlate(2 - truth, truth)["particular"] == pytest.approx(-1)
    shuffled = correlate(truth.roll(7, 0), truth)
    assert abs(shuffled["own"]) < 0.05 and abs(shuffled["particular"]) < 0.05
    later = correlate(truth.roll(1, 1), truth)
    assert later["other step"] == pytest.approx(0.5, abs=0.05) and abs(later["own"]) < 0.05
    middle = 5 * torch.hann_window(8, False).outer(torch.hann_window(8, False))
    place = correlate(middle.expand_as(truth), truth + middle)
    assert place["own"] > 0.9 and place["other clip"] == pytest.approx(place["own"], abs=0.01) and np.isnan(place["particular"])
    assert all(np.isnan(value) for value in correlate(torch.zeros_like(truth), truth).values())


def test_figure_maps_are_the_figure():
    """Full at the waist, nothing at the left edge, little motion; none once the last frame of a short clip repeats."""
    clip = next(clip for clip in plan_corpus() if clip.name[3:6] == "joy" and clip.n_frames > 60)
    config = RECIPES["classroom"].network
    silhouette, motion = figure_maps(clip, config)
    assert silhouette.shape == motion.shape == (config.steps, config.map_size, config.map_size)
    assert 0 <= silhouette.min() and 0.9 < silhouette.max() <= 1 and silhouette[:, :, 0].max() == 0 < motion.max() <= 1
    assert 0.1 < silhouette.mean() < 0.5 and (silhouette[:, -1, 3:5].amax(1) > 0.6).all()
    assert motion.mean((1, 2)).max() < 0.15
    short = replace(clip, n_frames=config.length // 2)
    assert figure_maps(short, config)[1][config.steps // 2 :].max() == 0  # the last frame repeats


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Corpus]:
    """A tiny run of deformable with branches that are not zero, as files, and the clips that it was judged on."""
    folder, plan = tmp_path_factory.mktemp("trained"), sorted(plan_corpus(), key=lambda clip: clip.n_frames)[:3]
    corpus = Corpus(make_corpus(folder / "clips", plan), 32, cache=folder / "cache")
    experiment = Experiment("clips", "by_actor", "deformable", 3, "tiny")
    net = FITTERS["deformable"].network(experiment, 3)
    for layer in net.recurrent:
        torch.nn.init.normal_(layer.input_conv.offset_branch.weight, std=0.1)
    path = folder / "tiny-deformable-by_actor-3.safetensors"
    save_network(net, path, ("a", "b", "c"))
    record = {"experiment": vars(experiment), "validation": {"clip": [clip.name for clip in plan]}}
    path.with_suffix(".json").write_text(json.dumps(record))
    return path, corpus


def test_random_branches_move_taps_as_far(trained):
    net, _ = claims.load_network(trained[0])
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
            assert torch.allclose(theirs / theirs.norm(), seen / seen.norm(), atol=1e-5)  # it sees what the trained one saw


def test_offsets_follow_asks_three_branches_of_every_layer(trained, tmp_path):
    rows = pd.DataFrame(offsets_follow(*trained))
    assert len(rows) == 3 * 2 * 3 and set(rows["clips"]) == {3} and set(rows["seed"]) == {3}
    before, after = (rows[rows["branch"] == branch] for branch in ("untrained", "trained"))
    assert before["own"].isna().all() and (before["moved"] == 0).all() and (after["moved"] > 0).all()
    assert after["own"].between(-1, 1).all()
    with pytest.raises(ResultsError, match="fewer than two clips"):
        strangers = Corpus(make_corpus(tmp_path / "others", sorted(plan_corpus(), key=lambda clip: clip.n_frames)[3:4]), 32, cache=tmp_path)
        offsets_follow(trained[0], strangers)


def test_follow_json_says_what_was_asked_and_is_no_run_record(trained):
    path = write_follow(trained[0].parent, trained[1].folder)
    stored = json.loads(path.read_text())
    assert stored["corpus"]["source"] == "procedural body videos, not GEMEP" and stored["weights"] == [trained[0].name]
    assert {"commit", "versions", "device", "seconds"} <= set(stored) and len(stored["rows"]) == 18
    assert stored["rows"][0]["own"] is None and path.parent.name == "offsets"
    assert [path.name for path in trained[0].parent.glob("*.json")] == ["tiny-deformable-by_actor-3.json"]
    table = follow_table(stored["rows"])
    assert len(table) == 2 * 3 * 2 and set(table["branch"]) == {"random", "trained"} and set(table["seeds"]) == {1}
    figure, axes = plt.subplots(1, 2)
    draw_follow(stored["rows"], axes)
    plt.close(figure)
    with pytest.raises(ResultsError, match="holds no weights"):
        write_follow(trained[0].parent / "clips", trained[1].folder)


def test_the_command_line_asks_and_shows_how_far_it_is(trained, tmp_path, monkeypatch, capsys):
    shown = []  # a bar: a network takes a quarter of a minute
    monkeypatch.setattr("deformlib.__main__.DEFAULT_CORPUS", trained[1].folder)  # there, so it is not made anew
    monkeypatch.setattr(claims, "tqdm", lambda found, *words, **more: shown.extend(found) or found)
    folder = trained[0].parent
    assert __main__.main(["follow", str(folder)]) == 0
    assert "follow.json is written" in capsys.readouterr().out and shown == [trained[0]]
    assert (folder / "offsets" / "follow.json").is_file()
    assert __main__.main(["follow", str(tmp_path)]) == 1
    assert "holds no weights of deformable runs" in capsys.readouterr().err


def test_the_table_of_followers_takes_means_over_seeds():
    row = {"branch": "trained", "truth": "motion", "layer": 1, "clips": 9, "moved": 1.0, "own": 0.5, "other clip": 0.4, "other step": 0.3}
    table = follow_table([row | {"seed": seed, "particular": value} for seed, value in enumerate((0.40, 0.44, 0.48))])
    assert len(table) == 1 and table["particular"][0] == pytest.approx(0.44)
    assert table["half width"][0] == pytest.approx(0.0994, abs=1e-4) and table["seeds"][0] == 3


# The two tasks


def test_every_actor_plays_every_word_in_every_style_once():
    plan = plan_tasks()
    assert len(plan) == 144 and len({film.name for film in plan}) == 144
    played = Counter((film.word, film.style, film.actor) for film in plan)
    assert played == Counter(product(WORDS, STYLES, range(1, 7)))
    assert all(50 <= film.n_frames < 100 for film in plan) and plan == plan_tasks() != plan_tasks(1)
    for hands in WORDS.values():
        assert {posture for each in hands for posture in each.split()} <= set(HANDS)


def few_films(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "WORDS", {word: WORDS[word] for word in ("wave", "clap")})
        patch.setattr(claims, "STYLES", {style: STYLES[style] for style in ("gliding", "sharp")})
        return film_tasks(folder, actors=1)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Two words in two styles by one actor, in both corpora."""
    return few_films(tmp_path_factory.mktemp("tasks"))


def test_the_same_films_are_labelled_once_by_word_and_once_by_style(tasks: Path):
    (words, *_), (styles, *_) = (read_manifest(tasks / name) for name in ("words", "styles"))
    assert set(words) == set(styles) and len(words) == 4
    for name in words:
        assert name.split("_")[1:3] == [words[name][0], styles[name][0]] and words[name][1] == styles[name][1] == "a01"
        assert (tasks / "words" / name).read_bytes() == (tasks / "styles" / name).read_bytes()
    for name, classes in (("words", ("clap", "wave")), ("styles", ("gliding", "sharp"))):
        corpus = Corpus(tasks / name, 32, cache=tasks / "cache")
        assert corpus.classes == classes and len(set(Counter(corpus.labels.tolist()).values())) == 1
        assert study.source(corpus) == "procedural gesture videos, not GEMEP"


def test_a_film_that_is_missing_is_made_again_with_the_same_bytes(tasks: Path):
    films = {path: path.read_bytes() for path in tasks.glob("*/*.avi")}
    for path in sorted(films)[1::4]:
        path.unlink()
    few_films(tasks)
    assert {path: path.read_bytes() for path in tasks.glob("*/*.avi")} == films


def test_gliding_changes_the_picture_less_from_frame_to_frame(tasks: Path):
    corpus = Corpus(tasks / "styles", 32, cache=tasks / "cache")
    clips = {video.path.name.split("_", 1)[1]: corpus.frames(n)[:, 0].astype(float) for n, video in enumerate(corpus.videos)}
    for word in ("wave", "clap"):
        gliding, sharp = (np.abs(np.diff(clips[f"{word}_{style}_a01_s0.avi"], axis=0)).mean() for style in ("gliding", "sharp"))
        assert gliding < sharp


def test_the_command_line_makes_the_two_tasks(tmp_path: Path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(claims, "film_tasks", lambda folder, seed: asked.append((folder, seed)))
    assert __main__.main(["corpus", str(tmp_path), "--tasks", "--seed", "3"]) == 0 and asked == [(tmp_path, 3)]
    with pytest.raises(SystemExit):
        __main__.main(["corpus", str(tmp_path), "--tasks", "--motion", "x"])
