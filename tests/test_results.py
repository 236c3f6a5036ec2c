"""Tables from records whose answers are known."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from deformlib.results import (
    ResultsError,
    caption,
    confusion,
    difference,
    draw_cost,
    draw_table1,
    interval,
    load_records,
    mcnemar,
    paired_tests,
    recall,
    runs_table,
    side_by_side,
    table1,
    table2,
    to_latex,
    to_markdown,
    write_tables,
)

ROOT = Path(__file__).parent.parent


def record(model: str, split: str, seed: int, right: int, of: int = 10) -> dict:
    """A record with so many right predictions; the wrong ones say class 1 for class 0."""
    return {
        "name": f"{model}-{split}-{seed}",
        "experiment": {"model": model, "split": split, "seed": seed, "recipe": "tiny"},
        "corpus": {"name": "toy", "source": "made up", "key": "k", "videos": 50, "classes": ["calm", "glad"], "actors": 5},
        "split": {"val": of},
        "parameters": 123,
        "accuracy": right / of,
        "validation": {
            "clip": [f"{clip}.avi" for clip in range(of)],
            "copy": [0 if split == "by_copy" else -1] * of,
            "label": [0] * of,
            "predicted": [0] * right + [1] * (of - right),
        },
        "seconds": 1.5,
        "device": "CPU",
        "commit": "0123456789",
    }


@pytest.fixture
def records() -> list[dict]:
    """Three seeds of each model under the released code's split."""
    counts = {"plain": (4, 5, 6), "deformable": (5, 7, 6)}
    return [record(model, "by_copy", seed, right) for model, rights in counts.items() for seed, right in enumerate(rights)]


def test_interval_is_students():
    """Against numbers from a printed t table: 4.303 for two degrees of freedom, 2.776 for four."""
    mean, half = interval([40, 44, 48])
    assert mean == 44 and half == pytest.approx(4.3027 * 4 / np.sqrt(3), rel=1e-4)
    mean, half = interval([1, 2, 3, 4, 5])
    assert mean == 3 and half == pytest.approx(2.7764 * np.sqrt(2.5) / np.sqrt(5), rel=1e-4)
    assert interval([7])[0] == 7 and np.isnan(interval([7])[1])


def test_differences_are_taken_within_a_seed(records: list[dict]):
    """+10, +20 and 0 points; a seed that one model lacks is left out."""
    mean, half, pairs = difference(runs_table(records), "by_copy")
    assert (mean, pairs) == (pytest.approx(10), 3) and half == pytest.approx(4.3027 * 10 / np.sqrt(3), rel=1e-4)
    mean, _, pairs = difference(runs_table(records[:-1]), "by_copy")
    assert (mean, pairs) == (pytest.approx(15), 2)


def test_table1_keeps_the_papers_numbers_apart(records: list[dict]):
    """They stand in their own column, beside the released code's split and nowhere else."""
    records += [record("plain", "by_actor", 0, 2), record("deformable", "by_actor", 0, 1)]
    table = table1(runs_table(records))
    reported = table.set_index(["split", "model"])["paper (GEMEP, authors' report)"]
    assert reported["by_copy"].round(2).tolist() == [96.38, 98.8, 2.42]
    assert reported["by_actor"].isna().all()
    means = table.set_index(["split", "model"])["accuracy"]
    assert means["by_copy", "normal ConvLSTM"] == pytest.approx(50)
    assert means["by_actor", "difference, in pairs"] == pytest.approx(-10)


def test_confusion_counts_and_recall(records: list[dict]):
    """Rows are what was acted; both models are kept apart."""
    counts = confusion(records, "plain", "by_copy")
    assert counts.tolist() == [[15, 15], [0, 0]]
    rows = recall(counts, ["calm", "glad"])
    assert rows["recall"][0] == 50 and np.isnan(rows["recall"][1]) and rows["clips"].tolist() == [30, 0] and rows["taken for"][0] == "glad"


def test_markdown_and_caption_say_what_the_data_is(records: list[dict]):
    """Corpus, split, even guessing, seeds; no nan in the text."""
    text = to_markdown(pd.DataFrame({"a": [1.25, float("nan")], "b": ["x", pd.NA], "paper": [96.38, 98.8]}))
    assert text == "| a | b | paper |\n| --- | --- | --- |\n| 1.2 | x | 96.38 |\n|  |  | 98.8 |\n"
    assert to_markdown(pd.DataFrame({"p (t)": [0.0004, 0.0006]})).endswith("| <0.001 |\n| 0.001 |\n")
    assert "toy (50 videos, 2 classes, 5 actors): made up." in caption(records) and "Even guessing: 50.0 %" in caption(records)
    records[0]["corpus"]["actors"] = 0
    assert "toy (50 videos, 2 classes): made up." in caption(records)
    usual = records[0]["device"]
    assert caption(records).endswith(f"Ran on: {usual}.")
    records[-1]["device"] = "a card"  # one row has run elsewhere: the caption names it
    assert caption(records).endswith(f"Ran on: {usual}; a card ({records[-1]['experiment']['model']}).")


def test_broken_and_missing_records_are_named(tmp_path: Path, records: list[dict]):
    """One sentence with the file and the remedy."""
    with pytest.raises(ResultsError, match="holds no run record"):
        load_records(tmp_path)
    (tmp_path / "half.json").write_text(json.dumps(records[0])[:50])
    with pytest.raises(ResultsError, match=r"half\.json: no valid JSON .* delete it"):
        load_records(tmp_path)


def test_unfinished_and_mixed_records_do_not_count(tmp_path: Path, records: list[dict]):
    """A name with a dot in front was never finished; two corpora or recipes in one folder are an error."""
    (tmp_path / "one.json").write_text(json.dumps(records[0]))
    (tmp_path / ".123-4.two.json").write_text("{half")
    assert load_records(tmp_path) == [records[0]]
    for change in ({"corpus": records[1]["corpus"] | {"key": "other"}}, {"experiment": records[1]["experiment"] | {"recipe": "paper"}}):
        (tmp_path / "two.json").write_text(json.dumps(records[1] | change))
        with pytest.raises(ResultsError, match="mixes records"):
            load_records(tmp_path)


def test_the_figure_shows_every_run_and_even_guessing(records: list[dict]):
    """A dot for each run at its accuracy, the line of even guessing where it belongs."""
    _, ax = plt.subplots()
    draw_table1(runs_table(records), ax, chance=50)
    dots = [y for dots in ax.collections if isinstance(dots, PathCollection) for _, y in dots.get_offsets()]
    assert sorted(dots) == pytest.approx([40, 50, 50, 60, 60, 70])
    assert [line.get_ydata()[0] for line in ax.lines if line.get_label() == "even guessing"] == [50]
    draw_table1(runs_table(records), ax := plt.subplots()[1], chance=5.9)
    assert [line.get_ydata()[0] for line in ax.lines if line.get_label() == "even guessing"] == [5.9]
    plt.close("all")


def test_mcnemar_is_the_exact_coin():
    """9 to 1 of ten disagreements: 22 of 1024 outcomes; nothing judged is no disagreement."""
    one, other = record("mbmic", "by_actor", 0, 20, of=30), record("chance", "by_actor", 0, 12, of=30)
    other["validation"]["predicted"][20] = 0  # right where the other is wrong
    other["validation"]["predicted"][11] = 1
    won, lost, p = mcnemar([one, other], "mbmic", "chance", "by_actor")
    assert (won, lost, p) == (9, 1, pytest.approx(22 / 1024))
    assert mcnemar([other, one], "chance", "mbmic", "by_actor")[:2] == (1, 9)
    assert mcnemar([one, other], "mbmic", "chance", "by_copy") == (0, 0, 1.0)


def test_mcnemar_counts_a_clip_once_and_the_copies_of_each_seed():
    """Judged again, a clip is no second coin: the first seed that judged it in both models counts, in any order of records."""

    def under(seed: int, run: dict, **judged: list) -> dict:
        return run | {"experiment": run["experiment"] | {"seed": seed}, "validation": run["validation"] | judged}

    def counts(*runs: dict) -> tuple[int, int]:
        return mcnemar(list(runs), "mbmic", "chance", "by_actor")[:2]

    good, bad = record("mbmic", "by_actor", 0, 9), record("chance", "by_actor", 0, 5)
    said = [run["validation"]["predicted"] for run in (bad, good)]
    turned = [under(4, run, predicted=predicted) for run, predicted in zip((good, bad), said)]
    assert counts(good, bad, *turned) == counts(*turned, bad, good) == (4, 0)
    assert counts(good, *turned) == (0, 4)  # seed 0 did not judge them in both
    fresh = [f"fresh {clip}.avi" for clip in range(10)]
    assert counts(good, bad, *(under(4, run, **{**run["validation"], "clip": fresh}) for run in turned)) == (4, 4)
    copies = [under(seed, run, copy=[3] * 10) for seed in (0, 4) for run in (good, bad)]
    assert counts(*copies) == counts(good, bad, *copies[2:]) == (8, 0)


def test_a_run_from_changed_files_says_so(records: list[dict]):
    """Eight characters of the commit, and what stands behind the hash; a record may have none."""
    for run, commit in zip(records, ("0123456789abcdef+changes", "0123456789abcdef", None)):
        run["commit"] = commit
    assert runs_table(records[:3])["commit"].tolist() == ["01234567+changes", "01234567", "none"]


def test_paired_tests_are_paired(records: list[dict]):
    """Differences of +10, +20 and 0 points: t = 10 / (10 / sqrt 3) with two degrees of freedom has p = 0.225."""
    tests = paired_tests(records, "plain").set_index("row")
    row = tests.loc["deformable ConvLSTM"]
    assert row["minus plain"] == pytest.approx(10) and row["p (t)"] == pytest.approx(0.2254, abs=1e-4)
    assert (row["only it"], row["only plain"]) == (3, 0) and np.isnan(row["p (McNemar)"])  # copies are no coins
    clean = [entry | {"experiment": entry["experiment"] | {"split": "by_actor"}} for entry in records]
    assert paired_tests(clean, "plain")["p (McNemar)"].tolist() == [pytest.approx(0.25)]
    assert list(tests.index) == ["deformable ConvLSTM"]


@pytest.fixture
def rows(records: list[dict]) -> list[dict]:
    """Two rows of Table 2 and a model without a source beside the two networks."""
    more = [("fdcnn", 3), ("mbmic", 2), ("steps_even", 6)]
    others = [record(model, "by_copy", seed, right) for model, right in more for seed in range(3)]
    for run in records + others:
        run["multiply_adds"] = None if run["experiment"]["model"] == "mbmic" else 2_500_000
    return records + others + [record("mbmic", "by_actor", 0, 1)]


def test_table2_has_every_model_in_order(rows: list[dict]):
    """Ours first, as the paper has it; others by name at the end; the paper's numbers for the paper's rows only."""
    table = table2(runs_table(rows))
    assert list(table["row"]) == ["deformable ConvLSTM", "normal ConvLSTM", "FDCNN (image)", "MBMIC", "MBMIC", "steps even"]
    reported = table["paper (GEMEP, authors' report)"]
    assert reported[:5].tolist() == [98.8, 96.38, 95.4, 94.6, 94.6] and np.isnan(reported[5])
    assert table["accuracy"].tolist() == pytest.approx([60, 50, 30, 10, 20, 60])
    wide = side_by_side(table).set_index("row")
    assert wide.loc["MBMIC", "toy, by_copy"] == "20.0 ± 0.0" and wide.loc["MBMIC", "toy, by_actor"] == "10.0"
    assert wide.loc["FDCNN (image)", "million multiply-adds"] == 2.5 and np.isnan(wide.loc["MBMIC", "million multiply-adds"])
    assert "difference frame" in wide.loc["MBMIC", "known"] and "blocks" in wide.loc["MBMIC", "our reconstruction"]
    elsewhere = [run | {"corpus": run["corpus"] | {"name": "other"}} for run in rows]
    assert {"toy, by_copy", "other, by_copy"} <= set(side_by_side(table2(runs_table(rows + elsewhere))).columns)


def test_latex_says_what_markdown_says():
    """A row for a row; what LaTeX reads as its own is escaped, and empty cells stay."""
    table = pd.DataFrame({"a_b": ["10 % & more", ""], "paper": [96.38, float("nan")], "c": ["1.0 ± 0.2", "#1"]})
    lines = to_latex(table).splitlines()
    assert lines[0] == r"\begin{tabular}{lll}" and lines[-1] == r"\end{tabular}"
    assert lines[1:3] == [r"a\_b & paper & c \\", r"\hline"]
    assert lines[3:5] == [r"10 \% \& more & 96.38 & 1.0 $\pm$ 0.2 \\", r" &  & \#1 \\"]


def test_the_cost_figure_has_every_row(rows: list[dict]):
    """A point for each row at its seconds and accuracy, and names that do not lie on each other."""
    table = table2(runs_table([run for run in rows if run["experiment"]["split"] == "by_copy"]))
    ax = draw_cost(table, plt.subplots()[1])
    assert {text.get_text(): tuple(text.xy) for text in ax.texts} == {
        cell.row: (cell.seconds, cell.accuracy) for cell in table.itertuples()
    }
    heights = np.sort([text.xyann[1] for text in ax.texts])
    assert np.diff(heights).min() > 0.059 and heights.max() <= 1
    plt.close("all")


def test_a_folder_gets_the_tables_that_its_records_allow(tmp_path: Path, rows: list[dict]):
    """Table 2 only with other models, its remarks only with rows of chapter 12, Table 1 only with the two networks."""
    kinds = {
        "both": ("plain", "deformable"),
        "all": ("plain", "deformable", "fdcnn", "mbmic"),
        "classic": ("fdcnn", "mbmic"),
        "ablation": ("deformable", "steps_even"),
    }
    for kind, models in kinds.items():
        (tmp_path / kind).mkdir()
        for number, run in enumerate(run for run in rows if run["experiment"]["model"] in models):
            (tmp_path / kind / f"{number}.json").write_text(json.dumps(run))
        write_tables(tmp_path / kind)
        files = {path.name for path in (tmp_path / kind).iterdir() if path.suffix != ".json"}
        first = {"table1.md", "table1.csv", "table1.tex", "table1.png", "recall.csv", "confusion.png"}
        second = {"table2.md", "table2.csv", "table2.tex", "table2.png"}
        assert files == (set() if kind == "classic" else first) | (set() if kind == "both" else second)
        for path in (tmp_path / kind).glob("table*"):  # no table without the name of its data
            assert path.suffix == ".png" or "made up" in path.read_text(), path
        if kind != "both":
            text = (tmp_path / kind / "table2.md").read_text()
            assert ("five emotions, not 17" in text) == (kind != "ablation")
            assert len(pd.read_csv(tmp_path / kind / "table2.csv")) == len(table2(runs_table([r for r in rows if r["experiment"]["model"] in models])))


@pytest.mark.parametrize("folder", sorted(ROOT.glob("results/example-*")), ids=lambda folder: folder.name)
def test_committed_tables_are_built_from_the_committed_records(folder: Path, tmp_path: Path):
    """No number is typed by hand: built again, every table has the same bytes."""
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_tables(tmp_path)
    made = {path.name for path in tmp_path.glob("*") if path.suffix in (".md", ".csv", ".tex")}
    assert made and made == {path.name for path in folder.glob("*") if path.suffix in (".md", ".csv", ".tex")}
    for name in made:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
