"""Curves of the large study from made-up records: accuracy by warp, and by the number of training actors."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deformlib.paper import curves


def record(model: str, seed: int, accuracy: float, split: str = "by_actor", warped: float | None = None) -> dict:
    """As much of a record as the curves ask; warped: accuracy on clips turned by 30 degrees or scaled to a half."""
    made = {
        "experiment": {"model": model, "seed": seed, "split": split},
        "corpus": {"actors": 400, "videos": 6800},
        "split": {"name": split, "seed": seed, "held_out": [f"a{number}" for number in range(80)], "val": 1360},
        "accuracy": accuracy,
    }
    if warped is not None:
        made["robustness"] = {"rotate": [[0, accuracy], [30, warped]], "scale": [[0.5, warped - 0.1], [1, accuracy]]}
    return made


def test_a_learning_curve_by_hand():
    """Numbers of actors come from the split, for all from who is held out; other splits are left out."""
    records = [
        record(model, seed, level + 0.01 * seed + more, split)
        for split, level in (("by_actor_10", 0.3), ("by_actor_25", 0.4), ("by_actor", 0.7), ("by_actor_upright", 0.6))
        for seed in range(3)
        for model, more in (("plain", 0.0), ("deformable", 0.02 if split != "by_actor" else 0.001 * seed))
    ]
    table = curves.learning_curve(records)
    assert sorted(table["actors"].unique()) == [10, 25, 320] and len(table) == 18
    found = curves.learning_verdicts(records).set_index("actors")
    assert found.loc[10, "plain"] == pytest.approx(31) and found.loc[10, "difference"] == pytest.approx(2)
    assert found["verdict"].to_dict() == {10: "better", 25: "better", 320: "equivalent"} and (found["seeds"] == 3).all()
    figure, ax = plt.subplots()
    curves.draw_learning(table, ax, {"plain": "blue", "deformable": "red"})
    assert len(ax.lines) == 2 and [text.get_text() for text in ax.get_xticklabels()] == ["10", "25", "320"]
    assert np.allclose(ax.lines[0].get_ydata(), [31, 41, 71])
    plt.close(figure)


def test_warped_verdicts_by_hand():
    """Six points more on warped clips of which two were there before: four are robustness; by kind, and in all."""
    records = [
        record(model, seed, 0.7 + more, split, 0.4 + 0.001 * seed * (model == "plain") + extra)
        for split, extras in (("by_actor", (0.0, 0.06)), ("by_actor_upright", (0.0, 0.09)))
        for seed in range(4)
        for model, more, extra in (("plain", 0.0, extras[0]), ("deformable", 0.02, extras[1]))
    ]
    found = curves.warped_verdicts(records).set_index("warp")
    assert list(found.index) == ["rotate", "scale", "all"] and (found["seeds"] == 4).all()
    assert np.allclose(found["mean"], 5.85) and np.allclose(found["robustness"], 3.85)
    assert set(found["verdict"]) == {"better"} == set(found["robustness verdict"])
    assert np.allclose(curves.more_when_upright(records), 3)
    upright = curves.warped_verdicts(records, "by_actor_upright").set_index("warp")
    assert upright.loc["all", "mean"] == pytest.approx(8.85)


@pytest.mark.parametrize(
    "gain, clean, robust, more",
    [(0.09, 0.02, "shown", "more"), (0.02, 0.02, "not shown", "less"), (-0.02, -0.09, "not shown", "less")],
)
def test_the_upright_study_in_words(gain: float, clean: float, robust: str, more: str):
    """Nine points, seven of them robustness; two, of none; two fewer, of nine fewer before: both must be better."""
    records = [
        record(model, seed, 0.7 + before, split, 0.4 + 0.001 * seed * (model == "plain") + extra)
        for split, extras in (("by_actor", (0.0, 0.06)), ("by_actor_upright", (0.0, gain)))
        for seed in range(4)
        for model, before, extra in (("plain", 0.0, extras[0]), ("deformable", clean, extras[1]))
    ]
    alone = record("plain", 9, 0.1, "by_actor_upright", 0.2)  # a seed without its partner counts nowhere
    levels, verdict, rest = curves.upright_answer([*records, alone])
    assert f"4 seeds: plain 70.0 %, deformable {70 + 100 * clean:.1f} %; on warped clips plain 35." in levels
    assert levels.endswith(f"deformable {35 + 100 * gain:.1f} %.")
    assert f"warped clips {100 * gain - 0.15:+.2f} (" in verdict and verdict.endswith(f"must be better, is {robust}.")
    assert f"by the warp {100 * (gain - clean) - 0.15:+.2f} (" in verdict
    assert f"turned copies were: {100 * gain - 6:+.2f} (" in rest and rest.endswith(f"points, {more}.")
    assert len(curves.upright_answer([r for r in records if r["split"]["name"] != "by_actor"])) == 2
    assert curves.upright_answer(records[:8]) == []
    for one in records:  # the same in both studies, but for the luck of a seed
        if one["split"]["name"] == "by_actor_upright":
            luck = 0.06 - gain + (0.02 if one["split"]["seed"] % 2 else -0.02)
            one["robustness"]["rotate"][1][1] += luck * (one["experiment"]["model"] == "deformable")
            one["robustness"]["scale"][0][1] += luck * (one["experiment"]["model"] == "deformable")
    assert curves.upright_answer(records)[2].endswith("points, undecided.")


def test_nothing_recorded_is_no_error():
    """Nor are runs without warped clips, or of one model."""
    for some in ([], [record("plain", 0, 0.5)], [record("plain", seed, 0.5, warped=0.4) for seed in range(3)]):
        assert not len(curves.warped_verdicts(some)) and not len(curves.learning_verdicts(some))
        assert not len(curves.more_when_upright(some)) and len(curves.learning_curve(some)) == len(some)
