"""The course as a folder of web pages that need no network: make site writes site/index.html and all it leads to.

README.md becomes the index; from there every relative link is followed. Notebooks and Markdown files become pages,
all else is copied.
Formulas become pictures here, since a page that fetches MathJax shows none without a network.
"""

import html
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.textpath import TextPath
from nbconvert.filters import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).parent.parent.parent
EXPLORER, FOLLOW = "explorer.html", "follow.html"
# On the index, below the film:
TRY = f'<p><a href="{FOLLOW}">Point at a place yourself: the explorer of this film</a></p>'
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
body { max-width: 62rem; margin: 0 auto; padding: 0 1rem 3rem;
  font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
nav { padding: .6rem 0; border-bottom: 1px solid #ccc; }
nav a { margin-right: 1.5em; }
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
<nav><a href="{home}index.html">All chapters</a><a href="{home}{follow}">Taps that follow</a>\
<a href="{home}{explorer}">The explorer</a>{answers}</nav>
<main>
{body}
</main>
</body>
</html>
"""


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
            parts.append(highlight(cell.source, PythonLexer(), HtmlFormatter()))
            parts.append(f'<div class="output">{"".join(outputs)}</div>' if outputs else "")
    return "\n".join(parts)


def contents(path: Path) -> str:
    """The inside of the page of a notebook, a Markdown file or a folder."""
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
        return path.with_name("index.html") if path.name == "README.md" else path.with_suffix(".html")
    return path if path.suffix else path.with_suffix(".txt")  # LICENSE


def build(site: Path, root: Path = ROOT) -> list[Path]:
    """Write README.md of `root` and all that can be reached from it into the folder `site`; return what was written.

    Raises SiteError for a link to what does not exist, and for a formula that cannot be drawn.
    """
    site.mkdir(parents=True, exist_ok=True)
    (site / "style.css").write_text(STYLE + HtmlFormatter().get_style_defs(".highlight"), encoding="utf-8")
    root = root.resolve()
    waiting, made = [root / "README.md"], {}
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
            if not link or re.match(r"[a-z]+:", link):
                return found[0]
            wanted = (path if path.is_dir() else path.parent).joinpath(html.unescape(link)).resolve()
            if not wanted.exists() or root not in wanted.parents:
                raise SiteError(f"{path.relative_to(root)} links to {link}, which is not there: correct the link.")
            waiting.append(wanted)
            return f'{found[1]}="{os.path.relpath(address(wanted), address(path).parent)}{mark}{place}"'

        body = re.sub(r'\b(href|src)="([^"]*)"', follow, contents(path))
        body = body.replace("<!-- end of film -->", TRY)
        title = re.sub(r"<.*?>|&#182;|¶", "", (re.search(r"<h1.*?</h1>", body, re.DOTALL) or [path.stem])[0])
        part = "workshop_" if path.parent.name == "workshop" else ""
        answers = root / "notebooks" / "answers" / f"{part}{path.stem}.md"
        more = ""
        if path.suffix == ".ipynb" and answers.exists():
            waiting.append(answers)
            more = f'<a href="{os.path.relpath(address(answers), path.parent)}">Answers to the exercises</a>'
        home = os.path.relpath(root, address(path).parent) + "/"
        target.write_text(
            PAGE.format(title=title, home=home, follow=FOLLOW, explorer=EXPLORER, answers=more, body=body),
            encoding="utf-8",
        )
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
