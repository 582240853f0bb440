"""What no installed font can draw is a question mark in a figure, never the box of a missing glyph."""

import pytest

from rtx_lab.report import fonts, style

HANGUL, HAN = "서연 64", "汉字 𓀀"


@pytest.fixture
def _latin_alone(monkeypatch):
    monkeypatch.setattr(fonts, "families", lambda: [fonts.LATIN])


def test_hangul_stays_where_a_font_has_it():
    assert fonts.drawable(HANGUL) == HANGUL
    assert fonts.drawable("mean 0.5 ± 0.1 é\n") == "mean 0.5 ± 0.1 é\n"


@pytest.mark.usefixtures("_latin_alone")
def test_signs_without_a_font_are_question_marks():
    assert fonts.drawable(HANGUL) == "?? 64"
    assert fonts.drawable(HAN) == "?? ?"


@pytest.mark.usefixtures("_latin_alone")
def test_every_text_of_a_figure_is_cared_for(tmp_path):
    with style.drawing():
        figure, axes = style.sheet()
        axes.plot([0, 1], [0, 1], label=HANGUL)
        axes.set_title(HANGUL)
        axes.set_yticks([0, 1], [HANGUL, "b"])
        style.legend(figure, axes)
        fonts.replace_unknown(figure)
        figure.draw_without_rendering()
        texts = [axes.get_title(), axes.get_yticklabels()[0].get_text(), figure.legends[0].get_texts()[0].get_text()]
    assert texts == ["?? 64"] * 3
