import gc
import weakref

import numpy as np
import pytest
import torch

from adapt_lora.data import Row
from adapt_lora.errors import ScoringError
from adapt_lora.model import scoring
from adapt_lora.model.base import load_base_model
from adapt_lora.model.scoring import encode_row, generate, read_pass, score_labels, token_batches

PROMPTS = ("the film was good", "what is the capital of a city", "add 2 and 3", "")
LABELS = ("positive", "no", "the answer is 5")


def plain_nll(base, context, answer):
    """The rival: one sequence per answer, no batching, no masks."""
    ids = torch.tensor([[*context, *answer]])
    with torch.inference_mode():
        logits = base.model(ids).logits[0].float()
    log_p = torch.log_softmax(logits, dim=-1)
    places = range(len(context) - 1, len(context) + len(answer) - 1)
    return np.array([-log_p[at, token].item() for at, token in zip(places, answer, strict=True)])


def test_label_scores_equal_one_forward_pass_per_label(tiny_base):
    scores = score_labels(tiny_base, PROMPTS, LABELS)
    for row, prompt in enumerate(PROMPTS):
        context = encode_row(tiny_base, prompt, None).prompt_ids
        for column, ids in enumerate(scoring.label_ids(tiny_base, LABELS)):
            expected = -plain_nll(tiny_base, context, ids).sum()
            assert scores.log_likelihood[row, column] == pytest.approx(expected, abs=1e-4)
    assert scores.n_tokens.tolist() == [len(i) for i in scoring.label_ids(tiny_base, LABELS)]


def test_a_base_model_that_has_read_something_can_still_be_freed(tiny_base_dir):
    base = load_base_model(tiny_base_dir, dtype="float32", device="cpu")
    encode_row(base, "a prompt", "an answer")
    watched = weakref.ref(base)
    del base
    gc.collect()
    assert watched() is None


def test_a_beginning_that_rows_share_is_read_once_and_changes_no_score(tiny_base, monkeypatch):
    head = "what is the sentiment of this sentence yes or no "
    prompts = [head + prompt for prompt in PROMPTS]
    read = []
    decoder = tiny_base.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        shared = score_labels(tiny_base, prompts, LABELS)
        n_shared = sum(read)
        read.clear()
        monkeypatch.setattr(scoring, "_MIN_PREFIX", 10_000)
        apart = score_labels(tiny_base, prompts, LABELS)
    finally:
        hook.remove()
    np.testing.assert_allclose(shared.log_likelihood, apart.log_likelihood, atol=1e-4)
    assert n_shared < 0.7 * sum(read)


@pytest.mark.parametrize("labels", [LABELS, ()], ids=["branches", "one answer"])
def test_answers_after_a_shared_beginning_equal_one_pass_per_row(tiny_base, labels):
    prompts = ["what is the sentiment of this sentence " + prompt for prompt in PROMPTS]
    rows = [encode_row(tiny_base, prompt, "yes it was bad") for prompt in prompts]
    result = read_pass(tiny_base, rows, labels=labels, hidden=False)
    assert scoring._shared_prefix(tiny_base, [scoring._plan_row(r, (), False) for r in rows]) >= 8
    for nll, row in zip(result.response_nll, rows, strict=True):
        np.testing.assert_allclose(
            nll, plain_nll(tiny_base, row.prompt_ids, row.response_ids), atol=1e-4
        )


def test_equal_prompts_keep_their_last_token_to_answer_from(tiny_base):
    same = score_labels(tiny_base, ["what is the capital of a city in there"] * 3, LABELS)
    one = score_labels(tiny_base, ["what is the capital of a city in there"], LABELS)
    np.testing.assert_allclose(same.log_likelihood, one.log_likelihood.repeat(3, 0), atol=1e-4)


def test_response_nll_is_the_same_with_and_without_labels_beside_it(tiny_base):
    rows = [encode_row(tiny_base, prompt, "yes it was bad") for prompt in PROMPTS]
    alone = read_pass(tiny_base, rows, hidden=False)
    beside = read_pass(tiny_base, rows, labels=LABELS, hidden=False)
    for one, other, row in zip(alone.response_nll, beside.response_nll, rows, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
        np.testing.assert_allclose(
            one, plain_nll(tiny_base, row.prompt_ids, row.response_ids), atol=1e-4
        )


def test_a_response_that_is_a_label_is_read_once_and_scored_as_that_label(tiny_base):
    rows = [encode_row(tiny_base, PROMPTS[0], "no")]
    result = read_pass(tiny_base, rows, labels=LABELS)
    assert -result.response_nll[0].sum() == pytest.approx(result.label_log_likelihood[0, 1])
    assert (
        len(scoring._plan_row(rows[0], scoring.label_ids(tiny_base, LABELS), False).branches) == 3
    )


def test_hidden_states_average_the_users_tokens_at_both_depths(tiny_base):
    row = encode_row(tiny_base, "the food was bad", "yes")
    result = read_pass(tiny_base, [row, encode_row(tiny_base, "one", "no")], labels=LABELS)
    with torch.inference_mode():
        states = tiny_base.model.model(torch.tensor([row.prompt_ids]), output_hidden_states=True)
    start, end = row.content
    last = states.last_hidden_state[0, start:end].mean(0).numpy()
    mid = states.hidden_states[1][0, start:end].mean(0).numpy()  # layer round(0.6 × 2) = 1
    np.testing.assert_allclose(result.hidden["last"][0], last, atol=1e-4)
    np.testing.assert_allclose(result.hidden["mid"][0], mid, atol=1e-4)


def test_prompt_nll_covers_the_users_text_only(tiny_base):
    row = encode_row(tiny_base, "the food was bad", "yes")
    result = read_pass(tiny_base, [row], prompt_nll_rows=[0])
    start, end = row.content
    expected = plain_nll(tiny_base, row.prompt_ids[:start], row.prompt_ids[start:end])
    np.testing.assert_allclose(result.prompt_nll[0], expected, atol=1e-4)


def test_batches_do_not_change_scores(tiny_base):
    rows = [encode_row(tiny_base, prompt, "good") for prompt in PROMPTS * 3]
    small = read_pass(tiny_base, rows, labels=LABELS, max_batch_tokens=1)
    large = read_pass(tiny_base, rows, labels=LABELS, max_batch_tokens=10_000)
    np.testing.assert_allclose(small.label_log_likelihood, large.label_log_likelihood, atol=1e-4)


def test_generation_equals_transformers_one_prompt_at_a_time(tiny_base):
    answers = generate(tiny_base, PROMPTS[:3], max_new_tokens=6)
    for prompt, answer in zip(PROMPTS[:3], answers, strict=True):
        ids = torch.tensor([encode_row(tiny_base, prompt, None).prompt_ids])
        out = tiny_base.model.generate(
            ids, max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0
        )
        text = tiny_base.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer == text.strip()


def test_token_batches_hold_the_budget_and_every_row_once():
    lengths = [3, 50, 7, 7, 200, 1]
    batches = token_batches(lengths, 60)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(
        len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60 for batch in batches
    )


def test_a_row_longer_than_the_model_reads_is_named(tiny_base):
    row = encode_row(tiny_base, "good " * 600, None)
    with pytest.raises(ScoringError, match=r"row 1 has .* reads at most 512"):
        read_pass(tiny_base, [row])


def test_without_a_chat_template_the_plain_template_is_used(tiny_base_dir, tmp_path):
    import shutil

    from adapt_lora.model.base import load_base_model

    folder = tmp_path / "plain"
    shutil.copytree(tiny_base_dir, folder)
    (folder / "chat_template.jinja").unlink()
    base = load_base_model(folder, dtype="float32")
    row = encode_row(base, "good", "bad")
    assert base.template == "plain"
    assert base.tokenizer.decode(row.prompt_ids) == "good\n"
    assert base.tokenizer.decode(row.response_ids) == "bad<|im_end|>"


def test_generation_is_greedy_whatever_the_models_own_settings_say(tiny_base):
    plain = generate(tiny_base, PROMPTS[:2], max_new_tokens=8)
    settings = tiny_base.model.generation_config
    tiny_base.model.generation_config = type(settings)(repetition_penalty=1.8, eos_token_id=2)
    try:
        assert generate(tiny_base, PROMPTS[:2], max_new_tokens=8) == plain
    finally:
        tiny_base.model.generation_config = settings


def test_constrained_decoding_follows_the_likeliest_token_at_each_fork():
    candidates = [(1, 9), (2, 3, 9), (2, 4, 9)]  # 9 closes
    nll = [np.array(values) for values in ([0.9, 0.1], [0.5, 3.0, 0.0], [0.5, 2.0, 0.1])]
    # The sums are 1.0, 3.5 and 2.6: the first would win, but decoding starts with 2.
    assert scoring.greedy_candidate(candidates, nll) == 2


def test_constrained_decoding_tells_a_label_from_a_longer_one_by_its_end():
    candidates = [(5, 9), (5, 6, 9)]
    ends = [np.array([0.1, 2.0]), np.array([0.1, 0.2, 0.0])]
    assert scoring.greedy_candidate(candidates, ends) == 1
    assert scoring.greedy_candidate([(5, 9), (5, 9)], ends) == 0


def test_constrained_choice_is_what_transformers_writes_under_the_same_constraint(tiny_base):
    labels = ["the film was good", "the film was bad", "good", "I like the city"]
    prompts = ["what is the film", "good", "I like the food", "the city was bad and good"]
    candidates = scoring.label_ids(tiny_base, labels)
    chosen = score_labels(tiny_base, prompts, labels).greedy
    for prompt, index in zip(prompts, chosen, strict=True):
        ids = torch.tensor([encode_row(tiny_base, prompt, None).prompt_ids])
        start = ids.shape[1]

        def allowed(_, so_far, start=start):
            written = tuple(so_far[start:].tolist())
            longer = [c for c in candidates if len(c) > len(written)]
            ahead = {c[len(written)] for c in longer if c[: len(written)] == written}
            return sorted(ahead) or [candidates[0][-1]]

        with torch.inference_mode():
            out = tiny_base.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                prefix_allowed_tokens_fn=allowed,
                max_new_tokens=max(map(len, candidates)),
                do_sample=False,
                eos_token_id=candidates[0][-1],
            )
        written = tuple(out[0, start:].tolist())
        assert written[: len(candidates[index])] == candidates[index]


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("base", "<|im_start|>user\nthe film<|im_end|>\n<|im_start|>assistant\ngood<|im_end|>"),
        ("plain", "the film\ngood<|im_end|>"),
        # massive-sft, App. D
        ("question-answer", "###Question: the film\n###Answer: good<|im_end|>"),
    ],
)
def test_a_row_is_written_as_its_template_says(tiny_base, template, wanted):
    (row,) = scoring.encode_rows(tiny_base, [Row("the film", "good", None, 1)], template=template)
    text = tiny_base.tokenizer.decode([*row.prompt_ids, *row.response_ids])
    assert text == wanted
