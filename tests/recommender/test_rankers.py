"""The models that look at one thing alone."""

import numpy as np

from adapt_lora.recommender.models import make_ranker
from adapt_lora.recommender.training_set import TrainingSet
from tests.recommender.conftest import MakeTable


def test_nearest_task_follows_the_most_similar_column(make_table: MakeTable) -> None:
    scores = np.array([[3.0, 0.0, 9.0], [2.0, 1.0, 9.0], [1.0, 2.0, 9.0], [0.0, 3.0, 9.0]])
    similarity = np.array([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, 1.0]])
    fold = make_table(scores, similarity=similarity).hold_out(["g2"])
    predicted = make_ranker("nearest_task").fit(TrainingSet(fold.table)).predict(fold.queries[0])
    assert np.argsort(-predicted).tolist() == [0, 1, 2, 3]


def test_a_never_measured_adapter_counts_as_average(make_table: MakeTable) -> None:
    scores = np.array([[3.0, 3.0, 3.0], [1.0, 1.0, 1.0], [np.nan, np.nan, np.nan]])
    fold = make_table(scores).hold_out(["g2"])
    predicted = make_ranker("popularity").fit(TrainingSet(fold.table)).predict(fold.queries[0])
    assert predicted[0] > predicted[2] == 0.0 > predicted[1]


def test_minilm_looks_at_that_embedding_alone(make_table: MakeTable) -> None:
    rng = np.random.default_rng(0)
    vectors = {"minilm_mean": np.eye(3), "hidden_mid_mean": rng.standard_normal((3, 5))}
    tasks = {"minilm_mean": np.array([[0.0, 1.0, 0.0]] * 2), "hidden_mid_mean": rng.random((2, 5))}
    table = make_table(rng.random((3, 2)), source_vectors=vectors, target_vectors=tasks)
    fold = table.hold_out(["g1"])
    ranker = make_ranker("minilm").fit(TrainingSet(fold.table))
    assert ranker.can_rank(fold.queries[0])
    predicted = ranker.predict(fold.queries[0])
    assert predicted[1] > predicted[0] == predicted[2]
    bare = make_table(rng.random((3, 2))).hold_out(["g1"])
    assert not make_ranker("minilm").fit(TrainingSet(bare.table)).can_rank(bare.queries[0])
