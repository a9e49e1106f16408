"""The report as one HTML page that needs nothing but itself."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from lightning_mixcd.report.columns import columns
from lightning_mixcd.report.configs import Configs
from lightning_mixcd.report.picture import Picture, Value
from lightning_mixcd.report.saving import inline_svg, key_svg
from lightning_mixcd.report.sweep import Sweep

__all__ = ["page"]


def page(sweep: Sweep, pictures: Sequence[Picture], configs: Configs) -> str:
    """Write the page.

    Args:
        sweep: The runs.
        pictures: The figures; they have no legend afterwards.
        configs: How the runs were configured.

    Returns:
        The HTML.
    """
    loader = PackageLoader("lightning_mixcd.report", "template")
    template = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "page.html"
    )
    numbers = {name: k for k, name in enumerate(sweep.styles)}
    texts = columns(sweep.rows)
    return template.render(
        title=f"{sweep.data}: {len(numbers)} methods, {sweep.seeds}",
        sweep=sweep,
        notes=[*sweep.notes, *configs.notes],
        keys={name: _safe(key_svg(style)) for name, style in sweep.styles.items()},
        numbers=numbers,
        heads=[*texts],
        lines=list(zip(*texts.values(), strict=True)),
        figures=[_figure(picture, numbers) for picture in pictures],
        configs=configs,
        labels={group: sweep.label(group) for group in configs.own},
        style=_part("page.css"),
        script=_part("page.js"),
    )


def _part(name: str) -> Markup:
    return _safe(files("lightning_mixcd.report").joinpath("template", name).read_text(encoding="utf-8"))


# What comes out of an XML writer is escaped already, and our own files are ours.
def _safe(text: str) -> Markup:
    return Markup(text)  # noqa: S704


def _figure(picture: Picture, numbers: Mapping[str, int]) -> dict[str, object]:
    return {
        "name": picture.name,
        "title": picture.title,
        "caption": picture.caption,
        "svg": _safe(inline_svg(picture, numbers)),
        "heads": [*picture.rows[0]],
        "rows": [(row["method"], [_cell(value) for value in row.values()]) for row in picture.rows],
    }


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
