"""The page in a real browser, where there is one."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from lightning_mixcd.report.configs import read_configs
from lightning_mixcd.report.figures import figures
from lightning_mixcd.report.page import page
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import PRIOR, write_sweep

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path"),
    pytest.mark.slow,
]
METHODS = [*PRIOR, "<b>bold</b>", *(f"method{k}" for k in range(12))]

# Runs in the page after its own script, and leaves what it finds.
PROBE = """
<script>
const found = { errors: [] };
addEventListener("error", (event) => found.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => found.errors.push(event.blockedURI));
const box = (name) => [...document.querySelectorAll("#methods input")].find((b) => b.dataset.name === name);
const shown = (name) => [...document.querySelectorAll(`[data-m="${box(name).value}"]`)]
  .map((part) => getComputedStyle(part).display !== "none");
const page = () => getComputedStyle(document.body).backgroundColor;
const height = (id) => Number(document.querySelector(`#${id} svg`).getAttribute("viewBox").split(" ")[3]);
const top_of = (part) => part.getBoundingClientRect().y;
const places = (id) => [...document.querySelectorAll(`#${id} svg g[data-row] > text`)]
  .filter((text) => text.getClientRects().length && text.textContent.match(/[a-z]/))
  .map((text) => top_of(text) - top_of(text.closest("svg")))
  .sort((a, b) => a - b);
const press = (svg, key) => svg.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
</script>
<script>
%s
</script>
<script>
found.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
const left = document.body.appendChild(document.createElement("pre"));
left.id = "found";
left.textContent = JSON.stringify(found);
</script>
"""


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    sweep = read_sweep(write_sweep(tmp_path_factory.mktemp("sweep"), METHODS, seeds=2))
    return page(sweep, figures(sweep), read_configs(sweep))


@pytest.fixture
def browse(html, tmp_path):
    """Open the page at a fragment, run a script in it, and return what that found."""

    def browse(script, fragment="", *flags):
        path = tmp_path / "report.html"
        path.write_text(html.replace("</body>", PROBE % script + "</body>"), encoding="utf-8")
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom", path.as_uri() + fragment]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        found = json.loads(unescape(re.search('<pre id="found">(.*?)</pre>', done.stdout, re.S)[1]))
        assert found["errors"] == []
        assert found["fetched"] == []
        assert "CONSOLE" not in done.stderr
        return found

    return browse


def test_toggling_hides_a_method_everywhere_and_is_kept_in_the_address(browse):
    found = browse("""
        found.before = shown("mixcd");
        found.full = height("gains");
        found.y = places("gains");
        box("mixcd").click();
        found.after = shown("mixcd");
        found.others = shown("uniform");
        found.cut = height("gains");
        found.closed = places("gains");
        found.hash = location.hash;
        found.empty = document.querySelector("#rates figure").classList.contains("empty");
    """)
    assert len(found["before"]) > 20
    assert all(found["before"])
    assert not any(found["after"])
    assert all(found["others"])
    assert "show=uniform" in found["hash"]
    assert "mixcd" not in found["hash"]
    assert found["empty"]
    # The rows below move up by one, and the figure ends where they end.
    assert found["full"] - found["cut"] == pytest.approx(0.21 * 72)
    assert found["closed"] == pytest.approx(found["y"][:-1], abs=0.1)


def test_a_handful_is_shown_at_first_and_buttons_show_the_rest(browse):
    found = browse("""
        const on = () => [...document.querySelectorAll("#methods input:checked")].map((b) => b.dataset.name);
        found.first = on();
        document.querySelector('[data-show="all"]').click();
        found.all = on();
        document.querySelector('[data-show="none"]').click();
        found.none = on();
        found.hash = location.hash;
        document.querySelector('[data-show="chosen"]').click();
        found.chosen = on();
        found.end = location.hash;
    """)
    assert {"uniform", "none", "mixcd", "oracle"} < {*found["first"]}
    assert len(found["first"]) < 11
    assert {*found["all"]} == {*METHODS}
    assert (found["none"], found["hash"]) == ([], "#show=")
    assert (found["chosen"], found["end"]) == (found["first"], "")


def test_address_brings_selection_and_theme_back(browse):
    script = """
        found.on = [...document.querySelectorAll("#methods input:checked")].map((b) => b.dataset.name);
        found.page = page();
        found.text = getComputedStyle(document.querySelector("#pareto svg text")).fill;
    """
    found = browse(script, "#show=none&show=%3Cb%3Ebold%3C%2Fb%3E&theme=dark")
    assert found["on"] == ["none", "<b>bold</b>"]
    assert (found["page"], found["text"]) == ("rgb(22, 25, 29)", "rgb(228, 231, 234)")


def test_theme_is_the_systems_until_it_is_chosen(browse):
    script = """
        const theme = document.getElementById("theme");
        found.pages = [page()];
        for (const value of ["light", "dark", ""]) {
          theme.value = value;
          theme.dispatchEvent(new Event("change"));
          found.pages.push(page());
        }
    """
    dark, light = "rgb(22, 25, 29)", "rgb(255, 255, 255)"
    assert browse(script)["pages"] == [light, light, dark, light]
    assert browse(script, "", "--blink-settings=preferredColorScheme=0")["pages"] == [dark, light, dark, dark]


def test_arrow_keys_go_through_what_is_shown_and_say_it(browse):
    found = browse("""
        const svg = document.querySelector("#gains svg");
        const tip = document.getElementById("tip");
        found.said = [];
        for (const key of ["ArrowRight", "ArrowRight", "ArrowLeft"]) {
          press(svg, key);
          found.said.push(tip.textContent);
        }
        found.here = svg.querySelectorAll(".here").length;
        press(svg, "Escape");
        found.hidden = tip.hidden;
        document.querySelector('[data-show="none"]').click();
        press(svg, "ArrowRight");
        found.still = tip.hidden;
    """)
    first, second, again = found["said"]
    assert first == again != second
    assert re.match(r"\w+: gain on the prior task \(points\) -?[\d.]+( \[.*\])?, 2 seeds", first)
    assert (found["here"], found["hidden"], found["still"]) == (1, True, True)


def test_pointer_shows_what_is_under_it(browse):
    found = browse("""
        const mark = document.querySelector("#pareto .mark");
        mark.dispatchEvent(new PointerEvent("pointerover", { bubbles: true, clientX: 50, clientY: 50 }));
        found.said = document.getElementById("tip").textContent;
        found.label = mark.getAttribute("aria-label");
    """)
    assert found["said"] == found["label"] != ""


def test_on_paper_everything_is_shown_without_controls(browse, html):
    found = browse("""
        dispatchEvent(new Event("beforeprint"));
        found.open = [...document.querySelectorAll("details:not(.numbers)")].every((part) => part.open);
        found.height = height("gains");
        found.hidden = document.head.lastElementChild.textContent;
        dispatchEvent(new Event("afterprint"));
        found.after = height("gains");
    """)
    assert found["open"]
    assert found["height"] > found["after"]
    assert found["hidden"].startswith("@media screen")
    assert ".controls, .numbers, #tip, input { display: none !important; }" in html
