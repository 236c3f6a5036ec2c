"""The chapters, as README's map lists them, and the minutes of each: to read by a formula, to run as measured.

execute_notebooks.py --minutes measures and keeps both in results/minutes.json; this program writes the table of
TEACHING.md from that record, as --minutes does, and the minutes to read on the chapters' cards and in chapter 00's map.
"""

import json
import platform
import re
from pathlib import Path
from typing import NamedTuple

import nbformat

from deformlib.files import atomic_write

ROOT = Path(__file__).parents[2]
WORDS, LINES = 200, 15  # that are read in a minute
UNKNOWN = "–"  # not measured


class Chapter(NamedTuple):
    """A row of README's map; `path` is below the folder of the project."""

    title: str
    path: str
    idea: str

    @property
    def is_workshop(self) -> bool:
        """Whether a reader of the main line may skip it."""
        return "/workshop/" in self.path


class MinutesError(ValueError):
    """Minutes that cannot be kept; the message says why and what to do."""


def chapters(root: Path = ROOT) -> list[Chapter]:
    """README's map: the main line, then the workshop."""
    readme = (root / "README.md").read_text(encoding="utf-8")
    return [
        Chapter(*row) for row in re.findall(r"^\| \[(.+?)\]\((notebooks/.+?\.ipynb)\) \|.*?\| (.+) \|$", readme, re.M)
    ]


def reading_minutes(path: Path) -> int:
    """Words of a notebook's text / 200 + lines of its code / 15, from ten on in steps of five.

    Exercises are text, and doing them is not counted.
    """
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.strip()]
    minutes = max(1, round(len(text.split()) / WORDS + len(code) / LINES))
    return minutes if minutes < 10 else 5 * round(minutes / 5)


def record(root: Path = ROOT) -> dict:
    """What was measured: the processor, and for each page its minutes to read and to run; no page, if nothing was."""
    path = root / "results" / "minutes.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"processor": "", "pages": {}}


def processor() -> str:
    """The name of this machine's processor."""
    told = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    found = re.search(r"model name\s*: (.+)", told.read_text(encoding="utf-8")) if told.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def check(paths: list[Path], root: Path = ROOT) -> None:
    """Raise MinutesError for a notebook that README's map does not list, and if the record is of another processor."""
    known, kept = {(root / each.path).resolve() for each in chapters(root)}, record(root)["processor"]
    for path in paths:
        if path.resolve() not in known:
            raise MinutesError(f"{path} has no row in README's map: give it one, or leave out --minutes.")
    if kept not in ("", processor()):
        raise MinutesError(f"results/minutes.json is of {kept}, this is {processor()}: delete it to measure all anew.")


def keep(path: Path, seconds: float, root: Path = ROOT) -> None:
    """Put the minutes of a notebook, which took so long to run, into the record; raises MinutesError as check does."""
    check([path], root)
    minutes = {"read": reading_minutes(path), "run": max(0.1, round(seconds / 60, 1))}
    pages = record(root)["pages"] | {path.resolve().relative_to(root.resolve()).as_posix(): minutes}
    write_record({"processor": processor(), "pages": dict(sorted(pages.items()))}, root)


def write_record(found: dict, root: Path = ROOT) -> None:
    """Write what `record` reads."""
    with atomic_write(root / "results" / "minutes.json") as beside:
        beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def count_again(root: Path = ROOT) -> None:
    """Put the minutes to read of the pages as they are now into the record, if there is one; those to run stay."""
    found = record(root)
    for path, minutes in found["pages"].items():
        minutes["read"] = reading_minutes(root / path)
    if found["pages"]:
        write_record(found, root)


def table(found: list[Chapter], root: Path = ROOT) -> str:
    """Chapters as a Markdown table with their minutes, links below `root`."""
    pages, rows = record(root)["pages"], []
    for title, path, idea in found:
        kept = pages.get(path) or {"read": reading_minutes(root / path), "run": UNKNOWN}
        rows.append(f"| [{title}]({path}) | {idea} | {kept['read']} | {kept['run']} |\n")
    return "| chapter | the idea | minutes to read | to run |\n|---|---|---|---|\n" + "".join(rows)


def source(root: Path = ROOT) -> str:
    """One sentence each on where the minutes come from."""
    kept = record(root)["processor"]
    told = f"measured on one core of {kept} ({UNKNOWN}: not yet); cards round them up" if kept else "not measured yet"
    return (
        f"Minutes to read are a formula, not a measurement: words / {WORDS} + lines of code / {LINES}, to the nearest "
        "five, without doing the exercises; for a first reading plan two to three times as many (an estimate). "
        f"Minutes to run are {told}.\n"
    )


def write_cards(rows: str, root: Path = ROOT) -> None:
    """Put the minutes to read of a table's rows on the cards of these chapters, and into the map of chapter 00."""
    start = root / "notebooks" / "00_start_here.ipynb"
    for name, minutes in re.findall(r"^\| \[.+?\]\((.+?)\) \| .+ \| (\d+) \| \S+ \|$", rows, re.M):
        card, place = root / "notebooks" / name, rf"(\| \[[^]]*\]\({re.escape(name)}\) \|.* )\d+( \|)"
        for path, pattern in ((card, r"(\| minutes \| )\d+( to read)"), (start, place)):
            if path.exists():
                text = path.read_text(encoding="utf-8")
                new = re.sub(pattern, rf"\g<1>{minutes}\2", text)
                if new != text:
                    path.write_text(new, encoding="utf-8")


def main() -> None:
    """Write the table of the main line between the marks of TEACHING.md, and the minutes that cards and map repeat."""
    count_again()
    path = ROOT / "notebooks" / "TEACHING.md"
    text = path.read_text(encoding="utf-8")
    block = f"{source()}\n{table([each for each in chapters() if not each.is_workshop])}".replace("(notebooks/", "(")
    write_cards(block)
    before, after = text.split("<!-- minutes -->\n")[0], text.split("<!-- end of minutes -->")[1]
    with atomic_write(path) as beside:
        beside.write_text(f"{before}<!-- minutes -->\n{block}<!-- end of minutes -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
