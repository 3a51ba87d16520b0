from collections import Counter

import numpy as np
import pytest

from adapt_lora.errors import AdapterError
from adapt_lora.model.base import cache_dir
from adapt_lora.model.scoring import score_labels
from adapt_lora.registry.fingerprint import behaviour as module
from adapt_lora.registry.fingerprint.behaviour import (
    ANSWERED,
    KINDS,
    LABEL_SETS,
    PROBES,
    fingerprint_behaviour,
    read_probes,
)


def test_there_are_32_different_probes_with_evenly_spread_labels():
    assert len({probe.prompt for probe in PROBES}) == 32
    assert len(KINDS) > 8
    assert {probe.kind for probe in ANSWERED} == set(KINDS)
    for kind, labels in LABEL_SETS.items():
        gold = Counter(probe.response for probe in PROBES if probe.kind == kind)
        assert set(gold) == set(labels)
        assert len(set(gold.values())) == 1


def test_an_adapter_shifts_hidden_states_and_likelihoods(tiny_base, tiny_adapter):
    behaviour = fingerprint_behaviour(tiny_base, tiny_adapter())
    values = behaviour.values
    assert values["hidden_shift_relative"] > 0
    assert values["hidden_shift_relative_mid"] > 0
    assert abs(values["probe_nll_change_mean"]) > 1e-3
    assert len(behaviour.vector) == len(behaviour.vector_mid) == tiny_base.hidden_size
    assert behaviour.vector != behaviour.vector_mid
    assert [row["prompt"] for row in behaviour.answers] == [probe.prompt for probe in ANSWERED]
    assert all(np.isfinite(list(values.values())))


def test_the_changes_by_kind_add_up_to_the_whole(tiny_base, tiny_adapter):
    values = fingerprint_behaviour(tiny_base, tiny_adapter()).values
    sizes = Counter(probe.kind for probe in PROBES)
    total = sum(sizes[kind] * values[f"probe_nll_change_{kind}"] for kind in KINDS)
    assert total / 32 == pytest.approx(values["probe_nll_change_mean"], rel=1e-4)


def test_label_shares_are_those_of_the_labels_scored_alone(tiny_base):
    reading = read_probes(tiny_base)
    rows = [i for i, probe in enumerate(PROBES) if probe.kind == "topic"]
    prompts = [PROBES[i].prompt for i in rows]
    alone = np.exp(score_labels(tiny_base, prompts, LABEL_SETS["topic"]).log_likelihood)
    expected = alone / alone.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(reading.label_shares[rows], expected, rtol=1e-3)
    free = [i for i, probe in enumerate(PROBES) if probe.kind == "code"]
    assert np.isnan(reading.label_shares[free]).all()


def test_label_priors_that_move_are_seen_and_those_that_stay_are_not(tiny_base, tiny_adapter):
    bare = read_probes(tiny_base).label_shares
    assert module._label_values(bare, bare)["label_prior_tv"] == 0
    turned = bare.copy()
    rows = [i for i, probe in enumerate(PROBES) if probe.kind == "yes_no"]
    turned[rows, :2] = [1.0, 0.0]
    values = module._label_values(bare, turned)
    assert values["label_prior_tv_yes_no"] == pytest.approx(1 - bare[rows, 0].mean(), abs=1e-5)
    assert values["label_prior_tv"] == pytest.approx(values["label_prior_tv_yes_no"] / 5)
    assert values["label_prior_tv_topic"] == 0
    assert 0 < fingerprint_behaviour(tiny_base, tiny_adapter()).values["label_prior_tv"] <= 1


def test_answer_lengths_are_counted_in_tokens(tiny_base, tiny_adapter):
    bare = read_probes(tiny_base)
    assert 0 < bare.answer_tokens.max() <= module.ANSWER_TOKENS
    values = fingerprint_behaviour(tiny_base, tiny_adapter()).values
    before = values["answer_tokens_mean"] - values["answer_tokens_change_mean"]
    assert before == pytest.approx(bare.answer_tokens.mean(), abs=1e-4)


def test_a_stronger_adapter_shifts_more(tiny_base, tiny_adapter):
    weak = fingerprint_behaviour(tiny_base, tiny_adapter("weak", scale=0.05)).values
    strong = fingerprint_behaviour(tiny_base, tiny_adapter("strong", scale=0.5)).values
    for key in ("hidden_shift_relative", "hidden_shift_relative_mid"):
        assert weak[key] < strong[key]


def test_an_adapter_without_effect_is_refused(tiny_base, tiny_adapter):
    with pytest.raises(AdapterError, match="changes nothing on 32 probe prompts"):
        fingerprint_behaviour(tiny_base, tiny_adapter(scale=0.0))


def test_the_bare_reading_from_the_cache_equals_the_fresh_one(tiny_base):
    first, second = module._read(tiny_base), read_probes(tiny_base)
    again = read_probes(tiny_base)
    for name in ("nll", "closing_nll", "label_shares", "hidden", "hidden_mid", "answer_tokens"):
        np.testing.assert_allclose(getattr(first, name), getattr(again, name), rtol=1e-5)
    assert first.answers == second.answers == again.answers


def test_other_probes_are_another_reading(tiny_base, monkeypatch):
    before = read_probes(tiny_base)
    monkeypatch.setattr(module, "PROBES", (module.Probe("code", "Say hi.", "hi"), *PROBES[1:]))
    after = read_probes(tiny_base)
    assert after.nll[0] != before.nll[0]


def test_a_damaged_cache_is_read_anew(tiny_base):
    before = read_probes(tiny_base)
    for path in (cache_dir() / "probes").glob("*.npz"):
        path.write_bytes(b"nonsense")
    np.testing.assert_allclose(read_probes(tiny_base).nll, before.nll, rtol=1e-5)
