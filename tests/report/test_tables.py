import re

from rich.console import Console, RenderableType

from adapt_lora.registry.records import AdapterRecord
from adapt_lora.report.tables import (
    adapters_table,
    bench_table,
    correlations_table,
    matrix_table,
    plan_table,
    recommendation_table,
    side_effects_table,
    traits_table,
)
from tests.report.conftest import BASE


def test_a_recommendation_shows_gain_interval_and_reasons(recommendation):
    lines = shown(recommendation_table(recommendation)).splitlines()
    first = next(line for line in lines if "sentiment-lora" in line)
    for words in ("+8.2", "+1.0 to +16.0", "7 %", "55 %", "+7.0 ± 3.0"):
        assert words in first
    assert any("sentiment-lora: " in line and "helps most tasks" in line for line in lines)
    assert any("Shares 12 rows" in line for line in lines)
    assert any("regret@1 0.12" in line for line in lines)


def test_the_base_model_stands_first_where_it_is_recommended(recommendation):
    assert order(recommendation) == ["sentiment-lora", "base model"]
    recommendation["base"]["recommended"] = True
    assert order(recommendation) == ["base model", "sentiment-lora"]


def test_an_unverified_ranking_has_no_measured_column(recommendation):
    del recommendation["ranking"][0]["measured"]
    assert "measured" not in shown(recommendation_table(recommendation))


def test_the_matrix_shows_gaps_own_cells_and_the_majority_label(matrix):
    text = shown(matrix_table(matrix))
    nli = next(line for line in text.splitlines() if "nli-lora" in line)
    assert nli.split() == ["nli-lora", "+9.2", "+36.8°", "−1.0", "0.0", "−0.200", "·"]
    assert "majority label (score)" in text
    assert "51.2" in next(line for line in text.splitlines() if "base model" in line)


def test_tasks_that_do_not_fit_go_on_below(matrix):
    console = Console(width=60)
    with console.capture() as capture:
        console.print(matrix_table(matrix, width=60))
    text = capture.get()
    assert "tasks 1-3 of 6" in text
    lines = [line.split() for line in text.splitlines() if line.startswith(" nli-lora")]
    assert [len(line) - 1 for line in lines] == [3, 3]  # no figure is folded, none is lost
    assert "tasks 1-" not in shown(matrix_table(matrix, width=200))


def test_scores_and_errors_stand_there_when_asked_for(matrix):
    text = shown(matrix_table(matrix, values="score", errors=True))
    nli = next(line for line in text.splitlines() if "nli-lora" in line)
    assert "60.4 ± 3.0" in nli
    assert "+" not in nli
    assert "base model (score)" not in text


def test_a_plan_lists_cells_and_time_by_row():
    cells = [
        {"adapter": "base model", "task": task, "n_tokens": 1500, "estimated_s": 2.0}
        for task in ("sst2", "snli")
    ]
    text = shown(plan_table({"base_model": "org/tiny", "cells": cells}))
    assert next(line for line in text.splitlines() if "base model" in line).split()[2:] == [
        "sst2,",
        "snli",
        "3,000",
        "4",
        "s",
    ]


def test_only_gains_beyond_two_standard_errors_are_coloured(matrix):
    coloured = shown(matrix_table(matrix), colour=True)
    assert re.search(r"\x1b\[32m *\+17.4", coloured)
    assert re.search(r"\x1b\[31m *−11.2", coloured)
    assert not re.search(r"\x1b\[3\dm *\+4.0", coloured)


def test_names_with_brackets_are_no_markup(matrix, recommendation, record):
    name = "[/red] [bold]x[/bold]"
    recommendation["ranking"][0]["adapter"] = name
    recommendation["ranking"][0]["reasons"][0]["text"] = name
    for renderable in (
        recommendation_table(recommendation),
        adapters_table([AdapterRecord("a", name, BASE)]),
        traits_table(
            {"explained_variance_ratio": [1.0], "loadings": {name: [0.5]}, "names": [name]}
        ),
    ):
        assert name in shown(renderable)


def test_adapters_show_what_is_known_and_dots_for_the_rest(record):
    text = shown(adapters_table([record, AdapterRecord("b", "bare", BASE)]))
    full = next(line for line in text.splitlines() if "sentiment-lora" in line)
    for words in ("sst2", "1,200", "12.4", "2025-10-09 08:53"):
        assert words in full
    bare = next(line for line in text.splitlines() if line.strip().startswith("bare"))
    assert "unknown" in bare
    assert bare.count("·") == 5
    assert "2 adapters" in text


def test_traits_show_variance_loadings_and_scores():
    text = shown(
        traits_table(
            {
                "explained_variance_ratio": [0.297, 0.201],
                "loadings": {"GSM8K": [0.27, -0.24]},
                "scores": {"base": [0.85, -0.37]},
                "names": ["reasoning", "sentiment"],
            }
        )
    )
    for words in ("29.7 %", "+0.27", "−0.24", "−0.37", "49.8 %"):
        assert words in text


def test_traits_show_poles_errors_stability_and_notes():
    traits = {
        "explained_variance_ratio": [0.3, 0.2],
        "loadings": {"GSM8K": [0.27, -0.001]},
        "scores": {"base": [0.85, -0.37], "new": [1.0, 1.0]},
        "standard_errors": {"base": [0.5, 0.5], "new": [0.9, 1.1]},
        "keys": ["T1", "T3"],
        "names": ["reasoning", "T3 Goat vs IMDB"],
        "poles": [{"high": ["GSM8K"], "low": []}, {"high": ["Goat"], "low": ["IMDB", "PAWS"]}],
        "stability": [
            {"median": 0.98, "min": 0.8, "row": "base"},
            {"median": 0.9, "min": 0.4, "row": "new"},
        ],
        "notes": ["1 of 20 cells was not measured."],
    }
    text = shown(traits_table(traits))
    for words in ("IMDB, PAWS", "0.90 (0.40 without new)", "+1.00 ± 1.10", "1 of 20 cells", "T3"):
        assert words in text
    assert "reasoning" in text
    assert "Goat vs IMDB" not in text  # an automatic name only repeats the poles
    assert "−0.00" not in text


def test_the_best_method_is_bold_by_the_metrics_direction():
    bench = {
        "matrices": {
            "krishna": {
                "n_targets": 10,
                "n_groups": 8,
                "regime": "zeroshot",
                "chosen": "stack",
                "methods": {
                    "random": {"spearman": 0.01, "regret_at_1": 0.51, "coverage_80": 0.8},
                    "stack": {"spearman": 0.52, "regret_at_1": 0.29},
                },
            }
        }
    }
    coloured = shown(bench_table(bench), colour=True)
    bold = re.findall(r"\x1b\[1m *([\d.]+)", coloured)
    assert bold == ["0.520", "0.290"]  # the larger ρ, the smaller regret, no coverage
    assert "stack (chosen)" in coloured


def test_correlations_show_verdict_and_what_was_left_out():
    text = shown(
        correlations_table(
            {
                "rows": [
                    {
                        "statistic": "response_ppl",
                        "unit": "points",
                        "rho": -0.62,
                        "interval": [-0.9, -0.2],
                        "interval_level": 0.9,
                        "n": 12,
                        "expected": "negative",
                        "verdict": "agrees",
                    }
                ],
                "skipped": [{"statistic": "mattr", "unit": "nats", "reason": "not known"}],
            }
        )
    )
    assert "−0.62" in text
    assert "−0.90 to −0.20" in text
    assert "agrees" in text
    assert "mattr (nats): not known" in text


def test_side_effects_show_best_and_worst_tasks():
    effect = {"task": "boolq", "gain": -0.173, "se": 0.04, "unit": "points", "outcome": "harmed"}
    counts = {"n_helped": 0, "n_harmed": 1, "n_unclear": 2}
    text = shown(
        side_effects_table(
            {
                "adapters": [{"adapter": "math", "best": [], "worst": [effect], **counts}],
                "kinship": [{"kinship": "same family", **counts, "share_harmed": 1 / 3}],
            }
        )
    )
    assert "boolq −17.3 ± 4.0" in text
    assert "33 %" in text


def order(recommendation: dict) -> list[str]:
    """The table's rows, without what stands below it."""
    text = shown(recommendation_table(recommendation))
    names = re.findall(r"sentiment-lora|base model", text)
    return list(dict.fromkeys(names))


def shown(renderable: RenderableType, *, colour: bool = False) -> str:
    console = Console(width=160, force_terminal=colour, color_system="standard" if colour else None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_a_ranking_without_gains_or_intervals_shows_gaps():
    entry = {"rank": 1, "adapter": "first", "reasons": [{"text": "registered first"}]}
    only_gain = {**entry, "rank": 2, "adapter": "second", "predicted_gain": 0.031}
    content = {"ranking": [entry, only_gain], "base": {"recommended": False}}
    text = shown(recommendation_table(content))
    assert "first" in text
    assert "+3.1" in text
    assert "·" in text


def test_a_bench_shows_intervals_ceiling_and_past_recommendations() -> None:
    bench = {
        "matrices": {
            "one": {
                "n_targets": 4,
                "n_groups": 4,
                "regime": "zeroshot",
                "chosen": "stack",
                "methods": {"popularity": {"spearman_rho": 0.4}, "default": {"spearman_rho": 0.6}},
                "paired": {
                    "default": {
                        "spearman_rho": {
                            "baseline": "popularity",
                            "difference": 0.2,
                            "interval": [0.05, 0.35],
                        }
                    }
                },
                "ceiling": {"spearman_rho": 0.81},
            }
        },
        "past": [
            {"target": "imdb", "made_ms": 0, "n": 8, "mae": 0.1, "mae_of_zero": 0.2,
             "coverage": 0.75, "spearman_rho": -0.5},
            {"target": "later", "made_ms": 0, "n": 1, "mae": 0.1, "mae_of_zero": 0.2},
        ],
    }  # fmt: skip
    text = " ".join(shown(bench_table(bench)).split())
    assert "+0.200 +0.050 to +0.350" in text
    assert "ρ 0.81" in text
    assert "imdb 1970-01-01 00:00 8 0.100 0.200 75 % −0.50" in text
    assert "later" in text
