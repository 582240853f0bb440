"""The page of a report: one file, nothing loaded, nothing unescaped; in a browser it sorts and fits."""

import json
import re
import shutil
from base64 import b64decode
from html.parser import HTMLParser

import pytest

from rtx_lab.report import fonts, html
from rtx_lab.report.document import Document, Figure, Section, Table

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 345.6 240"><rect width="300" height="200"/></svg>'
ROWS = [
    ["b", "0.8860 [0.87, 0.90]"],
    ["a", "-"],
    ["c", "0.9"],
    ["d", "1,234"],
    ["e", "-2"],
    ["f", "12k"],
    ["10", "<.001"],
]


def page(tmp_path, *, title="A study", columns=("setting", "accuracy"), rows=ROWS, name="curve", missing=False):
    (tmp_path / "figures").mkdir(exist_ok=True)
    if not missing:
        (tmp_path / "figures" / f"{name}.svg").write_text(SVG)
    table = Table(
        title="Table of <settings>", columns=columns, rows=rows, note="by `seed`", numeric=frozenset(columns[1:])
    )
    figure = Figure(name=name, caption="A <caption>.", alt='A "curve" & more.')
    section = Section(title="Results & more", paragraphs=["a < b"], tables=[table], figures=[figure])
    return html.render(Document(title=title, headlines=["x < y"], sections=[section]), tmp_path)


class Reader(HTMLParser):
    """What a browser would see: tags with their attributes, and all text outside style and script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if {"style", "script"} & set(self.open) else data


def test_the_page_asks_nothing_of_the_network(tmp_path):
    text = page(tmp_path)
    assert "default-src 'none'" in text
    assert "://" not in text, "drawings are encoded, so no address stands in the page"
    for tag, attributes in Reader(text).tags:
        for key in ("src", "href", "srcset", "action", "data"):
            assert str(attributes.get(key, "#")).startswith(("#", "data:")), (tag, key)
    assert all(part.startswith(('"data:', "data:")) for part in re.findall(r"url\(([^)]{6})", text))


def test_data_are_never_read_as_markup(tmp_path):
    nasty = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&amp; {x} $y </td>"
    text = page(tmp_path, title=nasty, columns=(nasty, "y"), rows=[[nasty, nasty]])
    seen = Reader(text)
    assert seen.open == [], "every tag is closed"
    assert [tag for tag, _ in seen.tags].count("script") == 1
    assert not [attributes for _, attributes in seen.tags if "onerror" in attributes]
    assert seen.text.count(nasty) == 5  # title, heading, column, two cells
    assert "a < b" in seen.text


def test_figures_have_words_and_a_size_and_tables_have_heads(tmp_path):
    tags = Reader(page(tmp_path)).tags
    (image,) = [attributes for tag, attributes in tags if tag == "img"]
    assert image["alt"] == 'A "curve" & more.'
    assert (image["width"], image["height"]) == ("346", "240")
    heads = [attributes for tag, attributes in tags if tag == "th"]
    assert [(head["scope"], head.get("class")) for head in heads] == [("col", None), ("col", "num")]
    (box,) = [attributes for _, attributes in tags if attributes.get("role") == "region"]
    assert (box["tabindex"], box["aria-label"]) == ("0", "Table of <settings>")
    names = [attributes["name"] for tag, attributes in tags if tag == "meta" and "name" in attributes]
    assert "viewport" in names


def test_a_drawing_follows_the_dark_scheme(tmp_path):
    tags = Reader(page(tmp_path)).tags
    (image,) = [attributes for tag, attributes in tags if tag == "img"]
    drawn = b64decode(image["src"].partition("base64,")[2]).decode()
    assert "prefers-color-scheme: dark" in drawn
    assert drawn.replace(re.search("<style>.*?</style>", drawn)[0], "") == SVG


def test_a_drawing_that_is_not_there_is_named(tmp_path):
    seen = Reader(page(tmp_path, missing=True, name="lost"))
    assert "No drawing lost" in seen.text


def test_the_same_document_gives_the_same_page(tmp_path):
    assert page(tmp_path, title="슬롯") == page(tmp_path, title="슬롯")


def test_korean_glyphs_come_along_where_they_are_needed(tmp_path, monkeypatch):
    with_font = page(tmp_path, title="슬롯과 문턱")
    assert "@font-face" in with_font
    assert len(with_font) < 60_000, "only the glyphs in use"
    assert "@font-face" not in page(tmp_path)
    monkeypatch.setattr(fonts, "packaged_font", lambda: None)
    assert "@font-face" not in page(tmp_path, title="슬롯과 문턱")


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that logs its console and every request."""
    selenium = pytest.importorskip("selenium.webdriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


def _open(browser, tmp_path, *, width=1200, dark=False, **more):
    (tmp_path / "report.html").write_text(page(tmp_path, **more), encoding="utf-8")
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get((tmp_path / "report.html").as_uri())


def _column(browser, number):
    return [cell.text for cell in browser.find_elements("css selector", f"tbody td:nth-child({number})")]


def _heads(browser):
    heads = browser.find_elements("css selector", "thead th")
    return heads, [head.find_element("css selector", "button") for head in heads]


@pytest.mark.slow
def test_the_page_opens_without_a_word_in_the_console_and_without_a_request(browser, tmp_path):
    _open(browser, tmp_path, title="슬롯")
    assert browser.title == "슬롯"
    assert browser.execute_script("return document.querySelector('img').naturalWidth") > 0
    assert browser.execute_script("return document.fonts.check('1rem \"Report Hangul\"', '슬롯')")
    _heads(browser)[1][1].click()
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


@pytest.mark.slow
def test_a_click_sorts_numbers_as_numbers_and_a_second_one_turns_them_round(browser, tmp_path):
    _open(browser, tmp_path)
    heads, buttons = _heads(browser)
    rising = ["-2", "<.001", "0.8860 [0.87, 0.90]", "0.9", "1,234", "12k"]
    buttons[1].click()
    assert _column(browser, 2) == [*rising, "-"]
    assert heads[1].get_attribute("aria-sort") == "ascending"
    buttons[1].click()
    assert _column(browser, 2) == [*reversed(rising), "-"], "what has no number stays last"
    assert heads[1].get_attribute("aria-sort") == "descending"
    assert _column(browser, 1) == ["f", "d", "c", "b", "10", "e", "a"], "rows move whole"


@pytest.mark.slow
def test_the_keyboard_sorts_as_well(browser, tmp_path):
    _open(browser, tmp_path)
    heads, buttons = _heads(browser)
    buttons[0].send_keys("\ue007")  # Enter
    assert _column(browser, 1) == ["10", "a", "b", "c", "d", "e", "f"]
    assert [head.get_attribute("aria-sort") for head in heads] == ["ascending", None]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_a_wide_table_scrolls_in_its_box_and_never_the_page(browser, tmp_path, width):
    columns = tuple(f"a long column {number}" for number in range(14))
    rows = [["a_long_name_" * 12, *("0.8860 [0.87, 0.90]" for _ in columns[1:])]]
    _open(browser, tmp_path, width=width, columns=columns, rows=rows, title="word" * 60)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    box = "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth"
    assert browser.execute_script(box)


@pytest.mark.slow
def test_the_dark_scheme_is_dark(browser, tmp_path):
    def brightness(where):
        colour = browser.execute_script(f"return getComputedStyle(document.body).{where}")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    _open(browser, tmp_path)
    assert brightness("backgroundColor") > 600 > 300 > brightness("color")
    _open(browser, tmp_path, dark=True)
    assert brightness("backgroundColor") < 150 < 600 < brightness("color")
