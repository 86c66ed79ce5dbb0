"""The Precision page of the recorded results, in a real browser, at two sizes, in light and dark."""

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest

from asv_plugin.answer.page import PAGE, collect, render
from asv_plugin.answer.picture import PICTURE, is_of
from asv_plugin.answer.picture import SIZE as DESKTOP
from tests.browser import REQUIRED, WITH_CHROMIUM, WITH_NPM, go_to, words
from tests.conftest import EXHAUSTIVE
from tests.limits import PATIENCE
from tests.made_up import ROOT

pytestmark = [pytest.mark.slow, WITH_CHROMIUM]

PHONE = (390, 844)
LOOKS = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in ("light", "dark")]
CHECKS = (ROOT / "tests/page_checks.js").read_text()
WEB = ROOT / "tests/web"


@pytest.fixture(scope="module")
def found():
    """The recorded results, as the page has them."""
    return collect(ROOT / "results")


@pytest.fixture(scope="module")
def first(found):
    """What the page shows first: the newest record that answers, its largest model with an advice."""
    commit = next(each for each in found[0]["commits"] if any(card["best"] for card in each["cards"]))
    model = [card["model"] for card in commit["cards"] if card["best"]][-1]
    return commit, {card["workload"]: card for card in commit["cards"] if card["model"] == model}


@pytest.fixture(scope="module")
def tabs(chromium, found, tmp_path_factory):
    """The page as it was opened, one tab for each look; each request and error is kept."""
    path = tmp_path_factory.mktemp("page") / PAGE
    path.write_text(render("VirNucPro", found), encoding="utf-8")
    opened, wrong = {}, []

    def open_tab(size=DESKTOP, scheme="light", address=""):
        if (size, scheme) not in opened:
            width, height = size
            context = chromium.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                has_touch=size == PHONE,
                bypass_csp=True,  # for axe; test_site.py has the policy
            )
            tab = opened[size, scheme] = context.new_page()
            tab.on("request", lambda request: wrong.append(request.url) if request.url[:5] != "file:" else None)
            tab.on("console", lambda message: wrong.append(message.text))
            tab.on("pageerror", lambda error: wrong.append(str(error)))
        opened[size, scheme].goto("about:blank")
        opened[size, scheme].goto(path.as_uri() + address)
        opened[size, scheme].wait_for_selector("main h2, main p")
        return opened[size, scheme]

    yield open_tab
    assert [each for each in wrong if not each.startswith("data:")] == []


@pytest.mark.parametrize("size, scheme", LOOKS)
def test_the_answer_and_the_picture_are_on_the_first_screen_and_no_word_is_cut_or_broken(
    tabs, first, size, scheme
):
    tab = tabs(size, scheme)
    card = next(card for card in first[1].values() if card["advice"] == words(tab.locator(".advice")))
    assert card["best"]
    reservation = tab.locator(".advice + .warn", has_text="Random weights")
    assert reservation.count() == (not card["recommended"])
    for shown in (tab.locator(".advice"), tab.locator("figure svg"), *reservation.all()):
        box = shown.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= size[1]
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert tab.evaluate(CHECKS) == []


def test_no_word_is_cut_or_broken_at_other_widths(tabs):
    for width in (320, 768, 1920):
        tab = tabs((width, 800))
        assert tab.evaluate(CHECKS) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    "style, problem",
    [
        ("p { word-break: break-all }", "broken: "),
        ("h2 { white-space: nowrap; font-size: 3rem }", "outside the screen: "),
        ("table.numbers td { font-size: 2rem }", "outside its place: "),
        ("svg text { font-size: 40px }", " covers "),
        ("select { width: 3rem }", "cut: "),
    ],
)
def test_words_that_are_cut_or_broken_are_noticed(tabs, style, problem):
    tab = tabs(PHONE)
    tab.add_style_tag(content=style)
    assert any(problem in each for each in tab.evaluate(CHECKS))


@pytest.mark.parametrize("size", [DESKTOP, pytest.param(PHONE, marks=EXHAUSTIVE)])
def test_no_word_is_cut_or_broken_for_any_machine_alone_or_beside_another(tabs, found, size):
    tab = tabs(size)
    for number, each in enumerate(found):
        for beside in ("", found[number - 1]["machine"] + "@" + found[number - 1]["commits"][0]["commit"]):
            go_to(tab, machine=each["machine"], beside=beside)
            assert tab.evaluate(CHECKS) == []
            assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]


def contrast(one, other):
    """Of two colours, as WCAG 2 defines it."""

    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_and_marks_of_the_picture_have_the_contrast_of_wcag_aa(tabs, scheme):
    tab = tabs(DESKTOP, scheme)
    names = ["text", "muted", "page", "card", "bar", "best", "link", "warn", "axis"]
    read = """names => names.map(
        name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim())"""
    colour = dict(zip(names, tab.evaluate(read, names), strict=True))
    for ground in ("page", "card"):
        assert min(contrast(colour[each], colour[ground]) for each in ("text", "muted", "link", "warn")) >= 4.5
        assert min(contrast(colour[each], colour[ground]) for each in ("bar", "best", "axis")) >= 3


@pytest.fixture(scope="module")
def axe():
    """axe-core, from npm."""
    source = WEB / "node_modules/axe-core/axe.min.js"
    if not source.exists():
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode and not REQUIRED:
            pytest.skip("npm could not install axe-core: " + done.stderr.strip()[-200:])
        assert done.returncode == 0, done.stderr
    return source


@WITH_NPM
@pytest.mark.parametrize("size, scheme, is_beside", [(DESKTOP, "light", True), (PHONE, "dark", False)])
def test_axe_finds_nothing_serious(tabs, axe, found, size, scheme, is_beside):
    other = f"#beside={found[1]['machine']}@{found[1]['commits'][0]['commit']}" if is_beside else ""
    tab = tabs(size, scheme, other)
    tab.add_script_tag(path=axe)
    violations = tab.evaluate("axe.run()")["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []


def test_a_models_precision_is_in_the_matrix_and_one_click_opens_its_card(tabs, first):
    tab = tabs(PHONE)
    cards = [card for card in first[0]["cards"] if card["best"]]
    card = next(card for card in cards if card["model"] != next(iter(first[1].values()))["model"])
    place = f"{card['model'].split('_')[2]}, {card['workload']}"
    link = tab.get_by_role("link", name=f"{place}: {card['best'].upper()} {card['gain']:.2f}x")
    link.click()
    tab.wait_for_function("start => document.querySelector('h2').textContent.startsWith(start)", arg=place)
    assert words(tab.locator(".advice")) == card["advice"]
    assert tab.locator("h2").bounding_box()["y"] >= 0, "the card is scrolled into view"
    assert link.get_attribute("aria-current") == "true"


def test_the_memory_of_each_precision_is_shown_from_the_start(tabs, first):
    tab = tabs()
    card = first[1][words(tab.locator("h2")).split(", ")[1].split(" on ")[0]]
    _, unit, numbers, *_ = next(row for row in card["rows"] if row[0] == "peak memory")
    bars = tab.locator(".bars > div", has_text="peak memory")
    assert words(bars.locator("h3")) == f"peak memory, {unit}"
    for precision, number in zip(card["precisions"], numbers, strict=True):
        assert words(bars.locator("li", has_text=precision.upper())).startswith(f"{precision.upper()} {number}")


def test_the_commits_that_made_the_model_slower_are_listed_and_open_beside_the_ones_before(tabs, found, first):
    model = next(iter(first[1].values()))["model"]
    worse = [
        (machine["machine"], commit["commit"][:8], card["workload"], *step)
        for machine in found
        for commit in machine["commits"]
        for card in commit["cards"]
        for step in card.get("worse", [])
        if card["model"] == model
    ]
    assert any(metric == "tokens/s" for *_, metric, _, _, _ in worse), "the record has none: choose another model"
    tab = tabs()
    said = words(tab.locator(".worse"))
    for machine, commit, _, metric, _, _, _ in worse:
        assert f"{commit} on {machine}: " in said and f" times the {metric} (" in said
    machine, commit, workload, *_, since = worse[0]
    tab.locator(".worse a").first.click()
    tab.wait_for_function("document.querySelectorAll('h2').length === 2")
    headings = [" ".join(each.split()) for each in tab.locator("h2").all_inner_texts()]
    name = f"{model.split('_')[2]}, {workload} on {machine}, commit "
    assert headings == [name + commit, name + since]


def test_every_control_and_point_is_reached_by_the_tab_key_in_the_order_of_the_page(tabs):
    tab = tabs()
    controls = "document.querySelectorAll('a[href], select, [tabindex]')"
    count = tab.evaluate(f"{controls}.length")
    reached = []
    for _ in range(count):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate(f"[...{controls}].indexOf(document.activeElement)"))
    assert reached == list(range(count))


def test_focus_hover_and_touch_show_a_points_numbers(tabs):
    for size, act in ((DESKTOP, "focus"), (DESKTOP, "hover"), (PHONE, "tap")):
        tab = tabs(size)
        point = tab.locator(".point[aria-label*='% of the distance']:not(.best)").last
        label = point.get_attribute("aria-label")
        assert words(tab.locator(".readout")) != label
        target = point if act == "focus" else point.locator("circle").last
        getattr(target, act)(**({} if act == "focus" else {"force": True}))
        assert words(tab.locator(".readout")) == label
        assert "tokens/s" in label and "iB" in label


def test_the_recommended_point_and_those_over_the_limit_differ_in_more_than_colour(tabs, first):
    tab = tabs()
    assert tab.locator(".point.best text").text_content().startswith("✓ ")
    fill = "each => getComputedStyle(each.querySelector('circle:not(.hit)')).fill"
    hollow = {tab.locator(".point.out").nth(at).evaluate(fill) for at in range(tab.locator(".point.out").count())}
    card = tab.evaluate("getComputedStyle(document.querySelector('.view')).backgroundColor")
    assert hollow == {card}


def test_choices_stand_in_the_address_and_the_back_button_returns(tabs, found, first):
    tab = tabs()
    before = words(tab.locator("h2"))
    machine = next(each for each in found[1:] if len(each["commits"]) > 2)
    tab.focus("#machine")
    tab.select_option("#machine", machine["machine"])
    tab.wait_for_function(
        "name => document.querySelector('.how').textContent.startsWith(name)", arg=machine["commits"][0]["device"]
    )
    last = machine["commits"][-1]["commit"][:8]
    tab.select_option("#commit", index=len(machine["commits"]) - 1)
    tab.wait_for_function(
        "name => document.querySelector('.how').textContent.includes(name)", arg=f"commit {last} "
    )
    assert f"machine={machine['machine']}&commit={last}" in tab.url
    again = tabs(address="#" + tab.url.partition("#")[2])
    assert f"commit {last} " in words(again.locator(".how"))
    for _ in range(2):
        tab = tabs()
    tab.select_option("#machine", machine["machine"])
    tab.wait_for_function("location.hash")
    tab.go_back()
    tab.wait_for_function(
        "text => document.querySelector('h2').textContent.replace(/\\s+/g, ' ').trim() === text", arg=before
    )


def test_the_address_of_asvs_graph_opens_the_same_cell(tabs, found):
    machine = next(each for each in found[1:] if any(card["best"] for card in each["commits"][0]["cards"]))
    card = next(card for card in machine["commits"][0]["cards"] if card["best"])
    quoted = f"p-model=%27{card['model']}%27&p-workload=%27{card['workload']}%27&p-precision=%27fp16%27"
    tab = tabs(address=f"#throughput.Throughput.track_runtime?machine={machine['machine']}&{quoted}")
    assert words(tab.locator("h2")).startswith(f"{card['model'].split('_')[2]}, {card['workload']} on ")
    assert tab.input_value("#machine") == machine["machine"]
    assert words(tab.locator(".advice")) == card["advice"]


def test_an_address_of_what_is_not_recorded_is_told(tabs, found):
    tab = tabs(address="#machine=no-such-machine&commit=0000dead")
    said = " ".join(tab.locator(".warn").all_inner_texts())
    assert "no-such-machine is not recorded here" in said and "0000dead is not recorded here" in said
    tab = tabs(address="#model=no_such_model")
    assert "No recommendation: nothing was measured for this choice." in tab.inner_text("main")


def test_two_machines_stand_side_by_side_in_one_scale(tabs, found, first):
    tab = tabs()
    tab.select_option("#beside", index=1 + len(found[0]["commits"]))
    tab.wait_for_function("document.querySelectorAll('h2').length === 2")
    left, right = (tab.locator("section h2").nth(at).bounding_box() for at in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    ticks = (
        "section => [...section.querySelectorAll('figure text[text-anchor=end]')].map(each => each.textContent)"
    )
    scales = [tab.locator("section.view").nth(at).evaluate(ticks) for at in (0, 1)]
    assert scales[0] == scales[1] and len(scales[0]) > 3
    assert "beside=" in tab.url


def read_link(tab, kind):
    with tab.expect_download() as waiting:
        tab.get_by_role("link", name=kind, exact=True).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_text(encoding="utf-8")


def test_what_is_shown_is_there_as_csv_and_as_json(tabs, found, first):
    tab = tabs()
    name, text = read_link(tab, "JSON")
    rows = json.loads(text)
    card = first[1][rows[0]["workload"]]
    assert name == f"{card['model'].split('_')[2]}-{card['workload']}-{first[0]['commit'][:8]}.json"
    assert len(rows) == len(card["rows"]) * len(card["precisions"])
    best = next(row for row in rows if row["metric"] == "peak memory" and row["precision"] == card["best"])
    _, unit, numbers, _, gains = next(row for row in card["rows"] if row[0] == "peak memory")
    at = card["precisions"].index(card["best"])
    assert (best["value"], best["unit"]) == (float(numbers[at]), unit)
    assert best["over_fp32"] == float(gains[at].removesuffix("x"))
    assert (best["machine"], best["commit"]) == (found[0]["machine"], first[0]["commit"])
    name, text = read_link(tab, "CSV")
    assert name.endswith(".csv")
    table = list(csv.DictReader(io.StringIO(text)))
    assert table == [{key: "" if each is None else str(each) for key, each in row.items()} for row in rows]


def test_the_page_is_small_enough_to_be_tracked(found):
    assert len(render("VirNucPro", found).encode()) <= 450_000


def test_the_tracked_page_and_the_picture_are_of_the_recorded_results(found):
    page = (ROOT / "html" / PAGE).read_bytes()
    assert page.decode() == render("VirNucPro", found), "run make publish"
    assert is_of((ROOT / PICTURE).read_bytes(), page), "run make picture"
