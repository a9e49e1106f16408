from itertools import pairwise

from lightning_mixcd.report.style import chosen_methods, short, styles
from lightning_mixcd.report.tables import compare
from tests.report.runs import record


def test_methods_of_a_large_comparison_look_different():
    found = styles([f"method {k}" for k in range(300)])
    assert len({*found.values()}) == 300
    looks = [*found.values()]
    for one, next_one in pairwise(looks):
        assert one.color != next_one.color
        assert one.marker != next_one.marker


def test_few_methods_are_all_chosen_the_reference_first():
    rows = compare([record(name) for name in ("mixcd", "uniform", "none", "oracle")])
    assert [*chosen_methods(rows, "uniform")] == ["uniform", "none", "mixcd", "oracle"]


def test_of_many_methods_the_best_are_chosen():
    records = [record(name) for name in ("none", "uniform", "mixcd")]
    records += [record(f"method{k:02d}", prior=0.8 + 0.001 * k) for k in range(30)]
    records += [record(f"oracle_{k}", prior=0.8 + 0.05 * k) for k in range(3)]
    # One that is best at one of its settings is best.
    records += [record("method00", prior=0.95, rehearsal_weight=3.0)]
    chosen = chosen_methods(compare(records), "uniform")
    assert chosen[:4] == ["uniform", "none", "mixcd", "oracle_2"]
    assert chosen[4:] == ["method00", "method29", "method28", "method27", "method26"]


def test_name_is_cut_in_the_middle_and_made_printable():
    assert short("a" * 30 + "b" * 30, 11) == "aaaaa…bbbbb"
    assert short("tab\there") == "tab�here"
