import math

import numpy as np
import pytest

from adapt_lora.registry.fingerprint.perplexity import (
    mean_nll,
    perplexity_part,
    total_perplexity_part,
)


def row(*nats):
    return np.array(nats, dtype=np.float32)


def test_perplexity_is_exp_of_total_nats_over_total_tokens():
    part = perplexity_part("response", [row(1, 1, 1), row(3)], [6, 2])
    assert part.values["response_nll_mean"] == pytest.approx(1.5)  # not the mean of row means, 2
    assert part.values["response_ppl"] == pytest.approx(math.exp(1.5))
    assert part.values["response_bits_per_byte"] == pytest.approx(6 / math.log(2) / 8)
    assert part.values["response_nll_q50"] == 1
    assert sum(part.histograms["response_nll"].counts) == 4


def test_the_error_is_that_of_a_ratio_over_rows():
    nll = mean_nll([row(1, 1, 1), row(3)])
    # Residuals 3 − 4.5 and 3 − 1.5; n/(n − 1) = 2; 2 · 4.5 = 9; √9 / 4 tokens.
    assert nll.se == pytest.approx(0.75)
    assert nll.perplexity_se == pytest.approx(math.exp(1.5) * 0.75)


def test_the_error_matches_the_spread_over_repeated_samples():
    rng = np.random.default_rng(0)

    def sample():
        level = rng.normal(2, 0.5, 60)
        return [rng.normal(mu, 0.3, rng.integers(1, 20)) for mu in level]

    drawn = [mean_nll(sample()) for _ in range(400)]
    spread = np.std([nll.mean for nll in drawn])
    claimed = np.mean([nll.se for nll in drawn])
    assert claimed == pytest.approx(spread, rel=0.15)


def test_one_row_has_no_error():
    assert "prompt_ppl_se" not in perplexity_part("prompt", [row(1, 2)], [4]).values


def test_absurd_nats_stay_finite():
    part = perplexity_part("response", [row(5_000), row(6_000)], [1, 1])
    assert math.isfinite(part.values["response_ppl"])
    assert math.isfinite(part.values["response_ppl_se"])


def test_rows_without_tokens_or_with_broken_figures_are_left_out():
    part = perplexity_part("response", [row(), row(2), row(np.nan), row(np.inf)], [0, 4, 9, 9])
    assert part.values["response_ppl"] == pytest.approx(math.exp(2))
    assert part.values["response_bits_per_byte"] == pytest.approx(2 / math.log(2) / 4)


def test_nothing_to_read_gives_no_keys():
    assert perplexity_part("response", [row()], [0]).values == {}
    assert total_perplexity_part([row(1)], [row()]).values == {}


def test_total_perplexity_joins_prompt_and_response():
    part = total_perplexity_part([row(1, 1), row(9)], [row(4), row()])
    assert part.values["total_ppl"] == pytest.approx(math.exp(2))
