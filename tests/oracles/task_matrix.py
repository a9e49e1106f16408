"""Scores of the task x stage matrix, one cell at a time as the papers write them, counting from 1."""

import math

__all__ = [
    "backward_transfer",
    "final_accuracy",
    "forward_transfer",
    "mean_accuracy",
    "stage_forgetting",
    "transfer_accuracy",
]


def cell(a: list[list[float]], stage: int, task: int) -> float:
    return a[stage - 1][task - 1]


def final_accuracy(a: list[list[float]]) -> float:
    total = 0.0
    for task in range(1, len(a) + 1):
        total += cell(a, len(a), task)
    return total / len(a)


def mean_accuracy(a: list[list[float]]) -> float:
    total = 0.0
    for task in range(1, len(a) + 1):
        of_task = 0.0
        for stage in range(1, len(a) + 1):
            of_task += cell(a, stage, task)
        total += of_task / len(a)
    return total / len(a)


def transfer_accuracy(a: list[list[float]]) -> float:
    total = 0.0
    for task in range(2, len(a) + 1):
        before = 0.0
        for stage in range(1, task):
            before += cell(a, stage, task)
        total += before / (task - 1)
    return total / (len(a) - 1) if len(a) > 1 else math.nan


def stage_forgetting(a: list[list[float]]) -> float:
    k = len(a)
    total = 0.0
    for task in range(1, k):
        best = -math.inf
        for stage in range(1, k):
            if cell(a, stage, task) > best:
                best = cell(a, stage, task)
        total += best - cell(a, k, task)
    return total / (k - 1) if k > 1 else math.nan


def backward_transfer(a: list[list[float]]) -> float:
    total = 0.0
    for task in range(1, len(a)):
        total += cell(a, len(a), task) - cell(a, task, task)
    return total / (len(a) - 1) if len(a) > 1 else math.nan


def forward_transfer(a: list[list[float]], b: list[float]) -> float:
    total = 0.0
    for task in range(2, len(a) + 1):
        total += cell(a, task - 1, task) - b[task - 1]
    return total / (len(a) - 1) if len(a) > 1 else math.nan
