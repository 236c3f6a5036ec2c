"""Equivalence by two one-sided tests: values by hand, duality with intervals, verdicts, tables."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from factories import make_record
from matplotlib.figure import Figure
from scipy import stats

from deformlib.paper import powered
from deformlib.paper.powered import Equivalence, PoweredError, equivalence_sentence, equivalence_table, tost
from deformlib.paper.table2 import corrected_ci, held_out_ratio
from deformlib.records import load_records, write_record
from deformlib.tables import paired_differences, runs_table

matplotlib.use("agg")


def test_one_two_three_by_hand():
    """Mean 2, s = 1, error sqrt(1/3 + 1/4); the tail of t with 2 degrees of freedom has a closed form."""
    found = tost([1, 2, 3], margin=4)
    error = np.sqrt(7 / 12)

    def tail(t: float) -> float:
        return 0.5 - t / (2 * np.sqrt(2 + t**2))

    assert (found.seeds, found.mean) == (3, 2) and found.error == pytest.approx(error)
    assert found.half95 == pytest.approx(4.302653 * error, rel=1e-6)
    assert found.half90 == pytest.approx(2.919986 * error, rel=1e-6)
    assert found.p_equivalence == pytest.approx(tail(2 / error)) and found.p_difference == pytest.approx(
        2 * tail(2 / error)
    )
    assert found.verdict == "undecided"


def test_without_correction_it_is_student():
    """A share that goes to zero leaves the t tests of independent runs."""
    values = np.random.default_rng(0).normal(0.4, 1, 10)
    found = tost(values, 1.0, test_share=1e-9)
    assert found.p_difference == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)
    low = stats.ttest_1samp(values, -1.0, alternative="greater").pvalue
    high = stats.ttest_1samp(values, 1.0, alternative="less").pvalue
    assert found.p_equivalence == pytest.approx(max(low, high), rel=1e-6)


def test_two_tests_are_the_ninety_percent_interval():
    """p is below 0.05 where, and only where, the 90 % interval lies within the margins."""
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(200):
        found = tost(rng.normal(rng.uniform(-2, 2), 1.2, 8), 2.42)
        within = abs(found.mean) + found.half90 < 2.42
        assert (found.p_equivalence < 0.05) == within
        inside.append(within)
    assert 20 < sum(inside) < 180


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1, -0.2, 0.3, 0.0, -0.1], "equivalent"),
        ([3.0, 2.8, 3.3, 3.1, 2.9], "better"),
        ([-3.0, -2.8, -3.3, -3.1, -2.9], "worse"),
        ([0.5, 0.6, 0.4, 0.5, 0.5], "better"),  # small and sure: better, although within the margin
        ([2.0, -3.0, 4.0, -2.0, 1.0], "undecided"),
        ([0.0, 0.0, 0.0], "equivalent"),
        ([1.0, 1.0, 1.0], "better"),
    ],
)
def test_verdicts(values: list[float], verdict: str):
    assert tost(values).verdict == verdict


def test_the_share_of_test_clips_widens_the_interval():
    """A fifth: sqrt(1/10 + 1/4) against sqrt(1/10), 1.87 times as wide; NADEAU_BENGIO is that of five seeds, 1.5."""
    values = np.random.default_rng(2).normal(size=10)
    plain = stats.t.ppf(0.975, 9) * values.std(ddof=1) / np.sqrt(10)
    assert tost(values).half95 / plain == pytest.approx(np.sqrt(3.5))


@pytest.mark.parametrize("split", ["by_actor", "by_clip", "by_copy"])
def test_verdicts_and_tables_have_one_interval(split: str):
    """Motion capture, where other shares test under each split."""
    found = load_records(Path(__file__).parent.parent / "results" / "example-motion")
    pairs = paired_differences(runs_table(found), split)
    row = equivalence_table(found).set_index(["model", "split"]).loc[("deformable", split)]
    assert (row["difference"], row["ci95"]) == pytest.approx(corrected_ci(pairs, held_out_ratio(found, split)))


@pytest.mark.parametrize("words", [([1.0],), ([1, 2], 0.0), ([1, 2], 1.0, 0.0), ([1, 2], 1.0, 1.0)])
def test_what_is_no_comparison_is_refused(words: tuple):
    with pytest.raises(PoweredError):
        tost(*words)


def test_the_margins_are_the_papers():
    assert pytest.approx(2.42) == powered.MARGIN and pytest.approx(0.6685, abs=1e-4) == powered.FEWER_ERRORS


def records(differences: list[int], split: str = "by_actor") -> list[dict]:
    """Plain networks right on 60 of 100 clips, deformable ones on so many more."""
    changes = {"corpus": make_record("plain", split, 0, 6)["corpus"] | {"videos": 500}}
    return [
        make_record(model, split, seed, 60 + more * (model == "deformable"), 100, **changes)
        for seed, more in enumerate(differences)
        for model in ("plain", "deformable")
    ]


def test_a_table_of_records():
    """Differences 1, 2, 3 of 100 clips: a fifth of 500 tests; 0.669 of 40 % errors are 26.7 points."""
    table = equivalence_table(records([1, 2, 3]) + records([4], "by_clip"))
    assert len(table) == 1
    row = table.iloc[0]
    wanted = tost([1, 2, 3])
    assert (row["split"], row["model"], row["seeds"], row["verdict"]) == ("by_actor", "deformable", 3, "undecided")
    assert (row["plain"], row["accuracy"]) == pytest.approx((60, 62))
    assert (row["difference"], row["ci95"]) == pytest.approx((2, wanted.half95))
    assert row["share margin"] == pytest.approx(40 * powered.FEWER_ERRORS)
    assert row["verdict (share)"] == "equivalent"
    said = equivalence_sentence(row)
    assert said == (
        "Undecided: on people that neither network has met (by_actor), the deformable network has 2.00 points more "
        "right than the plain one, on average over 3 seeds; the corrected 95 % interval of this difference, -1.29 to "
        "+5.29, holds 0, and its 90 % interval, -0.23 to +4.23, does not lie within 2.42 points of 0."
    )
    assert equivalence_table(records([1])).empty and equivalence_table([]).empty


def test_sentences_say_what_is_ruled_out():
    sentence = equivalence_sentence(equivalence_table(records([1, 1, 1])).iloc[0])
    assert sentence.startswith("Better: ") and "+1.00, lies within 2.42 points" in sentence
    assert "does not lie within" in equivalence_sentence(equivalence_table(records([9, 9, 9])).iloc[0])
    assert equivalence_sentence(equivalence_table(records([0, 0, 0])).iloc[0]).startswith("Equivalent: ")
    worse = equivalence_sentence(equivalence_table(records([-3, -3, -3], "by_clip")).iloc[0])
    assert worse.startswith("Worse: on clips that neither network has met (by_clip), ") and "3.00 points fewer" in worse


@pytest.mark.parametrize("differences", [[2, -1, 1, 0, 2], [1, 2, 3], [3, 4, 3], [0, 1, -1, 0]])
def test_the_sentence_agrees_with_its_own_two_intervals(differences: list[int]):
    """Better: the 95 % interval leaves out 0. Equivalent: it holds 0, and the 90 % interval is within the margin."""
    sentence = equivalence_sentence(equivalence_table(records(differences)).iloc[0])
    low95, high95, low90, high90 = map(float, re.findall(r"[+-]\d+\.\d\d(?= to|,)", sentence))
    assert sentence.startswith("Better: ") == (low95 > 0)
    assert sentence.startswith("Equivalent: ") == (low95 <= 0 <= high95 and low90 > -2.42 and high90 < 2.42)


def test_no_records_yet(tmp_path):
    assert powered.find_powered(tmp_path) == []
    record = records([1])[0]
    write_record(tmp_path / f"{record['name']}.json", record)
    assert len(powered.find_powered(tmp_path)) == 1


def test_the_picture_shows_each_seed_the_mean_and_the_margins():
    ax = Figure().add_subplot()
    found = Equivalence(3, 2.0, 0.7, 3.0, 2.0, 0.1, 0.2, "undecided")
    powered.draw_differences(ax, [1.0, 2.0, 3.0], found)
    assert ax.lines[1].get_xdata().tolist() == [1, 2, 3] and ax.patches[0].get_width() == pytest.approx(4.84)
    (bar,) = ax.containers
    assert bar.lines[2][0].get_segments()[0][:, 0].tolist() == [-1, 5]
