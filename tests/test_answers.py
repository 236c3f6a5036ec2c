"""Exercises and worked answers belong together; that blanks fail and answers pass, nbval runs with each chapter
(exercises.py).
"""

from pathlib import Path

import pytest
from exercises import answers, answers_of, books, checks, code, exercises, is_misspelt

CHAPTERS = [path for path in books() if exercises(path)]


def test_a_typo_is_not_a_blank():
    """A name that is not there, broken syntax or a missing module are mistakes of ours; any other error may be the
    blank's.
    """
    assert all(
        map(is_misspelt, ("NameError", "UnboundLocalError", "SyntaxError", "IndentationError", "ModuleNotFoundError"))
    )
    assert not any(map(is_misspelt, ("AssertionError", "TypeError", "CorpusError")))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_every_exercise_has_an_answer_with_the_same_checks(chapter: Path):
    """An answer may not check less, or other things, than its exercise."""
    assert answers_of(chapter).exists(), (
        f"{chapter.name} has exercises but no worked answers: write {answers_of(chapter).name}"
    )
    asked, answered = exercises(chapter), answers(chapter)
    assert asked.keys() == answered.keys(), "an exercise without an answer, or the other way round"
    for number in asked:
        blank, worked = (
            [check for block in code(text[number]) for check in checks(block)] for text in (asked, answered)
        )
        assert blank == worked and blank, number


def test_no_answer_is_left_over():
    """Every file of answers belongs to a notebook with exercises."""
    assert {path.name for path in answers_of(CHAPTERS[0]).parent.glob("*.md")} == {
        answers_of(path).name for path in CHAPTERS
    }
