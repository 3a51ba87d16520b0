import numpy as np
import pytest

from adapt_lora.errors import AdapterError
from adapt_lora.registry.fingerprint.behaviour import PROBES, fingerprint_behaviour, read_probes


def test_an_adapter_shifts_hidden_states_and_likelihoods(tiny_base, tiny_adapter):
    behaviour = fingerprint_behaviour(tiny_base, tiny_adapter())
    assert behaviour.values["hidden_shift_relative"] > 0
    assert abs(behaviour.values["probe_nll_change_mean"]) > 1e-3
    assert len(behaviour.vector) == tiny_base.hidden_size
    assert [row["prompt"] for row in behaviour.answers] == [probe.prompt for probe in PROBES]


def test_a_stronger_adapter_shifts_more(tiny_base, tiny_adapter):
    weak = fingerprint_behaviour(tiny_base, tiny_adapter("weak", scale=0.05))
    strong = fingerprint_behaviour(tiny_base, tiny_adapter("strong", scale=0.5))
    assert weak.values["hidden_shift_relative"] < strong.values["hidden_shift_relative"]


def test_an_adapter_without_effect_is_refused(tiny_base, tiny_adapter):
    with pytest.raises(AdapterError, match="changes nothing on 16 probe prompts"):
        fingerprint_behaviour(tiny_base, tiny_adapter(scale=0.0))


def test_the_bare_reading_from_the_cache_equals_the_fresh_one(tiny_base):
    first, second = read_probes(tiny_base), read_probes(tiny_base)
    np.testing.assert_allclose(first.nll, second.nll, rtol=1e-6)
    np.testing.assert_allclose(first.hidden, second.hidden, rtol=1e-6)
    assert first.answers == second.answers
