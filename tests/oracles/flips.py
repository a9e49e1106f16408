"""Rates of flips counted one sample at a time."""

import math

__all__ = ["collateral_damage_rate", "forgetting", "negative_flip_rate", "positive_flip_rate", "retention"]


def collateral_damage_rate(base_correct: list[bool], correct: list[bool]) -> float:
    had = damaged = 0
    for base, now in zip(base_correct, correct, strict=True):
        if base:
            had += 1
            if not now:
                damaged += 1
    return damaged / had if had else math.nan


def retention(base_correct: list[bool], correct: list[bool]) -> float:
    had = kept = 0
    for base, now in zip(base_correct, correct, strict=True):
        if base:
            had += 1
            if now:
                kept += 1
    return kept / had if had else math.nan


def negative_flip_rate(base_correct: list[bool], correct: list[bool]) -> float:
    flips = 0
    for base, now in zip(base_correct, correct, strict=True):
        if base and not now:
            flips += 1
    return flips / len(correct) if correct else math.nan


def positive_flip_rate(base_correct: list[bool], correct: list[bool]) -> float:
    flips = 0
    for base, now in zip(base_correct, correct, strict=True):
        if now and not base:
            flips += 1
    return flips / len(correct) if correct else math.nan


def forgetting(base_correct: list[bool], correct: list[bool]) -> float:
    base_accuracy = sum(base_correct) / len(base_correct) if base_correct else math.nan
    accuracy = sum(correct) / len(correct) if correct else math.nan
    return base_accuracy - accuracy
