"""The course as web pages: whole, linked, and without a network."""

import html
import os
import re
import shutil
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import build_site
import course
import pytest
from build_site import EXPLORER, FOLLOW, FRONT, ROOT, SiteError, build, formula
from exercises import answers_of, books, exercises


class Page(HTMLParser):
    """What a page names: links, what a browser loads by itself, and places to link to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.places, self.pictures, self.here, self.unfolded = [], [], set(), [], [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        self.loads += [given[name] for name in ("src", "data", "poster") if name in given] + (
            [given["href"]] if tag == "link" else []
        )
        self.places |= {given.get("id")}
        self.pictures += [given.get("alt", "")] if tag == "img" else []
        self.here += [given["href"]] if "aria-current" in given else []
        self.unfolded |= tag == "details" and "open" in given


@cache
def read(path: Path) -> Page:
    """The page of a file that no longer changes."""
    return Page(path)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site but for the explorers, which have tests of their own; its code has no colours, which take as long
    as all the rest: test_code_is_coloured looks at them on one page.
    """
    folder = tmp_path_factory.mktemp("web") / "a site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_site, "highlight", lambda code, *words: f"<pre>{html.escape(code)}</pre>")
        build(folder)
    for name in (EXPLORER, FOLLOW):
        (folder / name).write_text("<h1>An explorer</h1>")
    return folder


def test_every_link_leads_somewhere_and_nothing_is_fetched(site: Path):
    """Relative links end at a file; pictures and styles lie in it; other sites are links for people only."""
    pages = {path: read(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links + page.loads:
            if link.startswith("data:") or link.startswith("http") and link not in page.loads:
                continue
            assert not re.match(r"\w+:|/", link), f"{path.name}: {link}"
            file, _, place = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), f"{path.name}: {link}"
            assert not place or place in pages[target].places, f"{path.name}: {link}"
    assert "url(" not in (site / "style.css").read_text()


def test_every_chapter_is_there_with_its_answers_and_pictures(site: Path):
    for book in books():
        page = read((site / book.relative_to(ROOT)).with_suffix(".html"))
        if exercises(book):
            assert os.path.relpath(answers_of(book).with_suffix(".html"), book.parent) in page.links
        inside = sum(load.startswith("data:image/png") for load in page.loads)
        assert inside == book.read_text(encoding="utf-8").count('"image/png":'), f"{book.stem}: a picture is missing"
        assert len(page.pictures) >= inside and all(page.pictures), f"{book.stem}: a picture without words"
    assert "<details" in (site / "notebooks" / "answers" / "06_deformable_convolution.html").read_text()
    assert "<summary>imports</summary>" in (site / "notebooks" / "14_learned_offsets.html").read_text()


def test_the_front_page_is_the_film_its_explorer_what_this_is_and_the_chapters(site: Path):
    """In this order; the film plays without sound and has words for those who cannot see it."""
    text = (site / FRONT).read_text()
    parts = ("<video", f'<iframe src="{FOLLOW}"', "A course in notebooks", "<h2", "<details><summary>The workshop")
    places = [text.index(part) for part in parts]
    assert places == sorted(places) and (site / "results/gallery/follow.mp4").is_file()
    video = re.search(r"<video (.+?)>", text)[1]
    assert {"controls", "autoplay", "muted", "loop"} <= set(video.split()) and 'aria-label="' in video
    described = re.search(r'aria-describedby="(.+?)"', video)[1]
    assert "on somebody it never saw" in text.split(f'id="{described}">')[1].split("<")[0]
    about = re.search(r"<p>(A course in notebooks.+?)</p>", text, re.DOTALL)[1]
    assert len(re.findall(r"\.\s+[A-Z]|\.$", about)) == 3


def test_the_front_page_lists_every_chapter_with_its_minutes(site: Path):
    text = (site / FRONT).read_text()
    for chapter in course.chapters():
        link = Path(chapter.path).with_suffix(".html").as_posix()
        row = re.search(rf'<a href="{link}">[^<]+</a></td>\s*<td>.+?</td>\s*<td>(\d+)</td>\s*<td>(.+?)</td>', text)
        kept = course.record()["pages"].get(chapter.path, {"read": int(row[1]), "run": course.UNKNOWN})
        assert row.groups() == (str(kept["read"]), str(kept["run"])), link
    assert ("not measured yet" in text) == (not course.record()["pages"])


def test_beside_each_page_stands_the_list_of_chapters(site: Path):
    """All of them on every page, its own marked; the workshop is folded but on its own pages."""
    listed = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in books()]
    for path in [site / name for name in (FRONT, "README.html", *listed)]:
        page = read(path)
        links = {
            os.path.normpath(path.parent.joinpath(link).relative_to(site)) for link in page.links if ":" not in link
        }
        assert {*listed, FRONT, "README.html", EXPLORER, FOLLOW} <= {*map(str, map(Path, links))}, path.name
        assert page.here == [path.name] and page.unfolded == (path.parent.name == "workshop"), path.name


def test_the_list_folds_on_a_narrow_screen(browser, site: Path):
    """And no page is wider than the screen; the film plays, silent."""
    for width, stands in ((1280, True), (400, False)):
        page = browser.new_page(viewport={"width": width, "height": 800})
        for name in (FRONT, "notebooks/workshop/gather.html", "notebooks/14_learned_offsets.html"):
            page.goto((site / name).as_uri())
            link = page.locator("nav a[aria-current]")
            assert link.is_visible() == stands, (width, name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, name)
            if not stands:
                page.locator("nav input").check()
                assert link.is_visible()
        page.goto((site / FRONT).as_uri())
        page.wait_for_function("() => { const film = document.querySelector('video'); return film.currentTime > 0.1; }")
        assert page.evaluate("document.querySelector('video').muted")
        page.close()


def test_formulas_are_pictures_named_by_their_tex(site: Path):
    text = (site / "notebooks" / "08_convlstm.html").read_text()
    assert r'aria-label="c \leftarrow f c + i g \qquad h \leftarrow o \tanh(c)"' in text
    shown = re.sub(r'<pre>.*?</pre>|<code>.*?</code>|aria-label="[^"]*"', "", text, flags=re.DOTALL)
    assert "$" not in shown and "\\tanh" not in shown
    with pytest.raises(SiteError, match="simpler TeX"):
        formula(r"\begin{cases} 1 \end{cases}")


def test_code_is_coloured():
    """Word by word, and the style sheet has the colours."""
    text = build_site.notebook(ROOT / "notebooks" / "02_frame_sampling.ipynb")
    kinds = set(re.findall(r'<span class="(\w+)">', text))
    assert '<div class="highlight"><pre>' in text and {"kn", "nn", "n", "s2", "mi"} <= kinds
    style = build_site.FORMATTER.get_style_defs(".highlight")
    assert all(f".highlight .{kind} " in style for kind in ("kn", "s2", "mi"))


def test_a_broken_link_is_named_with_its_page(tmp_path: Path):
    shutil.copy(ROOT / "notebooks" / "02_frame_sampling.ipynb", tmp_path)
    (tmp_path / "README.md").write_text("[a chapter](02_frame_sampling.ipynb)")
    with pytest.raises(SiteError, match=r"02_frame_sampling\.ipynb links to .*which is not there"):
        build(tmp_path / "site", tmp_path)


def test_a_readme_without_a_film_is_refused(tmp_path: Path):
    (tmp_path / "README.md").write_text("nothing to see")
    with pytest.raises(SiteError, match="no film between its marks"):
        build(tmp_path / "site", tmp_path)
