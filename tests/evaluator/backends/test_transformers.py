"""The backend that runs the base model in this process."""

from adapt_lora.evaluator import TransformersBackend


def test_answer_nll_leaves_out_the_closing_tokens(tiny_base, model_tasks):
    rows = model_tasks[2].rows[:2]
    nll = TransformersBackend(tiny_base).answer_nll(rows)
    words = tiny_base.tokenizer(rows[0].response, add_special_tokens=False)["input_ids"]
    assert [len(values) for values in nll] == [len(words)] * 2
