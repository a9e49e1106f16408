from lightning_mixcd.report.figures import figures
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import PRIOR, record, write_sweep


def test_legend_names_the_methods_of_the_figure(tmp_path):
    for picture in figures(read_sweep(write_sweep(tmp_path))):
        (legend,) = picture.figure.legends or [None]
        if picture.stack is not None:
            assert legend is None
        else:
            names = {text.get_text().strip() for text in legend.get_texts()}
            assert names == ({"mixcd"} if picture.name == "calibration" else {*PRIOR})


def test_runs_without_logs_have_figures_of_what_is_known(tmp_path):
    record().write(tmp_path / "a")
    record("mixcd").write(tmp_path / "b")
    assert [picture.name for picture in figures(read_sweep(tmp_path))] == ["pareto", "gains", "cost"]
