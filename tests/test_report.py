"""The report from records whose answers are known: right sentences, nothing typed, missing studies named."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from factories import make_record

from deformlib import __main__
from deformlib.paper.report import (
    MAIN,
    PARTS,
    detectable,
    draw_figures,
    headlines,
    info_sheet,
    limits,
    read_studies,
    repeat_table,
    report,
    separation,
    significant,
    write_report,
)
from deformlib.paper.study import WARPS
from deformlib.paper.table2 import escape_markdown
from deformlib.records import ResultsError
from deformlib.tables import mean_ci


def record(model: str, split: str, seed: int, right: int, of: int = 20, corpus: str = "toy") -> dict:
    """A whole record of a run with so many right predictions; on warped clips it gets half of them."""
    label = [clip % 2 for clip in range(of)]
    said = [kind if clip < right else 1 - kind for clip, kind in enumerate(label)]
    warped = {
        kind: [[amount, right / of / (1 if amount == (kind == "scale") else 2)] for amount in amounts]
        for kind, amounts in WARPS.items()
    }
    training = {"optimizer": "adamw", "lr": 0.0015, "weight_decay": 0.05, "batch": 8, "epochs": 8, "epoch_steps": 100}
    toy = make_record(model, split, seed, right, of)
    clips = {"clip": [f"{seed}_{clip}.avi" for clip in range(of)], "copy": [-1] * of, "label": label, "predicted": said}
    return toy | {
        "name": f"classroom-{model}-{split}-{seed}",
        "experiment": toy["experiment"] | {"corpus": corpus, "recipe": "classroom"},
        "corpus": toy["corpus"] | {"name": corpus, "source": "made up, not GEMEP", "key": corpus},
        "parameters": 1234,
        "multiply_adds": 5_000_000,
        "settings": {"network": {"length": 16, "size": 32}, "training": training},
        "validation": toy["validation"] | clips,
        "robustness": warped,
        "seconds": 36.0,
        "device": "CPU, toy",
    }


def write(folder: Path, records: list[dict]) -> None:
    """Write records as `run` does, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in records:
        (folder / f"{each['name']}.json").write_text(json.dumps(each))


def study(gains: tuple[int, ...], corpus: str = "toy") -> list[dict]:
    """Plain and deformable under three splits, a seed for each of `gains`: how many clips of 20 deformable has more
    right.
    """
    rights = {"by_actor": 4, "by_clip": 5, "by_copy": 12}
    return [
        record(
            model, split, seed, right + (seed + split.count("o")) % 3 + gain * (model == "deformable"), corpus=corpus
        )
        for seed, gain in enumerate(gains)
        for split, right in rights.items()
        for model in ("plain", "deformable")
    ]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with one study, in which deformable has 0, 1, -1, 1, 0 clips more right."""
    write(tmp_path / "results" / MAIN, study((0, 1, -1, 1, 0)))
    return tmp_path / "results"


def test_what_could_be_found_is_found_as_often_as_said():
    """Simulated studies with that true difference have an interval above zero four times in five."""
    rng = np.random.default_rng(1)
    for pairs in (np.array([0.0, 3, 1]), np.array([2.0, -1, 3, 0, 1]), np.arange(12.0)):
        drawn = detectable(pairs) + pairs.std(ddof=1) * rng.standard_normal((2000, len(pairs)))
        found = np.mean([mean > half for mean, half in map(mean_ci, drawn)])
        assert found == pytest.approx(0.8, abs=0.03)
    assert detectable(3 * np.array([2.0, -1, 3, 0, 1])) == pytest.approx(3 * detectable(np.array([2.0, -1, 3, 0, 1])))


def test_of_many_comparisons_those_without_zero_are_named():
    """A single run has no interval and is left out; names are escaped; bold is what a wider interval leaves."""
    text = significant(["a*", "b", "c"], [3.0, -1.0, 9.0], [2.0, 4.0, float("nan")])
    assert text == "1 of 2 intervals leave out zero (0.10 would by chance): a\\* +3.0 ± 2.0."
    assert significant(["a", "b"], [3.1, -3], [2.0, 2.0]).endswith(
        ": **a +3.1 ± 2.0**; b -3.0 ± 2.0."
    )  # half as wide again, the first still does
    assert significant(["a", "b"], [1.0, -3], [2.0, 4.0]).endswith(": the nearest to it is b -3.0 ± 4.0.")
    assert significant([], [], []) == "not run."


def test_the_page_changes_its_mind_with_the_records(results: Path):
    """The same folder with another difference says so in the headline; and the split is a difference in both."""
    before = "\n".join(headlines(read_studies(results)))
    assert (
        "*The claim, toy.* deformable minus plain, by_actor: +1.0 points, 95 % interval -4.2 "
        "to +6.2, 5 paired seeds: the interval contains 0" in before
    )
    assert re.search(
        r"\*The split, toy\.\* plain, by_copy minus by_clip: .*a difference is shown", before
    )  # nothing but the clips is new
    for path in (results / MAIN).glob("*by_clip*.json"):
        path.unlink()
    assert re.search(
        r"plain, by_copy minus by_actor: .*a difference is shown", "\n".join(headlines(read_studies(results)))
    )
    write(results / MAIN, study((5, 6, 5, 6, 5)))
    after = "\n".join(headlines(read_studies(results)))
    assert re.search(
        r"\*The claim, toy\.\* deformable minus plain, by_actor: \+27\.0 points, 95 % interval "
        r"\+23\.6 to \+30\.4, .*a difference is shown",
        after,
    )


def test_every_comparison_is_with_its_own_base(results: Path):
    """Controls are compared with plain, frames and defects with deformable; other tasks stand beside the claim;
    guessing is named.
    """
    known = {"frozen_offsets": 6, "steps_even": -4, "defect_mixed_gates": 8}  # clips of 20 more than plain
    plain = {
        each["experiment"]["seed"]: round(20 * each["accuracy"])
        for each in study((0,) * 5)
        if each["experiment"]["model"] == "plain" and each["experiment"]["split"] == "by_actor"
    }
    write(results / MAIN, study((5,) * 5))
    write(
        results / MAIN,
        [
            record(model, "by_actor", seed, right + gain)
            for model, gain in known.items()
            for seed, right in plain.items()
        ],
    )
    write(
        results / "example-words",
        [
            record(model, "by_actor", seed, 10 + 2 * (model == "deformable"), corpus="words")
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
    assert "*The claim, words.* deformable minus plain, by_actor: +10.0 points, 95 % interval +10.0 to +10.0" in said
    assert "**Deformable is shown to be better than plain in 2 of 2 comparisons on people never seen.**" in said
    assert "in training are shown to raise plain on 1 of 1 corpora." in said
    assert (
        "*The claim, toy.*" in said
        and "above chance level (50.0 %)" not in said.split("*The claim, toy.*")[1].split("\n")[0]
    )
    write(results / MAIN, study((0,) * 5))
    assert "Neither is shown to be above chance level (50.0 %)" in "\n".join(headlines(read_studies(results)))
    figures = draw_figures(read_studies(results))
    dots = [
        [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "o"] for ax in figures["tests"].axes
    ]
    assert [sorted(round(value) for value in axes[0]) for axes in dots] == [[0, 30], [-20, 40]]
    plt.close("all")


def test_every_number_comes_from_the_records(results: Path):
    """Other accuracies, seconds, sizes and machines: no line with such a number stays as it was."""
    kept = set(report(results).splitlines()) | set(info_sheet(results).splitlines())
    for path in (results / MAIN).glob("*.json"):
        changed = json.loads(path.read_text())
        changed["seconds"], changed["parameters"], changed["multiply_adds"] = 777.0, 4321, 9_000_000
        changed["device"], changed["python"], changed["versions"] = "CPU, other", "3.13.0", {"torch": "2.10.0"}
        changed["split"] |= {
            "train": 401,
            "copies_in_training": [n and n - 7 for n in changed["split"]["copies_in_training"]],
        }
        changed["settings"]["training"]["lr"] = 0.1
        changed["settings"]["network"]["length"] = 8
        said, label = changed["validation"]["predicted"], changed["validation"]["label"]
        said[-1] = label[-1] if changed["experiment"]["model"] == "plain" else said[-1]
        changed["accuracy"] = float(np.mean(np.equal(said, label)))
        path.write_text(json.dumps(changed))
    fresh = set(report(results).splitlines()) | set(info_sheet(results).splitlines())
    stale = r"0\.3 hours|1,234|0.0015|16 frames|CPU, toy|3.12.1|2.9.0|81 to 99|400|\+1.0 points"
    for number in stale.split("|"):
        assert any(re.search(number, line) for line in kept), number
        assert not any(re.search(number, line) for line in fresh), number


def test_missing_studies_are_named(results: Path):
    """Missing folders, in the headlines and in the table of commands; and a folder without any is an error."""
    page, said = report(results), headlines(read_studies(results))
    assert [line for line in said if line.endswith(": not run.")] == [
        f"{name}: not run." for name in ("example-motion", "example-words", "example-styles")
    ]
    assert sum("| not run | `python -m deformlib study" in line for line in info_sheet(results).splitlines()) == 3
    assert "*Are the offsets aligned with the body?* not run." in page and "nan" not in page
    with pytest.raises(
        ResultsError, match="has no records in any of example-claims, .*name another folder or run a study"
    ):
        report(results / "nothing")
    (results / MAIN / "broken.json").write_text("{")
    with pytest.raises(ResultsError, match=r"broken\.json: no valid JSON"):
        report(results)


def test_half_a_study_says_on_how_many_seeds_it_rests(results: Path):
    """One seed gives no interval; a model without its partner no difference; nothing breaks, figures included."""
    for path in (results / MAIN).glob("*-[1-4].json"):
        path.unlink()
    assert "deformable minus plain, by_actor: not tested" in "\n".join(headlines(read_studies(results)))
    assert limits(read_studies(results))[0].startswith("Every run was made on a CPU")
    (results / MAIN / "classroom-plain-by_actor-0.json").unlink()
    assert "| toy | 50.0 | by_actor | not run |" in write_report(results).read_text()


def test_runs_that_were_not_tested_on_warped_clips_are_enough_for_the_rest(results: Path):
    """Records of the study leakage alone: no robustness, said so, and the figure is still drawn."""
    records = [{name: value for name, value in each.items() if name != "robustness"} for each in study((0, 1, -1))]
    write(results / MAIN, records)
    for path in (results / MAIN).glob("*-[34].json"):
        path.unlink()
    for path in (results / MAIN).glob("*.json"):
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"multiply_adds": None})
        )  # as older records, and classifiers
    assert "million multiply-adds a clip: none." in info_sheet(results)
    assert "*Robustness.* deformable minus plain, on changed clips: not tested" in write_report(results).read_text()


def test_rows_of_other_studies_in_a_folder_do_not_count(results: Path):
    """The folder of motion capture also holds rows of Table 2, classifiers without any network among them."""
    pages = report(results), info_sheet(results)
    forest = record("hog_klt", "by_actor", 0, 20) | {"settings": {"feature": "hog_klt", "copies": 8}}
    write(results / MAIN, [forest, record("majority_class", "by_copy", 0, 20) | {"settings": {}}])
    assert (report(results), info_sheet(results)) == pages


def test_a_limit_is_given_only_where_runs_scatter(results: Path):
    """From the spread of the differences, 4.2 points here; none where they are all one clip."""
    said = limits(read_studies(results))[0]
    assert said.startswith(
        "toy, by_actor: runs that scatter like these show a true difference of 7.0 points four times in five"
    )
    assert said.endswith("one clip is 5.0 points.")
    assert limits(read_studies(results))[1].startswith(
        "A difference of 2.42 points, as the paper's, could easily be missed: toy, by_actor. "
        "But near 100 % points weigh more: the paper's are 67% of"
    )
    write(results / MAIN, study((1, 1, 1, 1, 1)))
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
    page = report(results)
    assert (
        "trained minus random branches: 0 of 1 intervals leave out zero (0.05 would by "
        "chance): the nearest to it is motion, layer 1 -0.19 ± 1.02." in page
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"settings": None},
        {"versions": []},
        {"robustness": {"rotate": [[0]]}},
        {"python": 3},
        {"split": {"name": "by_actor"}},
    ],
)
def test_a_damaged_record_is_named(results: Path, damage: dict):
    """In one sentence, whatever of it is wrong; `make fuzz` breaks many more."""
    whole = study((0,))[0]
    write(
        results / MAIN,
        [
            whole | damage | {"split": whole["split"] | {"copies_in_training": "none"}}
            if "split" in damage
            else whole | damage
        ],
    )
    for page in (report, info_sheet):
        with pytest.raises(ResultsError, match=rf"{whole['name']}\.json: no whole record .*delete it"):
            page(results)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": []}', '{"rows": [1]}', '{"rows": [{"branch": "trained"}]}'])
def test_a_damaged_file_on_offsets_is_named(results: Path, text: str):
    (results / MAIN / "offsets").mkdir()
    (results / MAIN / "offsets" / "alignment.json").write_text(text)
    with pytest.raises(ResultsError, match=r"alignment\.json is damaged: write it again"):
        report(results)


def test_commands_and_costs_are_those_of_the_records(results: Path):
    """30 runs of 36 seconds are 0.3 hours; recipe and seeds stand in the command where they are not the study's own."""
    table = repeat_table(read_studies(results))
    assert len(table) == len(PARTS)
    leakage = table.iloc[1]
    assert (leakage["runs"], leakage["hours"]) == (30, "0.3")
    assert (
        leakage["command"] == "`python -m deformlib study leakage --recipe classroom --results results/example-claims`"
    )
    write(results / "example-words", study((0, 1), "words"))
    words = repeat_table(read_studies(results)).iloc[5]
    assert (
        words["command"]
        == "`python -m deformlib study tasks --corpus data/tasks/words --seeds 2 --results results/example-words`"
    )
    assert words["runs"] == 4  # by_clip and by_copy are no part of that study


def test_separation_counts_copies_and_actors(results: Path):
    """Zero by actor, the records' counts by copy; each seed once, however many models it has."""
    table = separation(read_studies(results)[MAIN]).set_index("split")
    assert table["copies in training"].to_dict() == {"by_actor": "0", "by_clip": "0", "by_copy": "81 to 99"}
    assert table.loc["by_actor", "actors held out"] == "5, 5 different" and set(table["seeds"]) == {5}


def test_names_cannot_break_the_page(tmp_path: Path):
    """A folder may be called anything; what comes from a record is shown literally, in tables too."""
    assert escape_markdown("a|b *c* _d_ e_f\n<g>") == r"a\|b \*c\* \_d\_ e_f \<g\>"
    write(tmp_path / MAIN, study((0, 1, -1), "my|films*$x$"))
    page, sheet = report(tmp_path), info_sheet(tmp_path)
    for text in (page, sheet):
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
        assert "my|films" not in text and r"my\|films\*\$x\$" in text
    write_report(tmp_path)  # titles of figures as well


def test_pages_are_written_beside_and_renamed(results: Path, monkeypatch: pytest.MonkeyPatch):
    """What lies there afterwards is whole, and a stop in between leaves the old page and no rubbish."""
    path = write_report(results)
    assert path.read_text(encoding="utf-8") == report(results)
    assert (results / "INFO_SHEET.md").read_text(encoding="utf-8") == info_sheet(results)
    assert sorted(file.name for file in (results / "report").iterdir()) == ["robustness.png", "splits.png", "tests.png"]
    old = path.read_bytes()
    write(results / MAIN, study((5, 6, 5, 6, 5)))

    def full(self: Path, *words: object, **more: object) -> None:
        self.write_bytes(b"half a page")
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_report(results)
    assert path.read_bytes() == old and not list(results.rglob(".*"))


def test_the_command_line_writes_and_prints_it(results: Path, capsys: pytest.CaptureFixture):
    """python -m deformlib report FOLDER; one sentence and 1 where there is nothing."""
    assert __main__.main(["report", str(results)]) == 0
    assert (results / "REPORT.md").read_text(encoding="utf-8") in capsys.readouterr().out
    assert __main__.main(["report", str(results / "nothing")]) == 1
    assert "error:" in (said := capsys.readouterr().err) and "has no records" in said
