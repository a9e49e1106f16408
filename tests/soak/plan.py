"""Which runs are killed, and when: drawn with a seed."""

import itertools
import random

from tests.soak.chancy import STRATEGIES
from tests.soak.death import POINTS, Death
from tests.soak.processes import Delay
from tests.soak.training import Case

LONGEST = 1.5  # seconds until a run is killed wherever it is


def planned(seed: int) -> tuple[list[tuple[Case, list[Death | Delay]]], list[Death | Delay]]:
    """Draw the runs to make and the deaths of each, and the deaths of the report.

    Every strategy and estimator gets four of the sixteen settings. The deaths go round all points, so that
    each has its turn.

    Args:
        seed: Of all chance.

    Returns:
        Training runs, and deaths of the report.
    """
    chance = random.Random(seed)
    settings = list(itertools.product((0, 2), (1, 2), (1, 3), ("steps", "validations")))
    chance.shuffle(settings)
    cases = [Case(name, *settings[(i + j) % 16]) for j in (0, 4, 8, 12) for i, name in enumerate(STRATEGIES)]
    points = {phase: itertools.cycle(chance.sample(range(len(of)), len(of))) for phase, of in POINTS.items()}
    others = itertools.cycle(["checkpoint writing", "validation", "any moment"])
    trainings = []
    for number, case in enumerate(cases):
        phases = ["mid-epoch", next(others), next(others)]
        if number % 3 == 0:
            phases.insert(0, "ledger recording")  # which comes first, and once
        trainings.append((case, [_death(phase, points, chance) for phase in phases]))
    return trainings, [_death(phase, points, chance) for phase in ["report"] * 6 + ["any moment"] * 2]


def _death(phase, points, chance) -> Death | Delay:
    if phase == "any moment":
        return Delay(round(chance.uniform(0.1, LONGEST), 2))
    point = next(points[phase])
    return Death(phase, point, chance.randint(1, POINTS[phase][point].times))
