import json

import pytest

from adapt_lora.data import read_dataset
from tests.data.conftest import assert_skipped, numbered, read_records


def test_mixed_label_types_become_strings_of_one_set(tmp_path):
    records = [{"text": "a", "label": 1}, {"text": "b", "label": "x"}, {"text": "c", "label": True}]
    assert read_records(tmp_path, *records).labels == ("1", "true", "x")


def test_a_small_closed_set_of_repeated_responses_counts_as_labels(tmp_path):
    records = [{"prompt": f"p{i}", "response": " yes" if i % 2 else "no"} for i in range(10)]
    dataset = read_records(tmp_path, *records)
    assert dataset.labels == ("no", "yes")
    assert (dataset.rows[1].response, dataset.rows[1].label) == ("yes", "yes")
    assert "the labels are the responses" in dataset.describe()


NOT_LABELS = {
    "too few rows": ["yes", "no"] * 4 + ["yes"],
    "only one value": ["yes"] * 20,
    "a value that stands alone": ["yes"] * 19 + ["no"],
    "too many values for so few rows": ["a", "b", "c"] * 4,
    "several lines": ["yes\nsure", "no"] * 10,
    "long texts": ["y" * 61, "n" * 61] * 10,
    "sums that happen to repeat": [str(i % 11) for i in range(110)],
    "more than fifty values": [f"v{i % 51}" for i in range(510)],
}


@pytest.mark.parametrize("case", NOT_LABELS)
def test_responses_without_the_evidence_are_no_labels(tmp_path, case):
    records = [{"prompt": f"p{i}", "response": r} for i, r in enumerate(NOT_LABELS[case])]
    dataset = read_records(tmp_path, *records)
    assert not dataset.is_labelled
    assert {row.label for row in dataset.rows} == {None}


def test_a_scale_of_ten_numbers_counts_as_labels(tmp_path):
    records = [{"prompt": f"p{i}", "response": str(i % 10)} for i in range(100)]
    assert len(read_records(tmp_path, *records).labels) == 10


def test_a_label_field_with_free_text_is_not_a_label_set(tmp_path):
    records = [{"text": f"t{i}", "label": f"a long remark {i}"} for i in range(150)]
    dataset = read_records(tmp_path, *records)
    assert not dataset.is_labelled
    assert dataset.rows[3].response == "a long remark 3"
    assert "'label' has 150 values: free text, not labels" in dataset.notes


def test_sentences_in_a_label_field_are_no_labels(tmp_path):
    path = tmp_path / "letters.jsonl"
    rows = [{"prompt": f"letter {i}", "label": f"Dear Mr Smith {i}, your bill"} for i in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = read_dataset(path)
    assert dataset.labels == ()
    assert "free text, not labels" in dataset.describe()


def test_a_label_that_stands_for_one_response_takes_its_name(tmp_path):
    path = tmp_path / "coded.jsonl"
    said = {0: "negative", 1: "positive"}
    rows = [{"prompt": f"text {i}", "response": said[i % 2], "label": i % 2} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = read_dataset(path)
    assert dataset.labels == ("negative", "positive")
    assert {row.label for row in dataset.rows} == {"negative", "positive"}
    assert "each label stands for one response" in dataset.describe()


def test_labels_that_do_not_match_responses_one_to_one_stay_as_they_are(tmp_path):
    path = tmp_path / "reasons.jsonl"
    rows = [
        {"prompt": f"text {i}", "response": f"because {i}", "label": "ab"[i % 2]} for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_dataset(path).labels == ("a", "b")


WITHOUT_RESPONSE = {
    # a line among good ones, the words that name it
    "no response": (b'{"prompt": "p"}', "no response, though most rows have one"),
    "blank response": (b'{"prompt": "p", "response": ""}', "no response, though most rows"),
}


@pytest.mark.parametrize("case", WITHOUT_RESPONSE)
def test_a_row_without_response_among_rows_that_have_one_is_skipped_and_named(tmp_path, case):
    assert_skipped(tmp_path, *WITHOUT_RESPONSE[case])


def test_rows_without_responses_make_an_unlabelled_target(tmp_path):
    dataset = read_records(tmp_path, {"text": "a"}, {"text": "b"})
    assert not dataset.has_responses
    assert not dataset.is_labelled
    assert "no responses: an unlabelled target" in dataset.describe()


def test_few_responses_among_many_rows_are_not_used(tmp_path):
    dataset = read_records(tmp_path, *[{"prompt": f"p{i}"} for i in range(9)], numbered(1)[0])
    assert len(dataset.rows) == 10
    assert not dataset.has_responses
    assert "only 1 of 10 rows have a response" in dataset.describe()


def test_hidden_labels_of_a_few_rows_skip_those_rows(tmp_path):
    records = [{"text": f"t{i}", "label": "ab"[i % 2] if i else None} for i in range(5)]
    dataset = read_records(tmp_path, *records, allow_skips=True)
    assert [row.line for row in dataset.skipped] == [1]
    assert dataset.is_labelled


def labelled(tmp_path, labels: list, **options):
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    return read_records(tmp_path, *rows, **options)


MISSING = {
    # the labels of other rows, what stands where one is missing
    "numpy": ("ab", "nan"),
    "pandas": ("ab", "<NA>"),
    "a database": ("ab", "NULL"),
    "a database's dump": ("ab", "\\N"),
    "Excel": ("ab", "#N/A"),
    "Excel's other errors": ("ab", "#REF!"),
    "SNLI": (["entailment", "neutral"], "-"),
    "a person": ("ab", "n/a"),
    "Python, beside lower case": ("ab", "None"),
    "Python, beside numbers": ("01", "None"),
    "datasets": ("012", "-1"),
    "datasets, as a number": ([0, 1, 2], -1),
    "datasets, by pandas": (["0.0", "1.0", "2.0"], "-1.0"),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_label_that_stands_for_a_missing_one_is_missing(tmp_path, case):
    labels, missing = MISSING[case]
    dataset = labelled(tmp_path, [*labels] * 40 + [missing])
    assert dataset.labels == tuple(map(str, labels))
    reason = f"the label {str(missing)!r} stands for a missing one"
    assert [row.reason for row in dataset.skipped] == [reason]
    dataset = labelled(tmp_path, [missing] * 12)
    assert (dataset.labels, dataset.has_responses) == ((), False)
    assert "12 of 12 labels are" in dataset.describe()


@pytest.mark.parametrize(
    ("labels", "remark"),
    [
        (["NA", "DE"], ""),
        (["none", "all"], ""),
        (["AGAINST", "FAVOR", "NONE"], ""),
        (["None", "Some"], "the label 'None' counts as a class"),
        (["+", "-"], ""),
        (["-1", "1"], "the label -1 counts as a class"),
        (["-1", "0", "1"], "the label -1 counts as a class"),
        (["-2", "-1", "0", "1", "2"], "the label -1 counts as a class"),
    ],
)
def test_a_label_that_may_be_a_class_is_one(tmp_path, labels, remark):
    dataset = labelled(tmp_path, labels * 6)
    assert dataset.labels == tuple(sorted(labels))
    assert remark in dataset.describe()


def test_a_missing_label_is_a_class_where_meta_json_lists_it(tmp_path):
    (tmp_path / "meta.json").write_text('{"labels": ["a", "nan"]}')
    path = tmp_path / "test.jsonl"
    path.write_text("".join(f'{{"text": "t", "label": "{each}"}}\n' for each in ("a", "nan")))
    assert read_dataset(path).labels == ("a", "nan")


def test_an_answer_may_be_what_a_label_would_not(tmp_path):
    for said, labels in (("n/a", ("n/a", "yes")), ("-1", ("-1", "yes")), ("nan", ("yes",))):
        rows = [{"prompt": f"p{i}", "response": ["yes", said][i % 2]} for i in range(20)]
        assert read_records(tmp_path, *rows, allow_skips=True).labels == labels


def test_labels_that_differ_in_case_or_space_only_are_said(tmp_path):
    dataset = labelled(tmp_path, ["Good", "good", "not bad", "not  bad", "so"])
    assert len(dataset.labels) == 5
    assert "the labels 'Good', 'good' differ in letter case or space only" in dataset.describe()
    assert "the labels 'not  bad', 'not bad' differ" in dataset.describe()


@pytest.mark.parametrize(("n_labels", "n_rows"), [(77, 100), (25, 40), (300, 500), (150, 200)])
def test_many_labels_on_few_rows_each_are_labels(tmp_path, n_labels, n_rows):
    dataset = labelled(tmp_path, [f"intent {i % n_labels}" for i in range(n_rows)])
    assert len(dataset.labels) == n_labels
