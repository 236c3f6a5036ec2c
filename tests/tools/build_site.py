"""The course as a folder of web pages that need no network: make site writes site/index.html and all it leads to.

The first page has README's film, its explorer, what the course is, and the chapters; from there and from README.md
every relative link is followed. Notebooks and Markdown files become pages, all else is copied. Beside each page stands
the list of chapters, which a narrow screen folds without a script.
Formulas become pictures here, since a page that fetches MathJax shows none without a network.
"""

import html
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import course
import nbformat
import numpy as np
from matplotlib.textpath import TextPath
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).parent.parent.parent
FRONT, EXPLORER, FOLLOW = "index.html", "explorer.html", "follow.html"
FILM = """\
<h1>deformlib</h1>
<figure>
<video src="{film}.mp4" controls autoplay muted loop playsinline aria-label="A film without sound" \
aria-describedby="film"></video>
<figcaption id="film">{words}.</figcaption>
</figure>
<iframe src="{follow}" title="The explorer of this film: point at a place, and see where taps look for it"></iframe>
"""
# What matplotlib does not know, in its own words.
SPELLED = [
    (r"\\tfrac", r"\\frac"),
    (r"\\[bB]ig+[lr]?(?![a-zA-Z])", ""),
    (r"\\bmod", r"\\;\\mathrm{mod}\\;"),
    (r"\s+", " "),
]
SPELLED += [
    (r"\\frac(?:\{([^{}]*)\}|(\d))(?:\{([^{}]*)\}|(\d))", r"\\frac{\1\2}{\3\4}"),
    (r"\\sqrt\s?(\w)", r"\\sqrt{\1}"),
]
SPELLED += [(r"(?<=[\w)}]) ?\\(tanh|sin|cos|log|ln)\b", r"\\,\\\1")]  # a space before, as TeX has it
STYLE = """\
body { max-width: 78rem; margin: 0 auto; padding: 0 1rem 3rem; display: grid; gap: 0 2rem;
  grid-template-columns: 14rem minmax(0, 62rem); font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
nav { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; align-self: start; padding: .6rem 0;
  box-sizing: border-box; font-size: 14px; }
nav ul { list-style: none; margin: .4rem 0; padding: 0; }
nav a { display: block; padding: .1rem .4rem; text-decoration: none; }
nav a[aria-current] { background: #e4edf7; color: #222; font-weight: bold; }
nav summary { padding: .1rem .4rem; cursor: pointer; }
nav label { display: none; font-size: 16px; }
@media (max-width: 52rem) {
  body { display: block; }
  nav { position: static; max-height: none; border-bottom: 1px solid #ccc; }
  nav label { display: block; }
  nav:not(:has(:checked)) > :not(label) { display: none; }
}
main { overflow-wrap: break-word; }
figure { margin: 0; }
video, iframe { width: 100%; border: 0; }
iframe { height: 41rem; }
@media (max-width: 58rem) { iframe { height: 77rem; } }
@media (max-width: 34rem) { iframe { height: 70rem; } }
a { color: #0050a0; }
a.anchor-link { display: none; }
img { max-width: 100%; }
svg.formula { overflow: visible; }
p.formula { text-align: center; overflow-x: auto; padding: .2rem 0; }
pre { overflow-x: auto; padding: .5rem .75rem; margin: .5rem 0;
  font-size: 13.5px; line-height: 1.4; background: #f5f5f5; }
.output pre { background: none; border-left: 3px solid #ccc; white-space: pre-wrap; }
code { font-size: 90%; }
table { border-collapse: collapse; margin: .75rem 0; display: block; overflow-x: auto; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
.dataframe td, .dataframe th { text-align: right; }
blockquote { margin-left: 0; padding-left: 1rem; border-left: 3px solid #ccc; }
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{home}style.css">
</head>
<body>
<nav aria-label="The course">
<label><input type="checkbox"> List of chapters</label>
{sidebar}
</nav>
<main>
{body}
{answers}</main>
</body>
</html>
"""


FORMATTER = HtmlFormatter()


class SiteError(ValueError):
    """What keeps a page from being made; the message names the page and the remedy."""


@cache
def formula(tex: str) -> str:
    """TeX as a picture that stands on the line of the text; for those who cannot see it, the TeX is its name."""
    spelled = tex.strip()
    for old, new in SPELLED:
        spelled = re.sub(old, new, spelled)
    try:
        text = TextPath((0, 0), f"${spelled}$", size=10, prop={"math_fontfamily": "cm"})
    except ValueError as error:
        raise SiteError(
            f"matplotlib cannot draw the formula {tex}: write it in simpler TeX ({str(error).splitlines()[-1]})"
        ) from None
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    path = "".join(
        letters[code] + ("" if code == 79 else " ".join(f"{n:.2f}" for n in points))
        for points, code in text.iter_segments()
    )
    (left, low), (right, high) = (
        corner(text.vertices[text.codes != text.CLOSEPOLY], axis=0) for corner in (np.min, np.max)
    )
    size = "; ".join(
        f"{name}: {value / 8:.3f}em"
        for name, value in {"width": right - left, "height": high - low, "vertical-align": low}.items()
    )
    return (
        f'<svg class="formula" role="img" aria-label="{html.escape(tex)}" style="{size}" '
        f'viewBox="{left:.2f} {-high:.2f} {right - left:.2f} {high - low:.2f}">'
        f'<path transform="scale(1 -1)" fill="currentColor" d="{path}"/></svg>'
    )


class Renderer(IPythonRenderer):
    """Markdown as nbconvert writes it, with drawn formulas, and no picture from elsewhere (the badges of Colab)."""

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return f'<p class="formula">{formula(body)}</p>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text if url.startswith("http") else super().image(text, url, title)


def markdown(text: str) -> str:
    """Markdown as HTML."""
    return MarkdownWithMath(renderer=Renderer(escape=False)).render(text)


def shown(output: nbformat.NotebookNode, words: str) -> str:
    """One output of a cell; `words` for those who cannot see a picture."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img src="data:image/png;base64,{data["image/png"].strip()}" alt="{html.escape(words)}">'
    if "text/html" in data:
        return data["text/html"]
    if "text/markdown" in data:
        return markdown(data["text/markdown"])
    return f"<pre>{ansi2html(output.get('text') or data.get('text/plain', ''))}</pre>"


def notebook(path: Path) -> str:
    """The cells of a notebook as they are stored, outputs included."""
    parts, cells = [], nbformat.read(path, as_version=4).cells
    for cell, following in zip(cells, [*cells[1:], {"source": ""}], strict=False):
        if cell.cell_type == "markdown":
            parts.append(markdown(cell.source))
        elif cell.cell_type == "code":
            words = re.match(r"\*Figure: (.+?)\*(?:\s|$)", following["source"], re.DOTALL)
            outputs = [shown(output, words[1] if words else "") for output in cell.outputs]
            code = highlight(cell.source, PythonLexer(), FORMATTER)
            folded = cell.metadata.get("jupyter", {}).get("source_hidden")
            parts.append(f"<details><summary>imports</summary>{code}</details>" if folded else code)
            parts.append(f'<div class="output">{"".join(outputs)}</div>' if outputs else "")
    return "\n".join(parts)


def front(root: Path) -> str:
    """The inside of the first page, links below `root`; what it says of film and course is README's.

    Raises SiteError if README has no film.
    """
    readme = (root / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- film -->\n!\[(.+?)\]\((.+?)\.gif\)", readme)
    if not found:
        raise SiteError("README.md has no film between its marks <!-- film -->: make gallery writes it.")
    about = readme.split("<!-- end of film -->")[1].strip().split("\n\n")[0]
    rows = course.chapters(root)
    main, workshop = ([row for row in rows if row.is_workshop == kind] for kind in (False, True))
    return (
        FILM.format(film=found[2], words=html.escape(found[1]), follow=FOLLOW)
        + markdown(f"{about}\n\n## Chapters\n\n{course.table(main, root)}\n{course.source(root)}")
        + f"<details><summary>The workshop, {len(workshop)} pages</summary>"
        + markdown(course.table(workshop, root))
        + "</details>"
    )


def sidebar(root: Path, path: Path) -> str:
    """The list beside the page of `path`: the main line, the workshop folded, and what else there is."""

    def listed(links: dict[Path, str]) -> str:
        """Links, the page's own marked."""
        lines = []
        for target, words in links.items():
            here = ' aria-current="page"' if target == path else ""
            link = os.path.relpath(address(target), address(path).parent)
            lines.append(f'<li><a href="{link}"{here}>{html.escape(words)}</a></li>')
        return f"<ul>{''.join(lines)}</ul>"

    rows = course.chapters(root)
    main, workshop = ({root / row.path: row.title for row in rows if row.is_workshop == kind} for kind in (False, True))
    more = {root / "README.md": "Results, commands, names", root / "notebooks" / "TEACHING.md": "For teachers"}
    more |= {root / FOLLOW: "Explorer: taps that follow", root / EXPLORER: "Explorer: trained networks"}
    unfolded = " open" if path in workshop else ""
    folded = f"<details{unfolded}><summary>Workshop</summary>{listed(workshop)}</details>"
    return listed({root / FRONT: "deformlib"} | main) + folded + listed(more)


def contents(path: Path) -> str:
    """The inside of the first page, or of the page of a notebook, a Markdown file or a folder."""
    if path.name == FRONT:
        return front(path.parent)
    if path.suffix == ".ipynb":
        return notebook(path)
    if path.is_dir():
        return markdown(
            f"# {path.name}\n\n" + "".join(f"- [{file.stem}]({file.name})\n" for file in sorted(path.glob("[!.]*")))
        )
    return markdown(path.read_text(encoding="utf-8"))


def address(path: Path) -> Path:
    """Where a file or folder of the project lies on the site."""
    if path.is_dir():
        return path / "index.html"
    if path.suffix in (".ipynb", ".md"):
        return path.with_suffix(".html")
    return path if path.suffix else path.with_suffix(".txt")  # LICENSE


def build(site: Path, root: Path = ROOT) -> list[Path]:
    """Write the first page, README.md of `root` and all that can be reached from them into the folder `site`; return
    what was written.

    Raises SiteError for a link to what does not exist, a formula that cannot be drawn, and a README without a film.
    """
    site.mkdir(parents=True, exist_ok=True)
    (site / "style.css").write_text(STYLE + FORMATTER.get_style_defs(".highlight"), encoding="utf-8")
    root = root.resolve()
    waiting, made = [root / FRONT, root / "README.md"], {}
    while waiting:
        path = waiting.pop()
        if path in made:
            continue
        made[path] = target = site / address(path).relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.suffix not in (".ipynb", ".md"):
            shutil.copyfile(path, target)
            continue

        def follow(found: re.Match, path: Path = path) -> str:
            link, mark, place = found[2].partition("#")
            if not link or re.match(r"[a-z]+:", link) or link == FOLLOW:  # which main adds
                return found[0]
            wanted = (path if path.is_dir() else path.parent).joinpath(html.unescape(link)).resolve()
            if not wanted.exists() or root not in wanted.parents:
                raise SiteError(f"{path.relative_to(root)} links to {link}, which is not there: correct the link.")
            waiting.append(wanted)
            return f'{found[1]}="{os.path.relpath(address(wanted), address(path).parent)}{mark}{place}"'

        body = re.sub(r'\b(href|src)="([^"]*)"', follow, contents(path))
        title = re.sub(r"<.*?>|&#182;|¶", "", (re.search(r"<h1.*?</h1>", body, re.DOTALL) or [path.stem])[0])
        part = "workshop_" if path.parent.name == "workshop" else ""
        answers = root / "notebooks" / "answers" / f"{part}{path.stem}.md"
        more = ""
        if path.suffix == ".ipynb" and answers.exists():
            waiting.append(answers)
            more = f'<p><a href="{os.path.relpath(address(answers), path.parent)}">Answers to the exercises</a></p>\n'
        home = os.path.relpath(root, address(path).parent) + "/"
        page = PAGE.format(title=title, home=home, sidebar=sidebar(root, path), answers=more, body=body)
        target.write_text(page, encoding="utf-8")
    return list(made.values())


def main() -> None:
    """Build beside the old site and take its place, so that a broken build leaves the old one."""
    from gallery import ALIGN, SOMEONE, load  # the example networks and clips, as in the README's pictures

    from deformlib.align.view import AlignExplorer, example
    from deformlib.explorer import Explorer, trace_clip

    site = ROOT / "site"
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".site") as beside:
        pages = build(Path(beside) / "site")
        nets, clip, large = load()
        looks = {name: trace_clip(net, clip, large) for name, net in nets.items()}
        step, title = (
            nets["deformable"].config.deform_steps[0][1],
            "Joy, by an actor the networks never saw (not GEMEP)",
        )
        Explorer(looks, title, step=step, layer=2, depth=3).export_html(Path(beside) / "site" / EXPLORER)
        AlignExplorer(example(ALIGN), SOMEONE).export_html(Path(beside) / "site" / FOLLOW)
        shutil.rmtree(site, ignore_errors=True)
        (Path(beside) / "site").rename(site)
    weight = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    print(
        f"{site / 'index.html'}: {len(pages)} pages and files, {weight / 1e6:.1f} MB; copy the "
        f"folder anywhere, it needs no network"
    )


if __name__ == "__main__":
    main()
