"""Differences between models, corrected or not, and robustness."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deformlib.paper.claims import CHOICES, COMPARED, contrasts, describe_runs, draw_forest
from deformlib.paper.curves import UNCHANGED, draw_robustness, robustness_gain, warped_accuracy, warped_differences
from deformlib.paper.powered import tost
from deformlib.paper.study import WARPS
from deformlib.paper.table2 import COLORS
from deformlib.records import ResultsError


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
            "videos": 5 * of,
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
    assert line["minus plain"] == pytest.approx(2) and line["difference ci95"] == pytest.approx(
        4.3027 * np.sqrt(7 / 4), abs=1e-4
    )
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


def test_intervals_are_those_of_equivalence_tests(records):
    """Both are corrected for a fifth of the clips under test; accuracies of one model by the same factor."""
    table = contrasts(records, COMPARED).set_index("model")
    assert table.loc["deformable", "difference ci95"] == pytest.approx(tost([1, 4, 1]).half95)
    assert table.loc["plain", "ci95"] == pytest.approx(tost([30, 50, 40]).half95) and "p (t)" not in table


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
