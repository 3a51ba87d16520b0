import re
from dataclasses import replace

from rich.console import Console, RenderableType

from adapt_lora.analysis.correlations import (
    Claim,
    Correlation,
    GainCorrelations,
    SkippedStatistic,
)
from adapt_lora.analysis.effects import AdapterEffects, Effect, KinshipCount, SideEffects
from adapt_lora.analysis.twins import MeanDifference, TaskDifference, TwinComparison
from adapt_lora.recommender.answer import LabelBias
from adapt_lora.recommender.bench import BenchReport, Comparison, MatrixReport
from adapt_lora.recommender.track_record import PastRecommendation
from adapt_lora.recommender.traits import Poles, Stability
from adapt_lora.registry.records import AdapterRecord, Measurement
from adapt_lora.report.tables import (
    adapters_table,
    bench_table,
    correlations_table,
    matrix_table,
    plan_table,
    recommendation_table,
    side_effects_table,
    sweep_table,
    traits_table,
    twins_table,
)
from adapt_lora.report.wording import gain_text, score_text, share_text
from adapt_lora.results import EvaluationPlan, PlannedCell, Run, Sweep
from adapt_lora.trainer import TrainRequest, find_recipe
from tests.report.conftest import BASE, BRACKETS


def test_a_recommendation_shows_verdict_gain_interval_and_measurement(answer):
    text = shown(recommendation_table(answer))
    entry = answer.recommendation.ranking[0]
    first = next(line for line in text.splitlines() if line.strip().startswith("1   sentiment"))
    for words in (
        score_text(0.43 + entry.predicted_gain),
        gain_text(entry.predicted_gain),
        f"{gain_text(entry.interval.low)} to {gain_text(entry.interval.high)}",
        share_text(entry.p_harm),
        "+37.0 ± 3.0",
    ):
        assert words in first
    lines = " ".join(text.split())
    for words in (
        "Use sentiment-lora: 43.0 → about",
        "balanced accuracy (measured on 50 rows; chance 50.0).",
        "`adapt pull sentiment-lora ./sentiment-lora`",
        "80 % interval",
        "the target's own group",
        "! The base's weights are others.",
        "measured tasks, each ranked as if unseen, its order had a mean ρ of",
        "† known by its figures",
        "the best that can be pulled is sentiment-lora.",
    ):
        assert words in lines
    assert lines.startswith("Use sentiment-lora")
    assert entry.reasons[0].text not in lines


def test_reasons_are_said_of_whom_is_asked_about(answer):
    entry = answer.recommendation.ranking[0]
    one = " ".join(shown(recommendation_table(answer, explain="sentiment-lora")).split())
    assert f"1 sentiment-lora: {entry.reasons[0].text}" in one
    before = gain_text(entry.predicted_alone)
    assert f"measured on 50 rows; predicted before that: {before}" in one
    everything = shown(recommendation_table(answer, explain="all"))
    names = [line for line in everything.splitlines() if line.startswith("  ") and ": " in line]
    assert len([line for line in names if line[2:3].isdigit()]) == 3


def test_the_base_model_stands_first_where_it_is_recommended(answer):
    assert order(answer)[0] == "sentiment-lora"
    found = answer.recommendation
    first = replace(found, base=replace(found.base, recommended=True))
    assert order(replace(answer, recommendation=first))[0] == "base model"


def test_what_stands_beside_the_adapters_has_its_own_rows(answer):
    found = answer.recommendation
    bias = LabelBias(Measurement(0.12, 0.04, 60), {"yes": 0.5, "no": -0.5})
    base = replace(found.base, unbiased=bias, majority=0.5, few_shot={"base, 4 shots": 0.61})
    ranking = (replace(found.ranking[0], unbiased=bias), *found.ranking[1:])
    wider = replace(found, base=base, ranking=ranking)
    text = shown(recommendation_table(replace(answer, recommendation=wider)))
    for name, score, gain in (
        ("base model, label bias removed", "55.0", "+12.0"),
        ("sentiment-lora, label bias removed", "55.0", "+12.0"),
        ("base, 4 shots", "61.0", "+18.0"),
        ("commonest label", "50.0", "+7.0"),
    ):
        line = next(line for line in text.splitlines() if name in line)
        assert score in line
        assert gain in line
    doubted = replace(base, unbiased=replace(bias, caution="Too few prompts."))
    text = shown(recommendation_table(replace(answer, recommendation=replace(found, base=doubted))))
    assert "! Label bias removed: Too few prompts." in text


def test_a_ranking_without_gains_or_intervals_shows_gaps(bare_answer):
    first, *rest = bare_answer.recommendation.ranking
    ranking = (first, replace(rest[0], predicted_gain=0.031), *rest[1:])
    found = replace(bare_answer.recommendation, ranking=ranking)
    text = shown(recommendation_table(replace(bare_answer, recommendation=found)))
    lines = text.splitlines()
    assert next(line for line in lines if line.strip().startswith("1 ")).count("·") == 4
    assert "+3.1" in next(line for line in lines if line.strip().startswith("2 "))
    assert "no back-test was possible" in text


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
    cells = tuple(PlannedCell("base model", task, 1500, 2.0) for task in ("sst2", "snli"))
    text = shown(plan_table(EvaluationPlan("org/tiny", cells, 2, 4.0, 100.0)))
    assert next(line for line in text.splitlines() if "base model" in line).split()[2:] == [
        "sst2,",
        "snli",
        "3,000",
        "4",
        "s",
    ]


def test_a_sweep_lists_its_runs_and_why_one_failed():
    def run(name, **more):
        return Run(TrainRequest("moods.jsonl", name, find_recipe("quick")), **more)

    runs = (
        run("moods", status="registered", version=2),
        run("next", estimated_s=30.2),
        run("now", status="trained", seconds=12.0, held_out_loss=1.5, version=1),
        run("broken", status="failed", reason="no such file"),
    )
    lines = shown(sweep_table(Sweep(runs))).splitlines()

    def line_of(name):
        return next(line for line in lines if line.strip().startswith(name))

    assert "4 runs" in lines[0]
    assert line_of("moods").split()[1:] == ["quick", "0", "registered", "2", "·", "·"]
    assert "about 30 s" in line_of("next")
    assert line_of("now").split()[-4:] == ["1", "1.500", "12", "s"]
    assert lines[-1].strip() == "broken: no such file"


def test_only_gains_beyond_two_standard_errors_are_coloured(matrix):
    coloured = shown(matrix_table(matrix), colour=True)
    assert re.search(r"\x1b\[32m *\+17.4", coloured)
    assert re.search(r"\x1b\[31m *−11.2", coloured)
    assert not re.search(r"\x1b\[3\dm *\+4.0", coloured)


def test_names_with_brackets_are_no_markup(answer, traits):
    found = answer.recommendation
    reason = replace(found.ranking[0].reasons[0], text=BRACKETS)
    entry = replace(found.ranking[0], adapter=BRACKETS, reasons=(reason,))
    hostile = replace(answer, recommendation=replace(found, ranking=(entry,)))
    for renderable in (
        recommendation_table(hostile),
        adapters_table([AdapterRecord("a", BRACKETS, BASE)]),
        traits_table(traits),
    ):
        assert BRACKETS in shown(renderable)


def test_adapters_show_what_is_known_and_dots_for_the_rest(record):
    text = shown(adapters_table([record, AdapterRecord("b", "bare", BASE)]))
    full = next(line for line in text.splitlines() if "sentiment-lora" in line)
    for words in ("sst2", "1,200", "12.4", "2025-10-09 08:53"):
        assert words in full
    bare = next(line for line in text.splitlines() if line.strip().startswith("bare"))
    assert "unknown" in bare
    assert bare.count("·") == 5
    assert "2 adapters" in text


def test_traits_show_variance_loadings_and_scores(traits):
    text = " ".join(shown(traits_table(traits)).split())
    ratios = traits.explained_variance_ratio
    assert f"explained variance {100 * ratios[0]:.1f} % {100 * ratios[1]:.1f} %" in text
    assert f"Together {100 * sum(ratios):.1f} % of the variance." in text
    first, second = (f"{x:+.2f}".replace("-", "−") for x in traits.loadings["GSM8K"])
    assert f"GSM8K {first} {second}" in text
    score = f"{traits.scores['one'][0]:+.2f}".replace("-", "−")
    assert f"one {score} ± {traits.standard_errors['one'][0]:.2f}" in text


def test_traits_show_names_poles_stability_and_notes(traits):
    told = replace(
        traits,
        loadings={"GSM8K": (0.27, -0.001)},
        keys=("T1", "T3"),
        names=("reasoning", "T3 Goat vs IMDB"),
        poles=(Poles(("GSM8K",), ()), Poles(("Goat",), ("IMDB", "PAWS"))),
        stability=(Stability(0.98, 0.8, "base"), Stability(0.9, 0.4, "new")),
        notes=("1 of 20 cells was not measured.",),
    )
    text = shown(traits_table(told))
    for words in ("IMDB, PAWS", "0.90 (0.40 without new)", "1 of 20 cells", "T3"):
        assert words in text
    assert "reasoning" in text
    assert "Goat vs IMDB" not in text  # an automatic name only repeats the poles
    assert "−0.00" not in text


BENCHED = MatrixReport(
    n_targets=10,
    n_groups=8,
    regime="zeroshot",
    chosen="stack",
    methods={
        "random": {"spearman_rho": 0.01, "regret_at_1": 0.51, "coverage_80": 0.8},
        "stack": {"spearman_rho": 0.52, "regret_at_1": 0.29},
    },
)


def test_the_best_method_is_bold_by_the_metrics_direction():
    coloured = shown(bench_table(BenchReport({"krishna": BENCHED})), colour=True)
    bold = re.findall(r"\x1b\[1m *([\d.]+)", coloured)
    assert bold == ["0.520", "0.290"]  # the larger ρ, the smaller regret, no coverage
    assert "stack (chosen)" in coloured
    assert "krishna: 10 targets in 8 groups, zeroshot" in coloured


def test_a_bench_shows_intervals_ceiling_and_past_recommendations() -> None:
    paired = {"default": {"spearman_rho": Comparison("popularity", 0.2, 0.05, 0.35)}}
    report = replace(BENCHED, paired=paired, ceiling={"spearman_rho": 0.81})
    past = (
        PastRecommendation("imdb", 0, 8, 0.1, 0.2, 0.75, -0.5),
        PastRecommendation("later", 0, 1, 0.1, 0.2, None, None),
    )
    text = " ".join(shown(bench_table(BenchReport({"one": report}, past))).split())
    assert "+0.200 +0.050 to +0.350" in text
    assert "ρ 0.81" in text
    assert "imdb 1970-01-01 00:00 8 0.100 0.200 75 % −0.50" in text
    assert "later 1970-01-01 00:00 1 0.100 0.200 · ·" in text


def test_correlations_show_verdict_and_what_was_left_out():
    row = Correlation(
        statistic="response_ppl",
        unit="points",
        rho=-0.62,
        interval=(-0.9, -0.2),
        interval_level=0.9,
        n=12,
        n_adapters=12,
        n_task_groups=4,
        claim=Claim("negative", "a paper"),
    )
    skipped = SkippedStatistic("mattr", "nats", "not known")
    text = shown(correlations_table(GainCorrelations((row,), (skipped,))))
    assert "−0.62" in text
    assert "−0.90 to −0.20" in text
    assert "agrees" in text
    assert "mattr (nats): not known" in text


def test_side_effects_show_best_and_worst_tasks():
    effect = Effect("boolq", -0.173, 0.04, "points", "harmed")
    counts = {"helped": 0, "harmed": 1, "unclear": 2}
    found = SideEffects(
        adapters=(AdapterEffects("math", "m", (), (effect,), counts),),
        kinship=(KinshipCount("same family", counts),),
        quadrants=(),
        n_unknown_family=0,
    )
    lines = shown(side_effects_table(found)).splitlines()
    math = next(line for line in lines if line.strip().startswith("math"))
    assert math.split() == ["math", "·", "boolq", "−17.3", "±", "4.0", "0", "1", "2"]
    assert "33 %" in next(line for line in lines if "same family" in line)


def test_twins_show_means_intervals_and_the_largest_differences():
    one = TwinComparison(
        first="balanced",
        second="plain",
        unit="points",
        scores=MeanDifference(0.05, (0.01, 0.09), 0.9, 4),
        evenness=MeanDifference(0.2, None, 0.9, 2),
        foreign=(TaskDifference("rte", 0.1, 0.02), TaskDifference("boolq", -0.03, None)),
        own=(),
    )
    text = " ".join(shown(twins_table([one])).split())
    for words in ("+5.0", "rte +10.0 ± 2.0", "+1.0 to +9.0", "boolq −3.0", "+0.20"):
        assert words in text
    assert "No two adapters of one group" in shown(twins_table([]))


def order(answer) -> list[str]:
    """The table's rows, without what stands below it."""
    _, table = shown(recommendation_table(answer)).split("Adapters for", 1)
    names = re.findall(r"sentiment-lora|base model", table)
    return list(dict.fromkeys(names))


def shown(renderable: RenderableType, *, colour: bool = False) -> str:
    console = Console(width=160, force_terminal=colour, color_system="standard" if colour else None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
