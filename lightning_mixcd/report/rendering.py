"""Pages that need nothing but themselves, from the templates."""

from importlib.resources import files

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

__all__ = ["part", "render", "safe"]


def render(template: str, **values: object) -> str:
    """Fill a template; what is text in the values stays text in the page.

    Args:
        template: Name of the file.
        **values: What it asks for.

    Returns:
        The HTML.
    """
    loader = PackageLoader("lightning_mixcd.report", "template")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(**values)


def part(name: str) -> Markup:
    """Read a style sheet or a script, to be put into a page.

    Args:
        name: Name of the file, beside the templates.

    Returns:
        Its text.
    """
    return safe(files("lightning_mixcd.report").joinpath("template", name).read_text(encoding="utf-8"))


def safe(text: str) -> Markup:
    """Say that a text is markup: our own, or that of an XML writer, which has escaped it.

    Args:
        text: The text.

    Returns:
        It, marked.
    """
    return Markup(text)  # noqa: S704
