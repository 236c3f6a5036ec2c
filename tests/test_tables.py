"""Means, intervals, tests and texts whose answers are known."""

import numpy as np
import pandas as pd
import pytest
from factories import make_record

from deformlib.paper.table2 import confusion, escape_markdown, format_mean, format_range, recall, to_latex, to_markdown
from deformlib.tables import (
    corrected_ci,
    interval_sentence,
    mcnemar,
    mean_ci,
    nadeau_bengio,
    paired_differences,
    paired_tests,
    runs_table,
)


@pytest.fixture
def records() -> list[dict]:
    """Three seeds of each model under the released code's split."""
    counts = {"plain": (4, 5, 6), "deformable": (5, 7, 6)}
    return [make_record(model, "by_copy", seed, right) for model in counts for seed, right in enumerate(counts[model])]


def test_interval_is_students():
    """Against numbers from a printed t table: 4.303 for two degrees of freedom, 2.776 for four."""
    mean, half = mean_ci([40, 44, 48])
    assert mean == 44 and half == pytest.approx(4.3027 * 4 / np.sqrt(3), rel=1e-4)
    mean, half = mean_ci([1, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.7764 * np.sqrt(2.5) / np.sqrt(5), rel=1e-4)
    assert mean_ci([7])[0] == 7 and np.isnan(mean_ci([7])[1])


def test_differences_are_taken_within_a_seed(records: list[dict]):
    """+10, +20 and 0 points; a seed that one model lacks is left out; without a pair there is no difference."""
    assert paired_differences(runs_table(records), "by_copy").tolist() == pytest.approx([10, 20, 0])
    assert paired_differences(runs_table(records[:-1]), "by_copy").tolist() == pytest.approx([10, 20])
    assert len(paired_differences(runs_table(records[:3]), "by_copy")) == 0
    assert paired_differences(runs_table(records), "by_copy", "plain", "deformable").tolist() == pytest.approx(
        [-10, -20, 0]
    )


@pytest.mark.parametrize(
    ("pairs", "finding"),
    [
        ([10, 20, 0], "no difference is shown"),
        ([-10, -20, 0], "no difference is shown"),
        ([10, 10.5, 11, 9, 12], "a difference is shown"),
        ([-10, -10.5, -11, -9, -12], "a difference is shown"),
        ([10, 2, 3, 12, 4], "a difference is shown"),  # 6.2 with 5.6 on either side, of independent runs
        ([3], "not tested"),
        ([], "not tested"),
    ],
)
def test_the_sentence_of_an_interval_says_no_more_than_it_shows(pairs: list[float], finding: str):
    """Its ends, the number of pairs, and one of three findings."""
    text = interval_sentence(np.array(pairs), "ours minus theirs")
    assert text.startswith("ours minus theirs") and finding in text and str(len(pairs)) in text
    if len(pairs) > 1:
        mean, half = mean_ci(pairs)
        assert f"{mean:+.1f} points, 95 % interval over seeds {mean - half:+.1f} to {mean + half:+.1f}" in text
        assert "McNemar" not in text


@pytest.mark.parametrize(
    ("runs", "test", "training", "factor"),
    [
        (5, 1, 4, 1.5),
        (5, 1, 5, 2**0.5),
        (5, 2, 6, (8 / 3) ** 0.5),
        (3, 1, 4, 1.75**0.5),
        (2, 1, 2, 2**0.5),
        (5, 0, 9, 1),
    ],
)
def test_the_correction_depends_on_runs_and_on_what_is_under_test(runs: int, test: int, training: int, factor: float):
    """Nadeau and Bengio's variance is that of a mean over runs, times 1 + runs * test / training clips."""
    assert nadeau_bengio(runs, test / training) == pytest.approx(factor)
    scores = np.arange(runs) + 10.0  # variance of the mean: (1 / runs + test / training) * s^2
    s2, t = scores.var(ddof=1), {2: 12.7062, 3: 4.3027, 5: 2.7764}[runs]
    assert nadeau_bengio(runs, test / training) * mean_ci(scores)[1] == pytest.approx(
        t * np.sqrt((1 / runs + test / training) * s2), rel=1e-4
    )


def test_a_sentence_is_as_careful_as_its_split_asks():
    """6.2 points with 5.6 on either side: shown where few clips are under test, not at one for every four in training.

    And three runs at 80/20 are widened by 1.32, not by the 1.5 of five.
    """
    pairs = [10, 2, 3, 12, 4]
    shown, not_shown = "a difference is shown.", "the interval contains 0, no difference is shown."
    few = interval_sentence(pairs, "ours", ratio=0.02)  # 1.049 * 5.59 = 5.86
    assert "+6.2 points, corrected 95 % interval +0.3 to +12.1, 5 paired seeds" in few and few.endswith(shown)
    many = interval_sentence(pairs, "ours", ratio=0.25)  # 1.5 * 5.59 = 8.38
    assert "corrected 95 % interval -2.2 to +14.6" in many and many.endswith(not_shown)
    three = [8.0, 10.0, 12.0]  # 10 with 4.97 on either side
    assert interval_sentence(three, "ours", ratio=1 / 3).endswith(shown)  # 1.414 * 4.97 = 7.03
    assert interval_sentence(three, "ours", ratio=1.2).endswith(not_shown)  # 2.145 * 4.97 = 10.7
    assert corrected_ci(three, 1.2) == (10, pytest.approx(2.145 * 4.968, rel=1e-3))


def test_the_sentence_takes_unit_digits_and_a_second_test():
    """As asked; a small p is not written as 0."""
    text = interval_sentence([0.1, 0.12, 0.11], "moved", unit=" pixels", digits=3, p=0.0412)
    assert "+0.110 pixels" in text and text.endswith("McNemar's p = 0.041.")
    assert "p < 0.001" in interval_sentence([0.1, 0.12], "moved", p=0.0002)


def test_a_run_from_changed_files_says_so(records: list[dict]):
    """Eight characters of the commit, and what stands behind the hash; a record may have none."""
    for run, commit in zip(records, ("0123456789abcdef+changes", "0123456789abcdef", None), strict=False):
        run["commit"] = commit
    records[0]["multiply_adds"] = None
    runs = runs_table(records[:3])
    assert runs["commit"].tolist() == ["01234567+changes", "01234567", "none"]
    assert np.isnan(runs["multiply-adds"][0]) and runs["multiply-adds"][1] == 2_500_000
    names = [
        "model",
        "split",
        "seed",
        "accuracy",
        "test clips",
        "videos",
        "parameters",
        "multiply-adds",
        "seconds",
        "corpus",
        "classes",
        "commit",
    ]
    assert list(runs) == names


def test_mcnemar_is_the_exact_coin():
    """9 to 1 of ten discordant pairs: 22 of 1024 outcomes; no pair at all is no disagreement."""
    one, other = make_record("mbmic", "by_actor", 0, 20, of=30), make_record("mean_frame", "by_actor", 0, 12, of=30)
    other["validation"]["predicted"][20] = 0  # right where the other is wrong
    other["validation"]["predicted"][11] = 1
    won, lost, p = mcnemar([one, other], "mbmic", "mean_frame", "by_actor")
    assert (won, lost, p) == (9, 1, pytest.approx(22 / 1024))
    assert mcnemar([other, one], "mean_frame", "mbmic", "by_actor")[:2] == (1, 9)
    assert mcnemar([one, other], "mbmic", "mean_frame", "by_copy") == (0, 0, 1.0)


def test_mcnemar_counts_a_clip_once_and_the_copies_of_each_seed():
    """Repeated clips are not independent: the first seed with the clip in both models counts, in any order."""

    def under(seed: int, run: dict, **answers: list) -> dict:
        return run | {"experiment": run["experiment"] | {"seed": seed}, "validation": run["validation"] | answers}

    def counts(*runs: dict) -> tuple[int, int]:
        return mcnemar(list(runs), "mbmic", "mean_frame", "by_actor")[:2]

    good, bad = make_record("mbmic", "by_actor", 0, 9), make_record("mean_frame", "by_actor", 0, 5)
    predicted = [run["validation"]["predicted"] for run in (bad, good)]
    turned = [under(4, run, predicted=other) for run, other in zip((good, bad), predicted, strict=True)]
    assert counts(good, bad, *turned) == counts(*turned, bad, good) == (4, 0)
    assert counts(good, *turned) == (0, 4)  # seed 0 has them in one model only
    fresh = [f"fresh {clip}.avi" for clip in range(10)]
    assert counts(good, bad, *(under(4, run, **run["validation"] | {"clip": fresh}) for run in turned)) == (4, 4)
    copies = [under(seed, run, copy=[3] * 10) for seed in (0, 4) for run in (good, bad)]
    assert counts(*copies) == counts(good, bad, *copies[2:]) == (8, 0)


def test_paired_tests_are_paired(records: list[dict]):
    """Differences of +10, +20 and 0 points; the clips that only one has right; copies of one clip get no p."""
    row = paired_tests(records, "plain").set_index("model").loc["deformable"]
    assert row["minus plain"] == pytest.approx(10) and row["seeds"] == 3
    assert (row["only model"], row["only plain"]) == (3, 0) and np.isnan(row["p (McNemar)"])
    clean = [entry | {"experiment": entry["experiment"] | {"split": "by_actor"}} for entry in records]
    assert paired_tests(clean, "plain")["p (McNemar)"].tolist() == [pytest.approx(0.25)]
    assert paired_tests(records, "fdcnn").empty


def test_confusion_counts_and_recall(records: list[dict]):
    """Rows are the true classes; both models are kept apart; a class without clips has no recall."""
    counts = confusion(records, "plain", "by_copy")
    assert counts.tolist() == [[15, 15], [0, 0]]
    rows = recall(counts, ["calm", "glad"])
    assert rows["recall"][0] == 50 and np.isnan(rows["recall"][1]) and rows["clips"].tolist() == [30, 0]
    assert rows["most frequent confusion"].tolist() == ["glad", ""]


def test_a_table_as_text():
    """One decimal, p with three, nothing for nan; LaTeX says what Markdown says, escaped."""
    text = to_markdown(pd.DataFrame({"a": [1.25, float("nan")], "b": ["x", pd.NA], "p (t)": [0.0251, 0.0001]}))
    assert text == "| a | b | p (t) |\n| --- | --- | --- |\n| 1.2 | x | 0.025 |\n|  |  | <0.001 |\n"
    assert to_markdown(pd.DataFrame({"p (t)": [0.0004, 0.0006]})).endswith("| <0.001 |\n| 0.001 |\n")
    table = pd.DataFrame({"a_b": ["10 % & more", ""], "d": [96.38, float("nan")], "c": ["1.0 ± 0.2", "#1"]})
    lines = to_latex(table).splitlines()
    assert lines[0] == r"\begin{tabular}{lll}" and lines[-1] == r"\end{tabular}"
    assert lines[1:3] == [r"a\_b & d & c \\", r"\hline"]
    assert lines[3:5] == [r"10 \% \& more & 96.4 & 1.0 $\pm$ 0.2 \\", r" &  & \#1 \\"]
    assert to_latex(table, "p < 0.1").splitlines()[-1] == r"\par\smallskip{\footnotesize p $<$ 0.1\par}"


def test_numbers_as_text():
    """Runs are counted; one run has no interval; none says so. Ranges with one end or two. Signs are escaped."""
    assert format_mean([]) == "not run" and format_mean([7.0]) == "7.0 (1)"
    assert format_mean(iter([40, 44, 48]), "+") == "+44.0 ± 13.1 (3)"
    assert [format_range(values) for values in ([], [7], iter([3, 1200, 5]))] == ["none", "7", "3 to 1,200"]
    assert escape_markdown("a|b *c*\n_d_ e_f") == r"a\|b \*c\* \_d\_ e_f"
