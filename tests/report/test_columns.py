from lightning_mixcd.report.columns import columns, markdown, values
from lightning_mixcd.report.tables import compare
from tests.report.runs import record


def test_columns_that_say_nothing_are_left_out():
    texts = columns(compare([record(), record("mixcd", prior=0.85)]))
    assert texts["method"] == ["uniform", "mixcd"]
    assert texts["prior"] == ["80.0", "85.0"]
    assert texts["prior gain"] == ["+0.0", "+5.0"]
    assert not {"weight", "alpha", "time", "gap closed"} & {*texts}
    texts = columns(compare([record(), record(rehearsal_weight=3.0, exhausted=True)]))
    assert texts["weight"] == ["1", "3"]
    assert texts["steps"] == ["30", "30*"]


def test_shares_are_in_percent_and_times_are_multiples():
    priors = {"none": 0.5, "uniform": 0.8, "mixcd": 0.83, "oracle": 0.84}
    records = [
        record(name, seed, prior, seconds=3.0 if name == "mixcd" else 2.0, damaged_share=0.125)
        for name, prior in priors.items()
        for seed in range(2)
    ]
    texts = columns(compare(records))
    place = texts["method"].index("mixcd")
    found = {head: texts[head][place] for head in ("time", "damaged", "prior gain", "gap closed")}
    assert found == {"time": "1.50", "damaged": "12.5", "prior gain": "+3.0", "gap closed": "75"}


def test_pairs_are_counted_where_a_method_has_seeds_that_the_reference_has_not():
    rows = [record(seed=seed) for seed in range(2)] + [record("mixcd", seed, 0.85) for seed in range(3)]
    texts = columns(compare(rows))
    assert (texts["seeds"], texts["pairs"]) == (["2", "3"], ["2", "2"])
    assert "pairs" not in columns(compare(rows[:-1]))


def test_parameters_are_shown_where_methods_differ_in_them():
    def counts(trained, active):
        return {"trainable_parameters": trained, "active_parameters": active}

    alike = [record(seed=seed, **counts(72074, 72074)) for seed in (0, 1)]
    assert not {"trained", "active"} & {*columns(compare([*alike, record("old", prior=0.95)]))}
    adapted = [
        record("uniform+lora", seed, 0.9, **counts(5000, active)) for seed, active in enumerate((1000, 2000))
    ]
    texts = columns(compare([*alike, *adapted, record("old", prior=0.95)]))
    assert texts["trained"] == ["72,074", "5,000", "-"]
    assert texts["active"] == ["72,074", "1,500", "-"]


def test_markdown_has_a_cell_for_each_text():
    lines = markdown({"method": ["a", "b"], "prior": ["1", "2"]}).splitlines()
    assert lines == ["| method | prior |", "| --- | ---: |", "| a | 1 |", "| b | 2 |"]
    assert markdown({"method": ["a|b"]}).endswith("| a\\|b |\n")


def test_values_have_the_ends_of_intervals():
    found = values(compare([record(), record("mixcd", prior=0.85)])[1])
    assert found["name"] == "mixcd"
    assert found["prior_gain_mean"] == found["prior_gain_low"] == found["prior"] - 0.8
    assert found["gap_closed_mean"] is None
