"""The page of the small studies from records whose answers are known: right sentences, nothing typed."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from factories import small_study, warped_record, write_records

from deformlib.paper.small_studies import (
    MAIN,
    detectable,
    draw_figures,
    headlines,
    limits,
    read_studies,
    significant,
    small_page,
)
from deformlib.records import ResultsError
from deformlib.tables import mean_ci


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with one study, in which deformable has 0, 1, -1, 1, 0 clips more right."""
    write_records(tmp_path / "results" / MAIN, small_study((0, 1, -1, 1, 0)))
    return tmp_path / "results"


def test_what_could_be_found_is_found_as_often_as_said():
    """Simulated studies with that true difference have an interval above zero four times in five."""
    rng = np.random.default_rng(1)
    for pairs in (np.array([0.0, 3, 1]), np.array([2.0, -1, 3, 0, 1]), np.arange(12.0)):
        drawn = detectable(pairs, 0) + pairs.std(ddof=1) * rng.standard_normal((2000, len(pairs)))
        found = np.mean([mean > half for mean, half in map(mean_ci, drawn)])
        assert found == pytest.approx(0.8, abs=0.03)
    assert detectable(3 * np.array([2.0, -1, 3, 0, 1])) == pytest.approx(3 * detectable(np.array([2.0, -1, 3, 0, 1])))


def test_of_many_comparisons_those_without_zero_are_named():
    """A single run has no interval and is left out; names are escaped; bold is what leaves out zero."""
    text = significant(["a*", "b", "c"], [3.0, -1.0, 9.0], [2.0, 4.0, float("nan")])
    assert text == "1 of 2 intervals leave out zero (0.10 would by chance): **a\\* +3.0 ± 2.0**."
    assert significant(["a", "b"], [3.1, -3], [2.0, 2.0]).endswith(": **a +3.1 ± 2.0**; **b -3.0 ± 2.0**.")
    assert significant(["a", "b"], [1.0, -3], [2.0, 4.0]).endswith(": the nearest to it is b -3.0 ± 4.0.")
    assert significant([], [], []) == "not run."


def test_the_page_changes_its_mind_with_the_records(results: Path):
    """The same folder with another difference says so in the headline; and the split is a difference in both."""
    before = "\n".join(headlines(read_studies(results)))
    assert (
        "*The claim, toy.* deformable minus plain, by_actor: +1.0 points, corrected 95 % interval -9.8 "
        "to +11.8, 5 paired seeds: the interval contains 0" in before
    )
    assert re.search(
        r"\*The split, toy\.\* plain, by_copy minus by_clip: .*a difference is shown", before
    )  # nothing but the clips is new
    for path in (results / MAIN).glob("*by_clip*.json"):
        path.unlink()
    assert re.search(
        r"plain, by_copy minus by_actor: .*a difference is shown", "\n".join(headlines(read_studies(results)))
    )
    write_records(results / MAIN, small_study((5, 6, 5, 6, 5)))
    after = "\n".join(headlines(read_studies(results)))
    assert re.search(
        r"\*The claim, toy\.\* deformable minus plain, by_actor: \+27\.0 points, corrected 95 % interval "
        r"\+19\.9 to \+34\.1, .*a difference is shown",
        after,
    )


def test_every_comparison_is_with_its_own_base(results: Path):
    """Controls are compared with plain, frames and defects with deformable; other tasks stand beside the claim;
    guessing is named.
    """
    known = {"frozen_offsets": 6, "steps_even": -4, "defect_mixed_gates": 8}  # clips of 20 more than plain
    plain = {
        each["experiment"]["seed"]: round(20 * each["accuracy"])
        for each in small_study((0,) * 5)
        if each["experiment"]["model"] == "plain" and each["experiment"]["split"] == "by_actor"
    }
    write_records(results / MAIN, small_study((5,) * 5))
    write_records(
        results / MAIN,
        [
            warped_record(model, "by_actor", seed, right + gain)
            for model, gain in known.items()
            for seed, right in plain.items()
        ],
    )
    write_records(
        results / "example-words",
        [
            warped_record(model, "by_actor", seed, 10 + 2 * (model == "deformable"), corpus="words")
            for model in ("plain", "deformable")
            for seed in range(5)
        ],
    )
    said = "\n".join(headlines(read_studies(results)))
    assert (
        "*Controls, minus plain.* 1 of 1 intervals leave out zero (0.05 would by chance): "
        "**fixed random offsets +30.0 ± 0.0**." in said
    )
    assert (
        "2 of 2 intervals leave out zero (0.10 would by chance): **nine steps, evenly -45.0 ± "
        "0.0**; **defect: mixed gates +15.0 ± 0.0**." in said
    )
    assert (
        "*The claim, words.* deformable minus plain, by_actor: +10.0 points, corrected 95 % interval +10.0 to +10.0"
        in said
    )
    assert "**Deformable is shown to be better than plain in 2 of 2 comparisons on people never seen.**" in said
    assert "in training are shown to raise plain on 1 of 1 corpora." in said
    assert (
        "*The claim, toy.*" in said
        and "above chance level (50.0 %)" not in said.split("*The claim, toy.*")[1].split("\n")[0]
    )
    write_records(results / MAIN, small_study((0,) * 5))
    assert "Neither is shown to be above chance level (50.0 %)" in "\n".join(headlines(read_studies(results)))
    figures = draw_figures(read_studies(results))
    dots = [
        [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "o"] for ax in figures["tests"].axes
    ]
    assert [sorted(round(value) for value in axes[0]) for axes in dots] == [[0, 30], [-20, 40]]
    plt.close("all")


def test_half_a_study_says_on_how_many_seeds_it_rests(results: Path):
    """One seed gives no interval; a model without its partner no difference; nothing breaks, figures included."""
    for path in (results / MAIN).glob("*-[1-4].json"):
        path.unlink()
    assert "deformable minus plain, by_actor: not tested" in "\n".join(headlines(read_studies(results)))
    assert limits(read_studies(results)) == []
    (results / MAIN / "classroom-plain-by_actor-0.json").unlink()
    draw_figures(read_studies(results))
    plt.close("all")
    assert "| toy | 50.0 | by_actor | not run |" in small_page(results)


def test_a_limit_is_given_only_where_runs_scatter(results: Path):
    """From the spread of the differences, 4.2 points here; none where they are all one clip."""
    said = limits(read_studies(results))[0]
    assert said.startswith(
        "toy, by_actor: runs that scatter like these show a true difference of 14.6 points four times in five"
    )
    assert said.endswith("one clip is 5.0 points.")
    assert limits(read_studies(results))[1].startswith(
        "A difference of 2.42 points, as the paper's, could easily be missed: toy, by_actor. "
        "But near 100 % points weigh more: the paper's are 67% of"
    )
    write_records(results / MAIN, small_study((1, 1, 1, 1, 1)))
    assert "scatter by less than half a clip (5.0 points)" in limits(read_studies(results))[0]


def test_the_alignment_of_offsets_is_read_from_its_own_file(results: Path):
    """Residual correlation over seeds, of trained and of random branches."""
    rows = [
        {
            "seed": seed,
            "branch": branch,
            "truth": "motion",
            "layer": 1,
            "displacement": 1.0,
            "own": own,
            "other clip": 0.1,
            "other step": 0.0,
            "residual": own,
        }
        for branch, owns in (("trained", (0.30, 0.32, 0.31)), ("random", (0.9, 0.1, 0.5)))
        for seed, own in enumerate(owns)
    ]
    (results / MAIN / "offsets").mkdir()
    (results / MAIN / "offsets" / "alignment.json").write_text(json.dumps({"rows": rows}))
    page = small_page(results)
    assert (
        "trained minus random branches: 0 of 1 intervals leave out zero (0.05 would by "
        "chance): the nearest to it is motion, layer 1 -0.19 ± 1.35." in page
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": []}', '{"rows": [1]}', '{"rows": [{"branch": "trained"}]}'])
def test_a_damaged_file_on_offsets_is_named(results: Path, text: str):
    (results / MAIN / "offsets").mkdir()
    (results / MAIN / "offsets" / "alignment.json").write_text(text)
    with pytest.raises(ResultsError, match=r"alignment\.json is damaged: write it again"):
        small_page(results)
