import numpy as np
import pytest

from adapt_lora.registry.fingerprint.probe import probe_part


def drawn(n: int, *, apart: float, seed: int = 0) -> tuple[dict[str, np.ndarray], list[str]]:
    """States of two labels whose means lie so far apart in one dimension of many."""
    rng = np.random.default_rng(seed)
    gold = ["yes" if i % 2 else "no" for i in range(n)]
    states = rng.standard_normal((n, 64))
    states[:, 7] += np.where(np.array(gold) == "yes", apart / 2, -apart / 2)
    return {"mid": states, "last": states + 0.1 * rng.standard_normal((n, 64))}, gold


def names(n: int) -> list[str]:
    return [f"prompt {i}" for i in range(n)]


def test_states_that_hold_the_label_are_read_and_those_that_do_not_stay_at_chance():
    told, gold = drawn(120, apart=6.0)
    silent, _ = drawn(120, apart=0.0)
    assert probe_part(told, names(120), gold).values["probe_score"] > 0.8
    assert probe_part(silent, names(120), gold).values["probe_score"] == pytest.approx(0.5, abs=0.2)


def test_a_prompt_that_comes_twice_is_not_its_own_proof():
    states, _ = drawn(60, apart=0.0)
    rng = np.random.default_rng(1)
    gold = [str(label) for label in rng.choice(["yes", "no"], size=60)]
    doubled = {depth: np.repeat(values, 2, axis=0) for depth, values in states.items()}
    found = probe_part(
        doubled,
        [n for n in names(60) for _ in range(2)],
        [label for label in gold for _ in range(2)],
    )
    assert found.values == probe_part(states, names(60), gold).values
    assert found.values["n_rows_probed"] == 60


def test_labels_too_rare_for_every_fold_are_left_out_and_few_rows_are_not_probed():
    states, gold = drawn(40, apart=6.0)
    gold[0] = "once"
    assert probe_part(states, names(40), gold).values["n_rows_probed"] == 39
    few, gold = drawn(20, apart=6.0)
    assert "No probe" in probe_part(few, names(20), gold).notes[0]
    states, _ = drawn(40, apart=6.0)
    assert not probe_part(states, names(40), ["same"] * 40).values
    assert not probe_part(states, names(40), [None] * 40).values


def test_the_scale_of_a_dimension_does_not_matter():
    states, gold = drawn(90, apart=3.0)
    stretched = {depth: values.copy() for depth, values in states.items()}
    for values in stretched.values():
        values[:, 3] *= 1e4
    assert (
        probe_part(stretched, names(90), gold).values == probe_part(states, names(90), gold).values
    )
