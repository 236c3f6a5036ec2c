"""Numbers that the prose of one page repeats from another, or from a record: they may not drift apart."""

import json
import math
import re
from pathlib import Path

import gallery
import pytest
from exercises import exercises

ROOT = Path(__file__).parent.parent
START = ROOT / "notebooks" / "00_start_here.ipynb"
TEACHING = ROOT / "notebooks" / "TEACHING.md"
CHAPTERS = [path for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")) if path != START]


def prose(path: Path) -> str:
    """The Markdown of a notebook."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in stored if cell["cell_type"] == "markdown")


def printed(path: Path) -> str:
    """What the cells of a notebook printed."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in stored if cell["cell_type"] == "code" for output in cell["outputs"]]
    return "\n".join("".join(output.get("text", "")) for output in outputs)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_card_tells_reading_and_running_apart(path: Path):
    """Both on every card; the minutes to read are those of the map in chapter 00 and of the teachers' table."""
    card = re.search(r"^\| minutes \| (.+) \|$", prose(path), re.M)
    mapped = re.search(rf"^\| \[[^]]*\]\({path.name}\).*\| (\d+) \|$", prose(START), re.M)
    assert card and mapped
    to_read = re.search(r"(\d+) to read", card[1])
    assert to_read and " to run" in card[1], card[1]
    listed = re.search(rf"^\| \[[^]]*\]\({path.name}\) \| .+ \| (\d+) \| \S+ \|$", TEACHING.read_text("utf-8"), re.M)
    assert listed and to_read[1] == mapped[1] == listed[1], "python tests/tools/course.py writes all three"


def test_the_floor_on_a_gpu_is_one_number():
    """Fifty epochs at the paper's size: chapter 10 repeats what chapter 11 computes, and both follow from the record
    of the network's operations and the data sheet of a T4, 65 TFLOP/s.
    """
    floor = json.loads((ROOT / "results" / "benchmarks" / "network.json").read_text(encoding="utf-8"))["floor"]
    operations = 50 * (7242 * 3 + 1810) * floor[0]["forward_gflop"] * 1e9
    minutes = f"{operations / 65e12 / 60:.1f} minutes"
    training, gpu = (ROOT / "notebooks" / name for name in ("10_training.ipynb", "11_full_gpu_training.ipynb"))
    assert f"T4, float16, 65 TFLOP/s by data sheet: computed for direct convolutions, {minutes}" in printed(gpu)
    assert f"{minutes} by arithmetic with direct convolutions" in prose(training)
    for page in (printed(gpu), prose(gpu), prose(training)):
        assert not re.search(r"at least [\d.,]+ minutes|likely", page), "a floor is one of a way of computing"
    steps = json.loads((ROOT / "results" / "benchmarks" / "network.json").read_text(encoding="utf-8"))["step"]
    (ours,) = (row for row in steps if (row["network"], row["dtype"], row["where"]) == ("ours", "float32", "cpu"))
    assert f"2 CPU cores, from measured steps: {ours['protocol_minutes']:.1f} minutes" in printed(gpu)
    assert not re.search(r"FLOP/s measured", printed(gpu)), "no record here holds a rate of a GPU"


@pytest.mark.parametrize("batch", [2, 16])
def test_the_floor_of_launches_follows_from_their_number(batch: int):
    """Counted launches, the assumed time of one and the protocol give the minutes that chapter 11 prints."""
    text = printed(ROOT / "notebooks" / "11_full_gpu_training.ipynb")
    forward, training = map(int, re.search(r"^forward (\d+) launches, .*; with backward (\d+)$", text, re.M).groups())
    said, assumed = re.search(
        rf"^batch {batch}, computed: launches ([\d.]+) minutes at ([\d.]+) µs \(assumed\)$", text, re.M
    ).groups()
    launches = 50 * (math.ceil(7242 / batch) * training + math.ceil(1810 / batch) * forward)
    assert 500 < forward < training / 2 and said == f"{launches * float(assumed) / 60e6:.1f}"


def test_the_nearest_neighbour_is_one_number():
    """Chapter 00 reads from the record how often pixels alone are right; chapter 15 computes and prints it."""
    record = json.loads((ROOT / "results" / "leak" / "nearest.json").read_text(encoding="utf-8"))
    shares = {name: 100 * right / record["copies"] for name, right in record["right"].items()}
    table = (ROOT / "notebooks" / "15_what_98_8_measures.ipynb").read_text(encoding="utf-8")
    for name, share in shares.items():
        assert f"| {name} | {share:.1f} |" in table
    everything, others, _ = shares.values()
    assert f"{everything:.0f} % by memorising alone" in printed(START)
    assert f"{others:.0f} % if augmented copies" in printed(START)


def test_the_figure_of_cost_shows_its_worst_point():
    """The page of costs: the highest point of record or line lies inside of the axes; four clips are the record's."""
    rows = json.loads((ROOT / "results" / "benchmarks" / "network.json").read_text(encoding="utf-8"))["scaling"]
    seconds = {(row["length"], row["size"], row["batch"]): row["seconds"] for row in rows if row["where"] == "cpu"}
    worst = max(seconds.values()) / seconds[32, 112, 2]
    page = printed(START.parent / "workshop" / "costs.ipynb")
    said = re.search(r"highest point (\d\.\d\d), below the upper edge: True", page)
    four, line = re.search(r"batch  seconds.*'4: (\d\.\d\d)'", page), re.search(r"at twice the batch: (\d\.\d)", page)
    assert said and four and line and float(said[1]) == pytest.approx(max(worst, float(line[1])), abs=0.006)
    assert float(four[1]) * float(line[1]) == pytest.approx(seconds[32, 112, 4] / seconds[32, 112, 2], abs=0.011)


@pytest.mark.parametrize("mark", ["answer", "results"])
def test_the_readme_says_what_the_records_say(mark: str):
    """Between its marks, letter by letter: `python tests/tools/gallery.py --texts` writes it anew."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    written = re.search(rf"<!-- {mark} -->\n(.*?)<!-- end of {mark} -->", readme, re.DOTALL)
    assert written and written[1] == gallery.blocks()[mark]


def test_the_class_of_90_minutes_names_sections_that_are_there():
    """Its minutes add up, and every section of its table is a heading of the chapter in its row."""
    text = TEACHING.read_text(encoding="utf-8")
    table = re.search(r"^## 90 minutes.*?(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert table
    rows = re.findall(r"^\| (\d+) \| (?:\[\w+\]\((\S+)\))? *\| (.*?) \|", table[0], re.MULTILINE)
    assert sum(int(minutes) for minutes, *_ in rows) == 90
    for _, name, sections in (row for row in rows if row[1]):
        for said in sections.split("; "):
            assert is_section(ROOT / "notebooks" / name, said), (name, said)


def is_section(path: Path, said: str) -> bool:
    """Whether a notebook has a heading of this name; either may go on where the other ends."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return any(said.startswith(heading) or heading.startswith(said) for heading in headings)


def test_the_course_of_two_days_names_sections_and_exercises_that_are_there():
    """Each session has 90 minutes; what it looks at and does is in one of its chapters, by number."""
    table = re.search(r"^## Two days.*?(?=^## )", TEACHING.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert table
    rows = re.findall(r"^\| (\d) \| (.+) \| (.+) \| (.+) \|$", table[0], re.MULTILINE)
    assert [row[0] for row in rows] == list("12345678")
    for _, chapters, sections, tasks in rows:
        parts = re.findall(r"(\d+) \[(\w+)\]\((\S+?)\)", chapters)
        assert sum(int(minutes) for minutes, *_ in parts) == 90
        paths = {number: ROOT / "notebooks" / name for _, number, name in parts}
        number = ""
        for said in sections.split("; "):
            named = re.match(r"(\d\db?): ", said)
            number = named[1] if named else number
            assert is_section(paths[number], said.removeprefix(f"{number}: ")), (number, said)
        for number, wanted in re.findall(r"(\d\db?): ([\d, ]+)", tasks):
            assert {int(each) for each in wanted.split(", ")} <= exercises(paths[number]).keys(), (number, wanted)


@pytest.mark.parametrize("plan", ["## 90 minutes", "## Two days"])
def test_both_plans_hold_the_course_s_answer(plan: str):
    """Offsets that follow, and whether deformation helps."""
    text = re.search(rf"^{plan}.*?(?=^## )", TEACHING.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    rows = [line for line in text[0].splitlines() if re.match(r"\| \d", line)] if text else []
    for name in ("06b_offsets_that_follow.ipynb", "15b_does_deformation_help.ipynb"):
        assert any(name in row for row in rows), name


def test_the_released_graphs_hold_no_deformable_convolution():
    """As findings/released_graph.sh found them: the kinds that such a layer needs are in no graph."""
    graph = json.loads((ROOT / "results" / "released" / "graph.json").read_text(encoding="utf-8"))
    kinds = ("ExtractImagePatches", "GatherNd")
    assert all(graph["operations"]["one deformable layer"][kind] for kind in kinds)
    assert not any(graph["operations"][name][kind] for name in ("train", "validate") for kind in kinds)
    assert (graph["trainable tensors"], graph["parameters"]) == (60, 2_231_793)
