"""Griffe extension: show the `Example:` section of a docstring as code.

Griffe knows the section as `Examples:` only and would show the singular as a box of running text.
"""

import re

import griffe


class Singular(griffe.Extension):
    """Renames `Example:` before a docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rename the section in one docstring.

        Args:
            obj: A module, class, function or attribute.
        """
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
