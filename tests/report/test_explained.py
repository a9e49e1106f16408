import base64
import io

import numpy as np
from matplotlib.image import imread

from lightning_mixcd.report.explained import Explanation, Sample, explained_page, table
from tests.report.test_page import HOSTILE, Tree

PIXELS = np.linspace(0, 1, 12).reshape(3, 4)


def made():
    texts = [Sample(k, {"score": -1.0 / k, HOSTILE: HOSTILE}, HOSTILE) for k in (3, 7)]
    pictures = [Sample(k, {"score": 0.5, "label": None}, PIXELS) for k in (2, 9)]
    return [
        Explanation("All <b>", texts[:1], texts[1:], [Sample(1, {"finetuned": HOSTILE}, HOSTILE)]),
        Explanation("One", pictures[:1], pictures[1:], [Sample(5, {}, PIXELS)]),
    ]


def tree():
    return Tree(explained_page(HOSTILE, made(), {"alpha": 0.1, HOSTILE: HOSTILE}, [HOSTILE]))


def test_texts_are_text_and_nothing_else():
    page = tree()
    assert page.all("script") == page.all("b") == []
    assert page.all("h1")[0]["text"] == HOSTILE
    assert sum(HOSTILE in cell["text"] for cell in page.all("td", **{"class": "sample"})) == 2
    assert [head["text"] for head in page.all("h2")] == ["How to read this", "All <b>", "One", "Settings"]


def test_pictures_are_inside_and_hold_the_pixels():
    images = tree().all("img")
    assert len(images) == 3
    for image in images:
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        shades = imread(io.BytesIO(base64.b64decode(data)))[:, :, 0]
        np.testing.assert_allclose(shades, PIXELS, atol=1 / 255)


def test_nothing_is_asked_of_the_network():
    page = tree()
    for element in page.elements:
        for name in ("src", "href"):
            assert element.get(name, "#").startswith(("#", "data:"))
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len({*ids}) == len(ids)
    assert {e["href"][1:] for e in page.all("a")} <= {*ids}


def test_rows_of_the_tables_are_those_of_the_file():
    page, rows = tree(), table(made())
    assert [(row["side"], row["pool index"]) for row in rows] == [
        ("supports", 3), ("opposes", 7), ("supports", 2), ("opposes", 9),
    ]  # fmt: skip
    body = [e["text"] for e in page.all("th", scope="row") if any(p["tag"] == "tbody" for p in e["in"])]
    assert body == [str(row["pool index"]) for row in rows]
    assert rows[0]["text"] == HOSTILE
    assert "text" not in rows[2]
