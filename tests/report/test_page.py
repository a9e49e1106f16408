import csv
import re
from html.parser import HTMLParser

import pytest

from lightning_mixcd.report.configs import read_configs
from lightning_mixcd.report.figures import figures
from lightning_mixcd.report.page import page
from lightning_mixcd.report.saving import save
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import PRIOR, write_sweep

HOSTILE = "<script>alert('$x_{$')</script>&amp; \"mix\" ]]>"
VOID = {"meta", "link", "input"}


class Tree(HTMLParser):
    """Elements with their attributes and text; refuses tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append({"tag": tag, "text": "", **dict(attrs), "in": [*self.open]})
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs), "in": [*self.open]})

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and attributes.items() <= e.items()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sweep, figures and page of a few methods, one of them with a name that wants to break out."""
    folder = write_sweep(tmp_path_factory.mktemp("sweep"), [*PRIOR, HOSTILE])
    sweep = read_sweep(folder)
    pictures = figures(sweep)
    for picture in pictures:
        save(picture, folder)
    return folder, sweep, pictures, Tree(page(sweep, pictures, read_configs(sweep)))


def test_all_figures_are_there(made):
    names = ["pareto", "gains", "gap", "curves", "composition", "rates", "rehearsed", "calibration", "cost"]
    assert [picture.name for picture in made[2]] == names
    sections = [section["id"] for section in made[3].all("section") if "id" in section]
    assert sections == ["table", *names, "configurations"]


def test_every_method_is_in_every_figure(made):
    _, sweep, pictures, tree = made
    numbers = {box["data-name"]: box["value"] for box in tree.all("input")}
    assert {*numbers} == {*sweep.styles} == {*PRIOR, HOSTILE}
    for picture in pictures:
        (section,) = tree.all("section", id=picture.name)
        inside = [e for e in tree.elements if section in e["in"] and "data-m" in e]
        # Only mix-cd has bins, and only it and what is compared has gains.
        expected = {"mixcd"} if picture.name in {"rates", "rehearsed", "calibration"} else {*numbers}
        for tags in ({"g"}, {"tr"}):
            shown = {e["data-m"] for e in inside if e["tag"] in tags}
            assert shown == {numbers[name] for name in expected}, picture.name


def test_every_figure_has_caption_label_and_things_to_say(made):
    _, _, pictures, tree = made
    for picture in pictures:
        (svg,) = tree.all("svg", **{"aria-label": picture.title})
        assert (svg["role"], svg["tabindex"]) == ("group", "0")
        (caption,) = tree.all("figcaption", id=f"{picture.name}-caption")
        assert caption["text"] == picture.caption
        said = [e["text"] for e in tree.all("title") if svg in e["in"]]
        texts = [text for mark in picture.marks.values() for text in mark.texts]
        assert sorted(said) == sorted(texts)
        assert len(said) >= len({row["method"] for row in picture.rows})


def test_tables_are_those_of_the_files(made):
    folder, _, pictures, tree = made
    for picture in pictures:
        with (folder / f"{picture.name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        (section,) = tree.all("section", id=picture.name)
        cells = [e["text"] for e in tree.elements if e["tag"] in {"th", "td"} and section in e["in"]]
        assert cells[: len(rows[0])] == [*rows[0]]
        expected = [value for row in rows for value in row.values()]
        for cell, value in zip(cells[len(rows[0]) :], expected, strict=True):
            if re.fullmatch(r"-?[\d.]+(e-\d+)?", value):
                assert float(cell) == pytest.approx(float(value), abs=5.1e-5)
            else:
                assert cell == (value or "-")


def test_nothing_is_asked_of_the_network(made):
    _, sweep, _, tree = made
    assert re.findall(r"\w+://", page(sweep, made[2], read_configs(sweep))) == []
    for element in tree.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            assert element.get(name, "#").startswith(("#", "data:"))
    (policy,) = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none';")


def test_hostile_name_is_text_and_nothing_else(made):
    tree = made[3]
    assert len(tree.all("script")) == 1
    assert HOSTILE in [e["text"] for e in tree.all("th")]
    assert any(HOSTILE in e["text"] for e in tree.all("fieldset"))


def test_ids_are_unique_and_what_is_referred_to_exists(made):
    tree = made[3]
    ids = [e["id"] for e in tree.elements if "id" in e]
    # Figures may share the shapes of marks, which are the same everywhere.
    repeated = {name for name in ids if ids.count(name) > 1}
    for name in repeated:
        same = [{k: v for k, v in e.items() if k != "in"} for e in tree.elements if e.get("id") == name]
        assert all(element == same[0] for element in same), name
    used = {e["href"][1:] for e in tree.elements if e.get("href", "").startswith("#")}
    used |= {match for e in tree.elements for match in re.findall(r"url\(#(.*?)\)", e.get("clip-path", ""))}
    assert used <= {*ids}


def test_notes_come_first(made):
    folder, _, pictures, _ = made
    sweep = read_sweep(folder, reference="mir")
    tree = Tree(page(sweep, pictures, read_configs(sweep)))
    (notes,) = tree.all("section", **{"class": "notes"})
    assert "No run is of mir" in notes["text"]


def test_same_runs_give_the_same_files(made, tmp_path):
    folder, sweep, _, _ = made
    for picture in figures(sweep):
        save(picture, tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name
        if path.suffix == ".svg":
            assert "<dc:date>" not in path.read_text(encoding="utf-8")
