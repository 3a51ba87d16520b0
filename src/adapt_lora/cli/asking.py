"""Which adapter helps: `recommend`, and what it looks at: `fingerprint`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from adapt_lora.cli.options import (
    AcceptWeakFlag,
    AllowCodeFlag,
    AllowSkipsFlag,
    BaseModelOption,
    DecisionOption,
    GroupOption,
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
)
from adapt_lora.console import Console, json_text, write_text

if TYPE_CHECKING:
    from adapt_lora.results import TargetRanking

TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        show_default=False,
        help="Dataset of the new task: file, folder or Hub id.",
    ),
]
TargetOption = Annotated[
    str | None, typer.Option("--target", "-t", help="The same, said as an option.")
]
KindOption = Annotated[
    Literal["labels", "generation"] | None,
    typer.Option(
        "--as",
        envvar="ADAPT_AS",
        help="Rank for answers that are labels, or for text that is written; both where the "
        "target has no answers.",
    ),
]
VerifyOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Measure this many of the top adapters on the target's own rows; 3 by default "
        "where it has answers and --budget allows it, 0 for prediction only.",
    ),
]
BudgetOption = Annotated[
    float,
    typer.Option(min=0.0, help="Seconds that measuring may take where --verify is not given."),
]
RowsOption = Annotated[int, typer.Option(min=2, help="Rows per measured adapter, on average.")]
LogFlag = Annotated[
    bool, typer.Option("--log", help="Keep the recommendation in MLflow, to be judged later.")
]
KeepFlag = Annotated[
    bool,
    typer.Option(
        "--keep-as-task",
        help="Let what is measured on the target enter the transfer matrix as a task.",
    ),
]


def recommend(
    ctx: typer.Context,
    file: TargetArgument = None,
    target: TargetOption = None,
    base_model: BaseModelOption = None,
    metric: MetricOption = "auto",
    kind: KindOption = None,
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    group: GroupOption = None,
    method: Annotated[str, typer.Option(help="Ranking method; default chooses.")] = "default",
    top: Annotated[
        int, typer.Option(min=1, help="Adapters to show, beside those that were measured.")
    ] = 10,
    explain: Annotated[
        str | None, typer.Option(help="Also say why, of this adapter, or of all that are shown.")
    ] = None,
    verify: VerifyOption = None,
    budget: BudgetOption = 60.0,
    max_rows: RowsOption = 100,
    decision: DecisionOption = "sum",
    allow_code_execution: AllowCodeFlag = False,
    accept_weak_sandbox: AcceptWeakFlag = False,
    judge_url: JudgeUrlOption = None,
    judge_model: JudgeModelOption = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML page here.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the JSON object here.")] = None,
    log: LogFlag = False,
    keep_as_task: KeepFlag = False,
    tracking_uri: RegistryOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Rank the registry's adapters for an unseen dataset, the base model competing."""
    from adapt_lora import roads
    from adapt_lora.evaluator import Grading
    from adapt_lora.report.plain import recommendation_json
    from adapt_lora.report.recommendation_page import recommendation_html
    from adapt_lora.report.tables import recommendation_table

    console = Console(as_json, quiet)
    request = roads.RecommendRequest(
        _named_target(ctx, file, target),
        base_model=base_model,
        metric=metric,
        mapping=read_mapping(mapping),
        allow_skips=allow_skips,
        group=group,
        method=method,
        verify=verify,
        budget_s=budget,
        max_rows=max_rows,
        keep_as_task=keep_as_task,
        seed=seed,
        grading=Grading(
            decision, allow_code_execution, accept_weak_sandbox, judge_url, judge_model
        ),
        kind=kind,
    )
    registry = open_registry(tracking_uri, console)
    with console.progress() as progress:
        answer = roads.recommend(request, registry=registry, progress=progress, say=console.say)
    if log:
        run_id = roads.keep_recommendation(answer, registry=registry)
        console.remark(
            f"Kept as run {run_id}; `adapt bench` compares it with what is measured later."
        )
    if report is not None:
        for place, each in _report_places(report, answer):
            write_text(place, recommendation_html(each))
    if save is not None:
        write_text(save, json_text(recommendation_json(answer)) + "\n")
    if as_json:
        console.print_json(recommendation_json(answer))
    elif quiet:
        for each in answer.rankings:
            console.print_line(f"{each.kind}: {_best(each)}" if answer.other else _best(each))
    else:
        console.say(answer.target.describe())
        for each in answer.rankings:
            if answer.other:
                console.print_line(f"\n{each.heading}:")
            console.show(recommendation_table(each.top(top), explain=explain))
        if answer.other:
            console.remark(
                "The target has no answers, so both rankings are given; --as labels or "
                "--as generation gives one."
            )


def _named_target(ctx: typer.Context, file: str | None, option: str | None) -> str:
    """The target, named without or with --target.

    Raises:
        BadParameter: Neither was given, or both and they differ.
    """
    if file is None and option is None:
        raise typer.BadParameter(
            "Name the dataset of the new task, for example `adapt recommend mydata.csv`."
        )
    # What is set for good, by a variable or a file, gives way to what is typed.
    source = ctx.get_parameter_source("target")
    is_typed = source is not None and source.name == "COMMANDLINE"
    if file is not None and option is not None and file != option and is_typed:
        raise typer.BadParameter(
            f"Two targets are given, {file} and --target {option}: leave one of them out."
        )
    return file or option or ""


def _best(answer: "TargetRanking") -> str:
    names = [entry.adapter for entry in answer.recommendation.ranking]
    return "base" if answer.recommendation.base.recommended else "".join(names[:1])


def _report_places(path: Path, answer: "TargetRanking") -> "list[tuple[Path, TargetRanking]]":
    """A page for each ranking: the first where it was asked for, another beside it."""
    first, *rest = answer.rankings
    beside = [(path.with_stem(f"{path.stem}-{each.kind}"), each) for each in rest]
    return [(path, first), *beside]


def fingerprint(
    file: Annotated[str, typer.Argument(help="Dataset: file, folder or Hub id.")],
    base_model: BaseModelOption = None,
    mapping: MapOption = None,
    allow_skips: AllowSkipsFlag = False,
    max_tokens: Annotated[
        int, typer.Option(min=100, help="Tokens that the base model reads.")
    ] = 8_000,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Describe a dataset: lengths, labels, perplexity, language, duplicates."""
    from adapt_lora.data import read_dataset
    from adapt_lora.model.base import load_base_model
    from adapt_lora.registry.fingerprint import fingerprint_dataset
    from adapt_lora.report.fingerprint_page import fingerprint_page
    from adapt_lora.report.plain import echo_json

    console = Console(as_json, quiet)
    dataset = read_dataset(file, mapping=read_mapping(mapping), allow_skips=allow_skips)
    with console.progress() as progress:
        found = fingerprint_dataset(
            dataset,
            base=load_base_model(base_model),
            max_tokens=max_tokens,
            seed=seed,
            linguistics="auto",
            progress=lambda done, total: progress("read rows", done, total),
        )
    if as_json:
        console.print_json({**found.values, **echo_json(dataset.echo)})
    else:
        console.show(fingerprint_page(dataset.describe(), found))
