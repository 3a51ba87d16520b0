from matplotlib.collections import LineCollection, PolyCollection

from adapt_lora.registry.records import DatasetRecord, Prediction, TaskRecord
from adapt_lora.report.confusion import cell_outcomes
from adapt_lora.report.plots import plot_outcomes
from tests.report.plots.conftest import pixels, texts


def _task(name, group, labels):
    metric = "balanced_accuracy" if labels else "answer_log_likelihood"
    return TaskRecord(name, group, metric, DatasetRecord(name, "d", group, 9), tuple(labels))


def test_a_row_of_outcomes_has_a_panel_per_task_with_counts_and_lengths(drawn, tmp_path):
    labels = [f"label $number$ {i}" for i in range(30)]
    many = [
        Prediction("d", i % 3 > 0, labels[i % 7], (), None, labels[i % 30], None, i)
        for i in range(60)
    ]
    two = [
        Prediction("d", i % 2 == 0, "yes", (), None, ("yes", "no")[i % 2], None, 5)
        for i in range(8)
    ]
    written = [Prediction("d", None, None, (), 3, None, None, 4, 9, "length") for _ in range(5)]
    row = [
        cell_outcomes(_task("many", "g", labels), many),
        cell_outcomes(_task("$two_{$", "g", ["no", "yes"]), two),
        cell_outcomes(_task("written", "g", ()), written),
    ]
    found = plot_outcomes(row, tmp_path, title="<b>$x_{")
    assert set(found) == {"confusion.png", "lengths.png"}
    for path in found.values():
        pixels(path)
    confusion, lengths = drawn
    assert r"Answers of <b>\$x_{" in texts(confusion)
    assert "many (12 of 30 labels)" in texts(confusion)
    big, small = confusion.findobj(PolyCollection)
    assert (len(big.get_paths()), len(small.get_paths())) == (12 * 12, 2 * 2)
    assert texts(confusion).count("4") == 2  # all eight say yes, half of them are
    assert texts(confusion).count("gold ↓  answered →") == 2
    assert {"TP (4)", "FP (4)", "right (40)", "wrong (20)", "all (5)"} <= set(texts(lengths))
    assert "written, 5 of 5 cut" in texts(lengths)
    assert {"tokens of the prompt", "tokens of the answer"} <= set(texts(lengths))
    curves = [one for one in lengths.findobj(LineCollection) if len(one.get_segments()) > 1]
    assert [len(one.get_segments()) for one in curves] == [2, 2]
    assert set(plot_outcomes(row[2:], tmp_path, title="one")) == {"lengths.png"}
    assert plot_outcomes([], tmp_path, title="none") == {}
