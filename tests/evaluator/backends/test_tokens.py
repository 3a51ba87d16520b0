import numpy as np

from adapt_lora.evaluator.backends.tokens import TokenTree, decode_answers, stop_ids
from adapt_lora.model import scoring


def test_labels_that_begin_alike_share_their_forks():
    tree = TokenTree.of([(5, 6, 2), (5, 7, 2), (8, 2)])
    assert tree.forks == {(): (5, 8), (5,): (6, 7), (5, 6): (2,), (5, 7): (2,), (8,): (2,)}


def test_a_labels_score_is_the_sum_along_its_path():
    tree = TokenTree.of([(5, 6, 2), (8, 2)])
    row = {(): {5: -1.0, 8: -2.0}, (5,): {6: -0.5}, (5, 6): {2: -0.25}, (8,): {2: -4.0}}
    scores = tree.scores([row])
    np.testing.assert_array_equal(scores.log_likelihood, [[-1.75, -6.0]])
    assert scores.n_tokens.tolist() == [3, 2]
    assert scores.greedy.tolist() == [0]


def test_a_label_that_begins_another_is_told_apart_by_its_end(tiny_base):
    labels = ["no", "no answer"]
    tree = TokenTree.of(scoring.label_ids(tiny_base, labels))
    assert len(set(tree.labels)) == 2
    assert all(label[-1] == stop_ids(tiny_base)[0] for label in tree.labels)


def test_answers_are_read_without_special_tokens_and_edges(tiny_base):
    ids = tiny_base.tokenizer(" the film ", add_special_tokens=False)["input_ids"]
    assert decode_answers(tiny_base, [[*ids, *stop_ids(tiny_base)], []]) == ["the film", ""]


def test_an_answer_knows_whether_it_ended_by_itself(tiny_base):
    end = stop_ids(tiny_base)[0]
    ended, cut = decode_answers(tiny_base, [[70, 71, end], [70, 71]])
    assert (ended.n_tokens, ended.finish) == (2, "stop")
    assert (cut.n_tokens, cut.finish) == (2, "length")
