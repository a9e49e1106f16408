"""The report as one HTML page that needs nothing but itself."""

from collections.abc import Sequence

from lightning_mixcd.report.columns import columns
from lightning_mixcd.report.configs import Configs
from lightning_mixcd.report.picture import Picture, Value
from lightning_mixcd.report.rendering import part, render, safe
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
    numbers = {name: k for k, name in enumerate(sweep.styles)}
    texts = columns(sweep.rows)
    return render(
        "page.html",
        title=f"{sweep.data}: {len(numbers)} methods, {sweep.seeds}",
        sweep=sweep,
        notes=[*sweep.notes, *configs.notes],
        keys={name: safe(key_svg(style)) for name, style in sweep.styles.items()},
        numbers=numbers,
        heads=[*texts],
        lines=list(zip(*texts.values(), strict=True)),
        figures=[(picture, safe(inline_svg(picture, numbers))) for picture in pictures],
        cell=_cell,
        configs=configs,
        labels={group: sweep.label(group) for group in configs.own},
        style=part("page.css"),
        script=part("page.js"),
    )


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
