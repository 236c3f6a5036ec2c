"""The course as web pages: whole, linked, and without a network."""

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from build_site import EXPLORER, FOLLOW, ROOT, SiteError, build, formula
from exercises import answers_of, books, exercises


class Page(HTMLParser):
    """What a page names: links, what a browser loads by itself, and places to link to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.places, self.pictures = [], [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        self.loads += [given[name] for name in ("src", "data", "poster") if name in given] + (
            [given["href"]] if tag == "link" else []
        )
        self.places |= {given.get("id")}
        self.pictures += [given.get("alt", "")] if tag == "img" else []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site but for the explorers, which have tests of their own."""
    folder = tmp_path_factory.mktemp("web") / "a site"
    build(folder)
    for name in (EXPLORER, FOLLOW):
        (folder / name).write_text("<h1>An explorer</h1>")
    return folder


def test_every_link_leads_somewhere_and_nothing_is_fetched(site: Path):
    """Relative links end at a file; pictures and styles lie in it; other sites are links for people only."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
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
        page = Page((site / book.relative_to(ROOT)).with_suffix(".html"))
        if exercises(book):
            assert os.path.relpath(answers_of(book).with_suffix(".html"), book.parent) in page.links
        inside = sum(load.startswith("data:image/png") for load in page.loads)
        assert inside == book.read_text(encoding="utf-8").count('"image/png":'), f"{book.stem}: a picture is missing"
        assert len(page.pictures) >= inside and all(page.pictures), f"{book.stem}: a picture without words"
    assert "<details" in (site / "notebooks" / "answers" / "06_deformable_convolution.html").read_text()


def test_the_front_page_opens_with_the_film_and_leads_to_its_explorer(site: Path):
    text = (site / "index.html").read_text()
    film = text.index("results/gallery/follow.gif")
    assert (
        film < text.index("<h2")
        and f'href="{FOLLOW}"' in text[film:]
        and (site / "results/gallery/follow.gif").is_file()
    )
    assert film < text.index("results/gallery/points.png")


def test_formulas_are_pictures_named_by_their_tex(site: Path):
    text = (site / "notebooks" / "08_convlstm.html").read_text()
    assert r'aria-label="c \leftarrow f c + i g \qquad h \leftarrow o \tanh(c)"' in text
    shown = re.sub(r'<pre>.*?</pre>|<code>.*?</code>|aria-label="[^"]*"', "", text, flags=re.DOTALL)
    assert "$" not in shown and "\\tanh" not in shown
    with pytest.raises(SiteError, match="simpler TeX"):
        formula(r"\begin{cases} 1 \end{cases}")


def test_a_broken_link_is_named_with_its_page(tmp_path: Path):
    shutil.copy(ROOT / "notebooks" / "02_frame_sampling.ipynb", tmp_path)
    (tmp_path / "README.md").write_text("[a chapter](02_frame_sampling.ipynb)")
    with pytest.raises(SiteError, match=r"02_frame_sampling\.ipynb links to .*which is not there"):
        build(tmp_path / "site", tmp_path)
