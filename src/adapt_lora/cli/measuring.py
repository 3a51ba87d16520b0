"""What was measured and what it says: `evaluate`, `matrix`, `traits`, `analyse`, `bench`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from adapt_lora.cli.options import (
    AcceptWeakFlag,
    AllowCodeFlag,
    AllowSkipsFlag,
    BaseModelOption,
    DecisionOption,
    JsonFlag,
    JudgeModelOption,
    JudgeUrlOption,
    MapOption,
    MetricOption,
    QuietFlag,
    RegistryOption,
    SeedOption,
    open_registry,
    read_mapping,
    read_pairs,
)
from adapt_lora.console import Console

if TYPE_CHECKING:
    from adapt_lora.evaluator import BackendName, CellFailure
    from adapt_lora.recommender.bench import BenchReport
    from adapt_lora.recommender.traits import Traits
    from adapt_lora.registry.records import MatrixRow
    from adapt_lora.results import Evaluation, EvaluationPlan

TasksOption = Annotated[
    list[str] | None, typer.Option("--task", help="Dataset to score on; repeat for more.")
]
SuiteOption = Annotated[
    str | None,
    typer.Option(
        help="Measure a suite of public tasks too, core or labels; their rows are fetched, or read "
        "from ADAPT_SUITE_DIR."
    ),
]
AdaptersOption = Annotated[
    list[str] | None, typer.Option("--adapter", help="Adapter to score; all by default.")
]
ShotsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Show this many training examples in each prompt: a row of its own, of the "
        "adapters named by --adapter, else of the base model.",
    ),
]
ShotsFromOption = Annotated[
    list[str] | None,
    typer.Option(help="Rows to show, one source per --task that is a file, in their order."),
]
KeepTextFlag = Annotated[
    bool, typer.Option("--keep-text", help="Keep written answers with the predictions.")
]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be measured, and how long.")
]
BackendOption = Annotated[
    str,
    typer.Option(
        help="auto, transformers, vllm, or openai: a server. "
        "Auto is vLLM where it and a GPU are there."
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        help="OpenAI-compatible server for --backend openai, as http://HOST:PORT; "
        "its key comes from ADAPT_SERVER_API_KEY."
    ),
]
ServerModelOption = Annotated[
    str | None, typer.Option(help="The server's name for the base model.")
]
ConcurrencyOption = Annotated[
    int, typer.Option(min=1, help="Requests to the server under way at once.")
]
TimeoutOption = Annotated[
    float, typer.Option(min=1, help="Seconds that one answer of the server may take.")
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Spread the cells over this Ray cluster: HOST:PORT, ray://HOST:PORT or auto.",
    ),
]


def evaluate(
    task: TasksOption = None,
    adapter: AdaptersOption = None,
    suite: SuiteOption = None,
    base_model: BaseModelOption = None,
    metric: MetricOption = "auto",
    max_rows: Annotated[int | None, typer.Option(min=2, help="Rows per task.")] = None,
    decision: DecisionOption = "sum",
    allow_code_execution: AllowCodeFlag = False,
    accept_weak_sandbox: AcceptWeakFlag = False,
    judge_url: JudgeUrlOption = None,
    judge_model: JudgeModelOption = None,
    shots: ShotsOption = None,
    shots_from: ShotsFromOption = None,
    keep_text: KeepTextFlag = False,
    dry_run: DryRunFlag = False,
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    backend: BackendOption = "auto",
    server: ServerOption = None,
    server_model: ServerModelOption = None,
    concurrency: ConcurrencyOption = 8,
    timeout: TimeoutOption = 300,
    ray: RayOption = None,
    tracking_uri: RegistryOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Measure adapters × tasks; cells that exist are not measured again.

    A task or adapter that can't be used never stops the others: it is named at the end, and the
    exit code is 1 then.
    """
    from adapt_lora import roads
    from adapt_lora.evaluator import EvaluationRequest, Grading, ServerOptions

    console = Console(as_json, quiet)
    request = EvaluationRequest(
        tasks=task or (),
        adapters=adapter,
        suite=suite,
        base_model=base_model,
        metric=metric,
        max_rows=max_rows,
        seed=seed,
        mapping=read_mapping(mapping),
        allow_skips=allow_skips,
        shots=shots,
        shots_from=shots_from or (),
        keep_text=keep_text,
        grading=Grading(
            decision, allow_code_execution, accept_weak_sandbox, judge_url, judge_model
        ),
        backend=_known_backend(backend),
        server=None
        if server is None
        else ServerOptions(server, server_model, concurrency=concurrency, timeout_s=timeout),
        ray_address=ray,
    )
    registry = open_registry(tracking_uri, console)
    if dry_run:
        plan = roads.plan_evaluation(request, registry=registry, say=console.listener)
        _show_plan(plan, console, with_cost=suite is not None)
        return
    with console.progress() as progress:
        done = roads.evaluate(request, registry=registry, progress=progress, say=console.listener)
    _show_evaluation(done, console)


def _known_backend(name: str) -> "BackendName":
    from adapt_lora.evaluator import BackendName

    names: tuple[BackendName, ...] = get_args(BackendName)
    for known in names:
        if name == known:
            return known
    raise typer.BadParameter(f"{name!r} is not one of {', '.join(names)}.", param_hint="--backend")


def _show_plan(plan: "EvaluationPlan", console: Console, *, with_cost: bool) -> None:
    from adapt_lora.data.suite import describe_cost
    from adapt_lora.report.plain import plan_json
    from adapt_lora.report.tables import plan_table

    if console.as_json:
        console.print_json(plan_json(plan))
    else:
        if not console.quiet:
            console.show(plan_table(plan))
        console.print_line(plan.describe())
        if with_cost:
            console.print_line(describe_cost(sum(cell.n_tokens for cell in plan.cells)))
    console.warn(plan.warnings)
    _name_failures(plan.failures, {}, console)


def _show_evaluation(done: "Evaluation", console: Console) -> None:
    from adapt_lora.report.plain import evaluation_json
    from adapt_lora.report.tables import matrix_table
    from adapt_lora.report.transfer import asked_part

    report = done.report
    if console.as_json:
        console.print_json(evaluation_json(done))
    else:
        if not console.quiet:
            console.show(matrix_table(asked_part(done), width=console.width))
        console.print_line(
            f"{len(report.cells)} cells measured, {report.n_skipped} were there, "
            f"{report.n_failed} failed, {report.seconds:.0f} s."
        )
    if done.code_protection and not console.quiet:
        console.say(done.code_protection)
    console.warn(done.warnings)
    _name_failures(report.failures, done.names, console)


def _name_failures(
    failures: "Sequence[CellFailure]", names: "Mapping[MatrixRow, str]", console: Console
) -> None:
    """Say what could not be measured and why; exit code 1 where there is any."""
    for failure in failures:
        # "*" stands for every row of a task, or every task of an adapter.
        parts = [names.get(failure.row, failure.row.label), failure.task]
        where = " on ".join(part for part in parts if part != "*")
        console.say(f"Failed: {where}: {failure.reason}", style="red")
    if failures:
        raise typer.Exit(1)


def matrix(
    base_model: BaseModelOption = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="Only these adapters; * stands for anything. Repeat."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Only these tasks; * stands for anything. Repeat."),
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option("--family", help="Only tasks of these families. Repeat.")
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Show scores instead of gains over the base.")
    ] = False,
    errors: Annotated[
        bool, typer.Option("--errors", help="Show standard errors beside the figures.")
    ] = False,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", envvar="ADAPT_MATRIX_CSV", help="Print CSV, gaps left empty."),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw a heat map, likes beside likes, into this PNG.")
    ] = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show the transfer matrix: adapters × tasks, gains over the base."""
    from adapt_lora import roads
    from adapt_lora.report.plain import matrix_json
    from adapt_lora.report.tables import matrix_table
    from adapt_lora.report.transfer import MatrixValues, filter_matrix, matrix_csv

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two ways to print; choose one.")
    console = Console(as_json, quiet or as_csv)
    registry = open_registry(tracking_uri, console)
    content = filter_matrix(
        registry.transfer_matrix(roads.which_base(registry, base_model)),
        adapters=adapter or (),
        tasks=task or (),
        families=family or (),
    )
    values: MatrixValues = "score" if scores else "gain"
    if plot is not None:
        from adapt_lora.report.plots import plot_matrix

        plot_matrix(content, plot, values=values)
    if as_json:
        console.print_json(matrix_json(content))
    elif as_csv:
        console.print_line(matrix_csv(content, values=values, errors=errors), end="")
    else:
        console.show(matrix_table(content, values=values, errors=errors, width=console.width))


def traits(
    scores: Annotated[
        Path | None, typer.Option(help="CSV of scores (rows × tasks) instead of the registry.")
    ] = None,
    components: Annotated[int, typer.Option(min=1, help="Number of traits.")] = 4,
    name: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ADAPT_TRAITS_NAME",
            help="Name a trait, T1=reasoning; the registry remembers it. Repeat for more; T1= "
            "takes the name off.",
        ),
    ] = None,
    base_model: BaseModelOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the loadings into this PNG; into a folder, each profile too."),
    ] = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Fit latent traits (PCA of the transfer matrix) and write each adapter's scores back."""
    from adapt_lora.report.plain import traits_json
    from adapt_lora.report.tables import traits_table

    console = Console(as_json, quiet)
    names = read_pairs(name or [], "--name", example="T1=reasoning")
    if scores is not None:
        from adapt_lora.recommender.scores import read_scores
        from adapt_lora.recommender.traits import fit_traits

        table = read_scores(scores)
        fitted = fit_traits(
            table.values,
            n_components=components,
            adapters=table.rows,
            tasks=table.tasks,
            names=names,
        )
    else:
        from adapt_lora import roads

        with console.progress() as progress:
            fitted = roads.write_traits(
                registry=open_registry(tracking_uri, console),
                base_model=base_model,
                n_components=components,
                names=names,
                progress=progress,
            )
    if plot is not None:
        _plot_traits(fitted, plot)
    if as_json:
        console.print_json(traits_json(fitted))
    else:
        console.show(traits_table(fitted))


def _plot_traits(fitted: "Traits", place: Path) -> None:
    """The loadings as a PNG, or a folder with them and every adapter's profile."""
    from adapt_lora.report.plots import plot_trait_profiles, plot_traits

    if place.suffix.lower() == ".png" and not place.is_dir():
        plot_traits(fitted, place)
        return
    plot_traits(fitted, place / "loadings.png")
    plot_trait_profiles(fitted, place / "profiles")


def analyse(
    question: Annotated[str, typer.Argument(help="correlations, side-effects or twins.")],
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Ask the papers' questions of your matrix: what goes with gains, what harms, what twins do."""
    from adapt_lora import analysis, roads
    from adapt_lora.report import plain, tables

    answers: dict[str, tuple[Callable[[Any], Any], ...]] = {
        "correlations": (
            analysis.gain_correlations,
            plain.correlations_json,
            tables.correlations_table,
        ),
        "side-effects": (
            analysis.side_effects,
            plain.side_effects_json,
            tables.side_effects_table,
        ),
        "twins": (analysis.compare_twins, plain.twins_json, tables.twins_table),
    }
    console = Console(as_json, quiet)
    registry = open_registry(tracking_uri, console)
    content = registry.transfer_matrix(roads.which_base(registry, base_model))
    if question not in answers:
        raise typer.BadParameter(f"{question!r}: choose correlations, side-effects or twins.")
    ask, as_object, as_table = answers[question]
    found = ask(content)
    if as_json:
        console.print_json(as_object(found))
    else:
        console.show(as_table(found))


def bench(
    matrices: Annotated[
        Path | None, typer.Option(help="Folder of matrices; the registry by default.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to share the work.")] = 2,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw predicted against measured, odds and intervals, into this PNG."),
    ] = None,
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Back-test every ranking method, leaving one task group out at a time."""
    from adapt_lora import roads
    from adapt_lora.recommender.bench import bench_folder, bench_registry
    from adapt_lora.recommender.track_record import judge_past
    from adapt_lora.report.plain import bench_json
    from adapt_lora.report.tables import bench_table

    console = Console(as_json, quiet)
    with console.progress() as progress:
        if matrices is not None:
            report = bench_folder(matrices, seed=seed, n_workers=workers, progress=progress)
        else:
            registry = open_registry(tracking_uri, console)
            identity = roads.which_base(registry, base_model)
            matrix = registry.transfer_matrix(identity)
            # Whatever was measured on a target judges the answer to it, and teaches nothing.
            measured = registry.transfer_matrix(identity, with_targets=True)
            report = bench_registry(
                matrix,
                judge_past(registry.recommendations(identity), measured),
                others=roads.other_matrices(registry, matrix.base),
                seed=seed,
                n_workers=workers,
                progress=progress,
            )
    if as_json:
        console.print_json(bench_json(report))
    else:
        console.show(bench_table(report))
    # Last: minutes of work must not be lost to a picture that can't be drawn.
    if plot is not None:
        _plot_calibration(report, plot)


def _plot_calibration(report: "BenchReport", place: Path) -> None:
    """One picture of one matrix as a PNG; of several, a folder with one of each."""
    from adapt_lora.report.plots import plot_calibration

    drawn = {name: one for name, one in report.matrices.items() if one.cells}
    if len(drawn) <= 1:
        one = next(iter(drawn.values()), None)
        cells, unit = ((), "points") if one is None else (one.cells, one.unit)
        plot_calibration(cells, place, unit=unit, title=next(iter(drawn), ""))
        return
    for name, one in drawn.items():
        file = place / f"{name.replace('/', '-')}.png"
        plot_calibration(one.cells, file, unit=one.unit, title=name)
