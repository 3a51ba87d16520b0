from rich.console import Console

from adapt_lora.model.base import BaseIdentity
from adapt_lora.registry.records import Fingerprint, Histogram
from adapt_lora.report.fingerprint_page import fingerprint_page, sparkline

FINGERPRINT = Fingerprint(
    values={
        "n_rows": 1200.0,
        "n_rows_sampled": 92.0,
        "n_tokens_sampled": 7773.0,
        "prompt_tokens_mean": 52.76,
        "prompt_tokens_sd": 11.7,
        "prompt_tokens_q05": 36.0,
        "prompt_tokens_q50": 52.0,
        "prompt_tokens_q95": 73.0,
        "is_classification": 1.0,
        "n_labels": 2.0,
        "label_entropy": 0.6917,
        "label_entropy_normalised": 0.998,
        "response_ppl": 16.08,
        "response_ppl_se": 1.05,
        "response_bits_per_byte": 0.501,
        "base_score": 0.51,
        "base_score_se": 0.018,
        "mattr": 0.697,
        "exact_duplicate_share": 0.125,
    },
    vectors={"hidden_mid_mean": (0.0,) * 576},
    histograms={"prompt_tokens": Histogram((9.5, 19.5, 29.5), (1, 8))},
    label_shares={"good": 0.75, "[bold]bad[/bold]": 0.25},
    base_label_shares={"good": 1.0, "[bold]bad[/bold]": 0.0},
    base=BaseIdentity("org/Tiny-Base", "a", "b"),
    notes=("3 of 92 rows were cut.",),
)


def rendered(fingerprint, description="rows.jsonl: 1,200 rows"):
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(fingerprint_page(description, fingerprint))
    return capture.get()


def line_of(page, start):
    return next(line for line in page.splitlines() if line.strip().startswith(start))


def test_the_page_starts_with_what_was_read():
    assert rendered(FINGERPRINT).startswith("rows.jsonl: 1,200 rows")


def test_perplexity_and_base_score_stand_beside_their_errors():
    page = rendered(FINGERPRINT)
    assert "perplexity 16.1 ± 1.05, 0.501 bits per byte" in page
    assert "0.51 ± 0.018" in line_of(page, "balanced accuracy")
    assert "Tiny-Base" in page


def test_lengths_have_units_quantiles_and_a_histogram():
    page = rendered(FINGERPRINT)
    line = line_of(page, "prompt")
    assert "Length (tokens)" in page
    assert "52.8 mean, sd 11.7, median 52 (5–95 %: 36–73)" in line
    assert "10 │▁█│ 29" in line


def test_labels_are_drawn_beside_what_the_base_picks():
    line = line_of(rendered(FINGERPRINT), "good")
    assert "75.0 %" in line
    assert "100.0 %" in line
    assert line.count("█") == 15 + 20


def test_labels_with_brackets_are_text_and_not_markup():
    assert "[bold]bad[/bold]" in rendered(FINGERPRINT)


def test_labels_cant_send_escape_codes():
    page = rendered(Fingerprint(label_shares={"\x1b[31mred": 1.0}), "a\x1b[2Jb")
    assert "\x1b" not in page


def test_many_labels_are_counted_and_not_listed():
    shares = {f"intent{index}": 1 / 30 for index in range(30)}
    page = rendered(Fingerprint(values={"n_labels": 30.0}, label_shares=shares))
    assert "and 20 more" in page


def test_what_is_absent_has_no_section():
    page = rendered(Fingerprint(values={"n_rows": 3.0}))
    assert "rows" in page
    for title in ("Length", "Labels", "Surprise", "Language", "Duplicates", "Embeddings", "Notes"):
        assert title not in page


def test_notes_are_shown():
    assert "3 of 92 rows were cut." in rendered(FINGERPRINT)


def test_a_sparkline_shows_the_smallest_count_and_leaves_zero_blank():
    assert sparkline([0, 1, 50, 100]) == " ▁▄█"
    assert sparkline([]) == sparkline([0, 0]) == ""
