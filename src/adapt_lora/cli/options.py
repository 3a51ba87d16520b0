"""Options that several commands share, and what is made of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from adapt_lora.console import Console
from adapt_lora.errors import AdaptError, ConfigError

if TYPE_CHECKING:
    from adapt_lora.model.base import BaseIdentity
    from adapt_lora.registry import Registry

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
AllowSkipsFlag = Annotated[
    bool,
    typer.Option("--allow-skips", help="Go on where many rows, or all of a class, can't be used."),
]
MetricOption = Annotated[
    str,
    typer.Option(
        help="auto, or a metric: balanced_accuracy, accuracy, macro_f1, exact_match, "
        "numeric_match, token_f1, rouge_l, pass@1, judge_accuracy, answer_log_likelihood."
    ),
]
DecisionOption = Annotated[
    Literal["sum", "per_token", "prior_corrected", "unbiased", "choice"],
    typer.Option(
        help="How a label is chosen: by the likelihood of all its tokens, per token, corrected for "
        "liking it anyway (by its mean share, or unbiased: by its mean log-likelihood), or by "
        "greedy decoding that may write labels only."
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


def open_registry(tracking_uri: str | None, console: Console) -> "Registry":
    """The registry of this address; where nobody named one and it is new, which it is is said."""
    from adapt_lora.registry import Registry

    registry = Registry(tracking_uri, warn=lambda sentence: console.warn([sentence]))
    is_new = registry.database is not None and not registry.database.exists()
    if registry.is_default_uri and is_new:
        console.remark(
            f"Registry: {registry.shown_uri} (new; MLFLOW_TRACKING_URI sets another)",
            style="dim",
        )
    return registry


def named_base(registry: "Registry", base_model: str | None) -> "BaseIdentity | None":
    """The base model that was named; None where none was."""
    from adapt_lora.roads import which_base

    return which_base(registry, base_model) if base_model else None


def read_mapping(text: str | None) -> dict[str, str] | None:
    """Field names, as for `read_dataset`; None where none were given."""
    from adapt_lora.data import parse_mapping

    return None if text is None else parse_mapping(text)


def read_pairs(
    texts: Sequence[str], option: str, *, example: str = "learning_rate=1e-4"
) -> dict[str, str]:
    """Field to value, from texts such as "field=value".

    Raises:
        ConfigError: One of them has no field or no "=".
    """
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise ConfigError(f"{option} {key}: expected field=value, e.g. {example}.")
    return {key: value for key, _, value in pairs}


def _known_names() -> list[str]:
    """Names for shell completion; none where the registry is a server, which could be slow."""
    from adapt_lora.registry import Registry

    try:
        registry = Registry(os.environ.get("ADAPT_TRACKING_URI"), warn=lambda _: None)
        if registry.database is None:
            return []
        return sorted({record.name for record in registry.adapters()})
    except AdaptError:
        return []
