"""The report in a browser: that it loads nothing, sorts, filters, and fits. Skipped where there is no Chromium."""

import json

import pytest

from figures.page import page
from figures.report import collect
from tests.figures import chromium
from tests.figures.conftest import Results

PROGRAM = chromium.find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here (`make test-browser` installs one where it may; CHROMIUM names another)"
)
# Columns among the heads, and what the page shows in one, row by row.
OURS, DIFFERENCE = 6, 11
COLUMN = """[...document.querySelectorAll("#compared tbody tr")].filter(row => !row.hidden)
    .map(row => row.cells[{column}].dataset.value ?? row.cells[{column}].textContent.trim())"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = chromium.Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = Results(folder / "results")
    for seed in (0, 1):
        # 9.x below 10.x and 100: numbers whose order as text is another.
        results.measured("synthetic", "lr", "maml", seed, [0.095, 0.091, 0.093 + 0.01 * seed])
        results.measured("synthetic", "linnet", "maml", seed, [1.0, 1.0, 1.0])
        results.measured("glyphs", "linnet", "maml", seed, [0.6, 0.7, 0.75 + 0.01 * seed])
        results.measured("glyphs", "lr", "kfc", seed, [0.101, 0.102, 0.103 + 0.01 * seed])
        results.compared("depth_sweep", "glyphs", 2, "kfc", seed, [0.5, 0.6, 0.7 + 0.1 * seed])
        results.curve("glyphs", "lr", "kfc", seed, {0: 0.2, 10: 0.3 + 0.1 * seed, 600: 0.7})
    results.measured("glyphs", "lr", "klin", 0, [0, 0, 0], status="diverged")
    results.ceilings({("mean classifier", "same"): [0.9, 0.94]})
    (folder / "report.html").write_text(page(collect(results.folder)), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture
def opened(browser, address):
    """The browser with the page as it is first seen."""
    browser.media()
    browser.resize(1280)
    browser.open(address)
    return browser


def column(browser, at=OURS):
    return browser.evaluate(COLUMN.replace("{column}", str(at)))


def head(at=OURS):
    return f'document.querySelectorAll("#compared thead th")[{at}]'


def choose(browser, selector, value):
    browser.evaluate(
        f"(() => {{ const field = document.querySelector({json.dumps(f'form[data-table=compared] {selector}')});"
        f"field.value = {json.dumps(value)}; field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
    )


def told(browser):
    return browser.evaluate("document.querySelector('form[data-table=compared] output').value")


def test_it_loads_with_no_complaint_and_from_nowhere_else(opened, address):
    loud = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    assert not [event for event in opened.events if event["method"] in loud]
    asked = [e["params"]["request"]["url"] for e in opened.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [address]
    pictures = opened.evaluate("[...document.images].map(one => one.complete && one.naturalWidth > 0)")
    assert pictures
    assert all(pictures)


def test_its_policy_stops_a_script_and_a_request_that_are_not_its_own(opened):
    opened.evaluate(
        "(() => { const one = document.createElement('script'); one.textContent = 'window.strange = 1';"
        "document.body.append(one); const two = new Image(); two.src = 'http://127.0.0.1:9/x.png';"
        "two.onerror = () => { two.id = 'refused'; }; document.body.append(two); })()"
    )
    opened.wait_for("document.getElementById('refused') !== null")
    assert opened.evaluate("typeof window.strange") == "undefined"
    refused = [e["params"]["entry"]["text"] for e in opened.events if e["method"] == "Log.entryAdded"]
    assert len([text for text in refused if "Content Security Policy" in text]) == 2


@pytest.mark.parametrize("at", [OURS, DIFFERENCE])
def test_a_head_sorts_by_number_both_ways_with_missing_values_last(opened, at):
    before = column(opened, at)
    assert "" in before
    numbers = sorted(float(value) for value in before if value)
    assert [str(n) for n in numbers] != sorted(str(n) for n in numbers)  # as text they would stand otherwise
    num_missing = before.count("")
    for direction, expected in (("ascending", numbers), ("descending", numbers[::-1]), ("ascending", numbers)):
        opened.evaluate(f"{head(at)}.querySelector('button').click()")
        found = column(opened, at)
        assert [float(value) for value in found[:-num_missing]] == expected
        assert found[-num_missing:] == [""] * num_missing
        assert opened.evaluate(f"{head(at)}.getAttribute('aria-sort')") == direction
    assert opened.evaluate("document.querySelectorAll('[aria-sort]').length") == 1
    opened.evaluate(f"{head(0)}.querySelector('button').click()")
    assert column(opened, 0) == sorted(column(opened, 0))
    assert opened.evaluate("document.querySelectorAll('[aria-sort]').length") == 1


def test_equal_rows_keep_their_order(opened):
    rows = "[...document.querySelectorAll('#compared tbody tr')].map(row => row.textContent)"
    before = opened.evaluate(rows)
    for _ in range(2):  # up and down
        opened.evaluate(f"{head(0)}.querySelector('button').click()")
        after, names = opened.evaluate(rows), column(opened, 0)
        for name in set(names):
            mine = [row for row, of in zip(after, names, strict=True) if of == name]
            assert mine == [row for row in before if row in mine]


def test_the_keyboard_sorts_too(opened):
    opened.evaluate(f"{head(OURS - 1)}.querySelector('button').focus()")
    opened.press("Tab")
    opened.press("Enter")
    assert opened.evaluate(f"{head()}.getAttribute('aria-sort')") == "ascending"
    opened.press(" ")
    assert opened.evaluate(f"{head()}.getAttribute('aria-sort')") == "descending"


def test_filters_hide_rows_and_say_how_many_remain(opened):
    num_all = len(column(opened))
    assert told(opened) == f"{num_all} of {num_all} rows"
    datasets = column(opened, 1)
    choose(opened, "select[data-column='1']", "Glyphs")
    num_glyphs = datasets.count("Glyphs")
    assert 0 < num_glyphs < num_all
    assert column(opened, 1) == ["Glyphs"] * num_glyphs
    assert told(opened) == f"{num_glyphs} of {num_all} rows"
    choose(opened, "input", "  DIVERGED klin ")  # words in any column, in any order
    assert told(opened) == f"1 of {num_all} rows"
    assert column(opened, 3) == ["KLin"]
    choose(opened, "input", "nowhere")
    assert told(opened) == f"0 of {num_all} rows"
    hidden = "getComputedStyle(document.querySelector('#compared tbody tr')).display"
    assert opened.evaluate(hidden) == "none"
    opened.evaluate("document.querySelector('form[data-table=compared] button').click()")
    assert told(opened) == f"{num_all} of {num_all} rows"
    for at in (3, 12):  # method, status
        values = column(opened, at)
        choose(opened, f"select[data-column='{at}']", values[0])
        assert column(opened, at) == [values[0]] * values.count(values[0])
        choose(opened, f"select[data-column='{at}']", "")


def test_the_choices_are_the_values_of_the_column(opened):
    options = (
        "[...document.querySelector('form[data-table={table}] select[data-column=\"{at}\"]').options]"
        ".map(one => one.value)"
    )
    assert opened.evaluate(options.format(table="compared", at=12)) == ["", *sorted(set(column(opened, 12)))]
    # A ceiling has no data set of a run's: that is no choice beside "all".
    assert opened.evaluate(options.format(table="sources", at=2)) == ["", "Glyphs", "Synthetic"]


def test_a_link_shows_the_row_that_a_filter_hides(opened):
    opened.evaluate(
        "(() => { const field = document.querySelector('form[data-table=sources] input'); field.value = 'nowhere';"
        "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    assert opened.evaluate("document.getElementById('t0').hidden")
    opened.evaluate("document.querySelector('a[href=\"#t0\"]').click()")
    opened.wait_for("!document.getElementById('t0').hidden")
    top = opened.evaluate("document.getElementById('t0').getBoundingClientRect().top")
    assert 0 <= top < 900


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_it_is_no_wider_than_the_screen(opened, width):
    opened.resize(width)
    assert opened.evaluate("[document.documentElement.scrollWidth - document.documentElement.clientWidth]") == [0]
    opened.evaluate("document.querySelectorAll('details').forEach(one => (one.open = true))")
    assert opened.evaluate("[document.documentElement.scrollWidth - document.documentElement.clientWidth]") == [0]


def test_on_paper_nothing_is_cut_off(opened):
    opened.media("print")
    opened.resize(1032)  # pixels between the margins of A4 across
    wide = "[...document.querySelectorAll('table, img')].map(one => Math.ceil(one.getBoundingClientRect().right))"
    assert max(opened.evaluate(wide)) <= 1032
    tall = "[...document.querySelectorAll('.scroll')].map(one => one.scrollHeight - one.clientHeight)"
    assert max(opened.evaluate(tall)) <= 1
    assert opened.evaluate("getComputedStyle(document.querySelector('form')).display") == "none"


def test_it_has_a_light_and_a_dark_look_with_contrast_in_both(opened):
    # Contrast ratio of the web's accessibility guidelines (WCAG 2.1, 1.4.3): 4.5 at least, from relative luminance.
    pairs = """["body", "figcaption p", ".missing", ".status.s0", ".status.s1", ".status.s2", ".status.s4",
        ".status.s6", "td small", "#compared a", "thead button"].map(name => document.querySelector(name))
        .filter(Boolean).map(one => getComputedStyle(one).color)"""
    grounds = set()
    for dark in (False, True):
        opened.media(dark=dark)
        ground = opened.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        grounds.add(ground)
        for colour in opened.evaluate(pairs):
            assert contrast(colour, ground) >= 4.5, (colour, ground)
    assert len(grounds) == 2


def contrast(one, other):
    def luminance(colour):
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_without_scripts_it_is_a_page_without_forms(browser, address):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address)
        shown = browser.evaluate("[...document.querySelectorAll('form')].map(one => getComputedStyle(one).display)")
        assert set(shown) == {"none"}
        assert browser.evaluate("document.querySelectorAll('#compared tbody tr').length") > 5
        assert browser.evaluate("document.querySelectorAll('#compared thead button').length") == 0
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)
