import json
import math
from dataclasses import replace

import numpy as np
import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from adapt_lora.model.scoring import encode_row, read_pass, score_labels
from adapt_lora.registry.fingerprint import fingerprint_dataset

FILMS = ("the film was {}", "I like the {} food", "what a {} city", "the {} question")


@pytest.fixture
def read_rows(tmp_path):
    def read(rows, **options):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return read_dataset(path, **options)

    return read


@pytest.fixture
def reviews(read_rows):
    return read_rows(
        [
            {
                "prompt": FILMS[i % 4].format(f"{'good' if i % 3 else 'bad'} {i}"),
                "response": "positive" if i % 3 else "negative",
                "label": "positive" if i % 3 else "negative",
            }
            for i in range(30)
        ]
    )


@pytest.fixture
def sums(read_rows):
    return read_rows(
        [
            {"prompt": f"add {i} and {3 * i}", "response": f"the answer is {4 * i}"}
            for i in range(30)
        ]
    )


def fingerprint(dataset, base, **options):
    return fingerprint_dataset(dataset, base=base, encoder="none", **options)


def test_a_labelled_dataset_gets_every_section(reviews, tiny_base):
    found = fingerprint(reviews, tiny_base)
    expected = {
        "n_rows",
        "n_rows_sampled",
        "n_tokens_sampled",
        "prompt_tokens_q50",
        "response_tokens_mean",
        "total_tokens_sd",
        "response_prompt_ratio",
        "is_classification",
        "label_entropy",
        "label_length_eta2",
        "label_prompt_tokens_mean/positive",
        "response_ppl",
        "response_ppl_se",
        "prompt_ppl",
        "total_ppl",
        "response_nll_q95",
        "prompt_nll_mean",
        "response_bits_per_byte",
        "prompt_bits_per_byte",
        "base_score",
        "base_score_se",
        "base_label_cross_entropy",
        "base_label_tv",
        "mattr",
        "zlib_ratio",
        "steps_per_row",
        "exact_duplicate_share",
        "near_duplicate_share",
    }
    assert expected <= set(found.values)
    assert set(found.vectors) == {
        "hidden_mid_mean",
        "hidden_mid_spread",
        "hidden_last_mean",
        "hidden_last_spread",
    }
    assert {"prompt_tokens", "response_tokens", "response_nll"} <= set(found.histograms)
    assert found.label_shares == pytest.approx({"negative": 1 / 3, "positive": 2 / 3})
    assert sum(found.base_label_shares.values()) == pytest.approx(1)
    assert len(found.row_sketches) == 30
    assert found.base == tiny_base.identity
    assert found.notes == ()


def test_every_figure_is_a_finite_float(reviews, sums, tiny_base):
    for dataset in (reviews, sums):
        found = fingerprint(dataset, tiny_base)
        figures = [*found.values.values(), *(x for v in found.vectors.values() for x in v)]
        assert all(type(figure) is float and math.isfinite(figure) for figure in figures)


def test_perplexity_and_base_score_are_those_of_separate_passes(reviews, tiny_base):
    found = fingerprint(reviews, tiny_base)
    encoded = [encode_row(tiny_base, row.prompt, row.response) for row in reviews.rows]
    nll = np.concatenate([row[:-1] for row in read_pass(tiny_base, encoded).response_nll])
    assert found.values["n_rows_sampled"] == 30
    assert found.values["response_ppl"] == pytest.approx(math.exp(nll.mean()), rel=1e-3)
    prompts = [row.prompt for row in reviews.rows]
    picked = score_labels(tiny_base, prompts, reviews.labels).log_likelihood.argmax(axis=1)
    gold = np.array([reviews.labels.index(row.label) for row in reviews.rows])
    recalls = [(picked[gold == label] == label).mean() for label in (0, 1)]
    assert found.values["base_score"] == pytest.approx(np.mean(recalls))


def test_a_dataset_without_labels_has_no_label_figures(sums, tiny_base):
    found = fingerprint(sums, tiny_base)
    assert found.values["is_classification"] == 0
    assert not [key for key in found.values if key.startswith(("label_", "base_", "n_labels"))]
    assert found.label_shares == found.base_label_shares == {}


def test_an_unlabelled_target_says_what_cant_be_computed(sums, tiny_base):
    target = replace(sums, rows=tuple(replace(row, response=None) for row in sums.rows))
    found = fingerprint(target, tiny_base)
    absent = ("response_", "total_", "label_", "base_", "is_classification")
    assert not [key for key in found.values if key.startswith(absent)]
    assert found.values["prompt_ppl"] > 1
    assert found.values["prompt_ppl_se"] > 0
    assert "hidden_mid_mean" in found.vectors
    assert any("No responses" in note for note in found.notes)
    assert any("response and total perplexity are absent" in note for note in found.notes)


def test_a_target_with_a_label_set_but_no_gold_shows_the_bases_favourite(reviews, tiny_base):
    rows = tuple(replace(row, response=None, label=None) for row in reviews.rows)
    found = fingerprint(replace(reviews, rows=rows), tiny_base)
    assert set(found.base_label_shares) == {"positive", "negative"}
    assert found.values["n_labels"] == 2
    assert "base_score" not in found.values
    assert "label_entropy" not in found.values


def test_without_a_base_the_rest_is_still_there(reviews):
    found = fingerprint(reviews, None)
    assert {"label_entropy", "mattr", "exact_duplicate_share"} <= set(found.values)
    assert not [key for key in found.values if "tokens" in key or "ppl" in key]
    assert found.base is None
    assert any("No base model" in note for note in found.notes)


def test_the_budget_bounds_what_the_base_reads(sums, tiny_base):
    found = fingerprint(sums, tiny_base, max_tokens=400)
    assert 8 <= found.values["n_rows_sampled"] < 30
    assert found.values["n_tokens_sampled"] <= 400


def test_eight_rows_are_read_whatever_the_budget(sums, tiny_base):
    assert fingerprint(sums, tiny_base, max_tokens=1).values["n_rows_sampled"] == 8


def test_the_same_seed_gives_the_same_fingerprint_and_another_seed_another_sample(sums, tiny_base):
    first = fingerprint(sums, tiny_base, max_tokens=400, seed=1)
    assert fingerprint(sums, tiny_base, max_tokens=400, seed=1) == first
    other = fingerprint(sums, tiny_base, max_tokens=400, seed=2)
    assert other.values["response_ppl"] != first.values["response_ppl"]
    assert other.values["prompt_tokens_mean"] == first.values["prompt_tokens_mean"]


def test_rows_longer_than_their_share_of_the_budget_are_cut_and_said(read_rows, tiny_base):
    rows = [{"prompt": f"{i} " + "film " * 2_000, "response": "good " * 300} for i in range(4)]
    found = fingerprint(read_rows(rows), tiny_base, max_tokens=1_600)
    assert found.values["n_tokens_sampled"] <= 4 * (200 + 20)  # an eighth each, and the template
    assert any("4 of 4 rows were cut" in note for note in found.notes)
    assert math.isfinite(found.values["response_bits_per_byte"])


def test_a_cut_row_keeps_its_template_and_the_text_next_to_the_answer(tiny_base):
    from adapt_lora.registry.fingerprint.dataset import _cut_tokens

    row = encode_row(tiny_base, "film " * 200 + "what is it", "good " * 50)
    cut = _cut_tokens(row, 40)
    start, end = row.content
    assert cut.prompt_ids[: cut.content[0]] == row.prompt_ids[:start]
    assert cut.prompt_ids[cut.content[1] :] == row.prompt_ids[end:]
    assert cut.prompt_ids[slice(*cut.content)] == row.prompt_ids[end - 20 : end]
    assert cut.response_ids == row.response_ids[:20]
    assert cut.n_template_response == 0
    assert _cut_tokens(row, 10_000) is row


def test_a_very_long_line_costs_no_more_than_a_long_one(read_rows, tiny_base):
    rows = [{"prompt": "film " * 400_000, "response": "good"}, {"prompt": "b", "response": "bad"}]
    found = fingerprint(read_rows(rows), tiny_base)
    assert found.values["prompt_tokens_q95"] < 20_000


def test_too_many_label_tokens_leave_out_the_base_score(reviews, tiny_base):
    labels = tuple(f"a label of many words number {i}" for i in range(100))
    found = fingerprint(replace(reviews, labels=labels), tiny_base, max_tokens=1_000)
    assert "base_score" not in found.values
    assert any("100 labels" in note for note in found.notes)


def test_one_row_is_enough(read_rows, tiny_base):
    found = fingerprint(read_rows([{"prompt": "what is it", "response": "a film"}]), tiny_base)
    assert found.values["response_ppl"] > 1
    assert "response_ppl_se" not in found.values


def test_no_rows_is_an_error(sums, tiny_base):
    with pytest.raises(DatasetError, match="no usable rows"):
        fingerprint(replace(sums, rows=()), tiny_base)


def test_progress_ends_at_the_rows_read(sums, tiny_base):
    calls = []
    found = fingerprint(sums, tiny_base, progress=lambda done, total: calls.append((done, total)))
    n = found.values["n_rows_sampled"]
    assert calls[-1] == (n, n)


@pytest.mark.slow
def test_a_real_dataset_under_a_real_base(shared_data):
    from adapt_lora.model.base import load_base_model

    dataset = read_dataset(shared_data / "data" / "sst2", split="train")
    found = fingerprint(dataset, load_base_model())
    # Instruction-tuned on chat: it finds reviews odd, and calls nearly all of them positive.
    assert 3 < found.values["response_ppl"] < 100
    assert found.values["response_ppl_se"] < 0.2 * found.values["response_ppl"]
    assert found.values["base_label_share_max"] > 0.8
