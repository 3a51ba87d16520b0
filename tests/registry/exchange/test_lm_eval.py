"""Results files of lm-evaluation-harness, written by hand after its version 0.4.13."""

import json

import pytest

from adapt_lora.errors import MatrixError
from adapt_lora.registry.exchange.lm_eval import lm_eval_files, read_lm_eval
from adapt_lora.registry.records import PUBLISHED_METRIC


@pytest.fixture
def write(tmp_path):
    """Writes a file: write({"quiz": {"acc,none": 0.5}}, **keys of the whole)."""

    def make(results, name="results_2026-01-02T03-04-05.6.json", **more):
        content = {
            "results": results,
            "configs": {task: {"task": task} for task in results},
            "versions": dict.fromkeys(results, 1.0),
            "n-shot": dict.fromkeys(results, 0),
            "n-samples": {task: {"original": 50, "effective": 50} for task in results},
            "config": {
                "model": "hf",
                "model_args": "pretrained=org/base,peft=me/lora,dtype=float32",
            },
            **more,
        }
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return make


def test_accuracy_rules_and_the_rest_stands_beside(write):
    path = write({"quiz": {"acc_norm,none": 0.4, "acc,none": 0.3, "acc_stderr,none": 0.05}})
    found = read_lm_eval(path)
    (one,) = found.cells
    assert (found.pretrained, found.peft) == ("org/base", "me/lora")
    assert (one.task.name, one.task.group, one.task.metric) == ("lm-eval/quiz", "quiz", "accuracy")
    assert (one.cell.score, one.cell.se, one.cell.n) == (0.3, 0.05, 50)
    assert one.cell.metrics == {"acc_norm,none": 0.4}


def test_of_two_filters_the_first_of_the_file_rules(write):
    figures = {
        "alias": "sums",
        "exact_match,strict-match": 0.25,
        "exact_match_stderr,strict-match": 0.01,
        "exact_match,flexible-extract": 0.5,
        "exact_match_stderr,flexible-extract": "N/A",
    }
    cell = read_lm_eval(write({"sums": figures})).cells[0].cell
    assert (cell.metric, cell.score, cell.se) == ("exact_match", 0.25, 0.01)
    assert cell.metrics == {"exact_match,flexible-extract": 0.5}


def test_an_error_that_is_not_available_is_none(write):
    found = read_lm_eval(write({"quiz": {"acc,none": 0.3, "acc_stderr,none": "N/A"}}))
    assert found.cells[0].cell.se is None


def test_other_measures_keep_to_the_published_metric(write):
    cell = read_lm_eval(write({"essay": {"rouge1,none": 0.3}})).cells[0].cell
    assert (cell.metric, cell.score) == (PUBLISHED_METRIC, 0.3)


def test_figures_that_are_no_shares_or_better_when_lower_are_left_out_by_name(write):
    path = write(
        {
            "quiz": {"acc,none": 0.3},
            "wiki": {"word_perplexity,none": 0.9},
            "squad": {"f1,none": 71.5},
        },
        higher_is_better={"wiki": {"word_perplexity": False}},
    )
    found = read_lm_eval(path)
    assert [one.task.name for one in found.cells] == ["lm-eval/quiz"]
    assert [warning.split()[0] for warning in found.warnings] == ["wiki", "squad"]


def test_groups_are_left_to_their_members_and_make_twins_of_them(write):
    path = write(
        {"exam": {"acc,none": 0.5}, "exam_law": {"acc,none": 0.4}, "exam_art": {"acc,none": 0.6}},
        group_subtasks={"exam": ["exam_law", "exam_art"]},
    )
    cells = read_lm_eval(path).cells
    assert [one.task.name for one in cells] == ["lm-eval/exam_law", "lm-eval/exam_art"]
    assert {one.task.group for one in cells} == {"exam"}


@pytest.mark.parametrize(
    "other",
    [
        {"n-shot": {"quiz": 5}},
        {"chat_template_sha": "abc"},
        {"versions": {"quiz": 2.0}},
        {"n-samples": {"quiz": {"original": 50, "effective": 20}}},
    ],
)
def test_whatever_decides_a_score_is_another_protocol(write, other):
    results = {"quiz": {"acc,none": 0.3}}
    first = read_lm_eval(write(results)).cells[0].cell.protocol
    second = read_lm_eval(write(results, **other)).cells[0].cell.protocol
    assert first != second


def test_the_model_does_not_decide_the_protocol(write):
    results = {"quiz": {"acc,none": 0.3}}
    first = read_lm_eval(write(results)).cells[0].cell.protocol
    bare = {"model": "hf", "model_args": {"pretrained": "org/base", "dtype": "float32"}}
    found = read_lm_eval(write(results, config=bare))
    assert (found.pretrained, found.peft) == ("org/base", "")
    assert found.cells[0].cell.protocol == first


def test_samples_of_the_ruling_filter_become_predictions_without_text(write):
    path = write({"sums": {"exact_match,strict": 0.5, "exact_match,loose": 1.0}})
    rows = [
        {
            "doc_id": i,
            "doc": {"question": "secret"},
            "target": "secret",
            "filtered_resps": ["secret"],
            "filter": name,
            "doc_hash": f"h{i}",
            "exact_match": float(name == "loose" or i == 0),
        }
        for i in range(2)
        for name in ("strict", "loose")
    ]
    samples = path.with_name("samples_sums_2026-01-02T03-04-05.6.jsonl")
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictions = read_lm_eval(path).cells[0].predictions
    assert [(one.row, one.right) for one in predictions] == [("h0", True), ("h1", False)]
    assert "secret" not in repr(predictions)


def test_damaged_samples_are_named_by_line(write):
    path = write({"quiz": {"acc,none": 0.5}})
    samples = path.with_name("samples_quiz_2026-01-02T03-04-05.6.jsonl")
    samples.write_text('{"doc_id": 0, "acc": 1.0}\n{"acc"\n')
    with pytest.raises(MatrixError, match="line 2: not a sample"):
        read_lm_eval(path)


def test_other_json_is_no_results_file(tmp_path):
    other = tmp_path / "results_x.json"
    other.write_text('{"results": [1]}')
    assert lm_eval_files(other) == ()
    assert lm_eval_files(tmp_path / "table.csv") == ()
    with pytest.raises(MatrixError, match="not a results file"):
        read_lm_eval(other)


def test_a_file_without_scores_is_refused(write):
    with pytest.raises(MatrixError, match=r"no score to import\. wiki is left out"):
        read_lm_eval(write({"wiki": {"word_perplexity,none": 21.0}}))
