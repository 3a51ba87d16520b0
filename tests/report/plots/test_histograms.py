from dataclasses import replace

import pytest

from adapt_lora.errors import DatasetError
from adapt_lora.registry.records import Fingerprint
from adapt_lora.report.plots import plot_histograms
from tests.report.plots.conftest import panel, pixels, texts


def test_each_distribution_and_the_labels_have_a_panel(fingerprint, drawn, tmp_path):
    pixels(plot_histograms(fingerprint, tmp_path / "new" / "folder" / "a.png"))
    lengths = panel(drawn[0], "Prompt length")
    assert [bar.get_height() for bar in lengths.patches] == [4, 60, 90, 40, 6]
    assert (lengths.get_xlabel(), lengths.get_ylabel()) == ("tokens", "count")
    assert "median 24" in texts(lengths)
    assert len(panel(drawn[0], "How surprising responses are").patches) == 4
    labels = panel(drawn[0], "Labels")
    assert [label.get_text() for label in labels.get_yticklabels()] == [
        "positive",
        "negative",
        "neutral",
    ]
    gold, guessed = labels.containers
    assert [bar.get_width() for bar in gold] == pytest.approx([81, 14, 5])
    assert [bar.get_width() for bar in guessed] == pytest.approx([97, 3, 0])


def test_the_median_is_the_exact_one_where_it_is_known(fingerprint, drawn, tmp_path):
    known = replace(fingerprint, values={"prompt_tokens_q50": 21.0})
    plot_histograms(known, tmp_path / "a.png")
    assert "median 21" in texts(panel(drawn[0], "Prompt length"))


def test_one_histogram_alone_is_one_panel(fingerprint, drawn, tmp_path):
    lengths = {"prompt_tokens": fingerprint.histograms["prompt_tokens"]}
    pixels(plot_histograms(Fingerprint(histograms=lengths), tmp_path / "a.png"))
    assert len(drawn[0].axes) == 1


def test_the_rarest_of_many_labels_are_left_out_and_counted(drawn, tmp_path):
    shares = {f"$label$ {i}": (20 - i) / 210 for i in range(20)}
    plot_histograms(Fingerprint(label_shares=shares), tmp_path / "a.png")
    labels = panel(drawn[0], "Labels (the 12 commonest of 20)")
    assert len(labels.patches) == 12


def test_a_fingerprint_without_distributions_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no histogram"):
        plot_histograms(Fingerprint(), tmp_path / "a.png")
