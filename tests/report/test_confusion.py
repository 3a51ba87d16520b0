from adapt_lora.registry.records import DatasetRecord, Prediction, TaskRecord
from adapt_lora.report.confusion import cell_outcomes


def _task(name, labels):
    data = DatasetRecord(name, "d", "g", 9)
    return TaskRecord(name, "g", "balanced_accuracy", data, tuple(labels))


def test_outcomes_fall_into_true_and_false_positives():
    pairs = [("yes", "yes"), ("no", "yes"), ("no", "no"), ("yes", "no"), ("yes", "no")]
    predictions = [
        Prediction("d", gold == answer, answer, (), None, gold, None, 10 + i)
        for i, (gold, answer) in enumerate(pairs)
    ]
    outcomes = cell_outcomes(_task("two", ["no", "yes"]), predictions)
    assert outcomes.lengths == {"TP": (10,), "FP": (11,), "TN": (12,), "FN": (13, 14)}
    assert outcomes.confusion.tolist() == [[1, 1], [2, 1]]
    assert outcomes.positive == "yes"
    turned = cell_outcomes(_task("two", ["yes", "no"]), predictions)
    assert (turned.positive, turned.lengths) == ("yes", outcomes.lengths)
    assert cell_outcomes(_task("two", ["no", "yes"]), ()) is None
