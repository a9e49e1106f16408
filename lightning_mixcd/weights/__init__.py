"""Methods that act on the weights as a whole: between training runs, or on which of them are trained.

* `averaging` — `interpolate` between base and finetuned model, `soup` of several.
* `wise_ft` — a whole curve of interpolations from one run.
* `head_first` — train the head alone for a while, then everything.
"""

from lightning_mixcd.weights.averaging import interpolate, soup
from lightning_mixcd.weights.head_first import HeadFirst
from lightning_mixcd.weights.wise_ft import wise_ft_curve

__all__ = ["HeadFirst", "interpolate", "soup", "wise_ft_curve"]
