"""What is asked of an evaluation: built once at the edge, checked there, carried whole."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from adapt_lora.data import DataSource, check_source, request_repr
from adapt_lora.data.suite import suite_tasks
from adapt_lora.errors import ConfigError
from adapt_lora.evaluator.metrics import LabelDecision
from adapt_lora.evaluator.tasks import metric_key
from adapt_lora.registry.records import METRIC_UNITS

BackendName = Literal["auto", "transformers", "vllm", "openai"]
"""What scores and writes; "auto" takes vLLM where it and a GPU are there."""


@dataclass(frozen=True, slots=True)
class Grading:
    """How answers become scores, where the task leaves a choice."""

    decision: LabelDecision = "sum"
    """How a label is chosen."""
    allow_code_execution: bool = False
    """Whether pass@1 may run code that a model wrote."""
    accept_weak_sandbox: bool = False
    """Whether that code is run even where network or files can't be shielded from it."""
    judge_url: str | None = None
    """Server of the judging model, OpenAI-compatible; None without a judge."""
    judge_model: str | None = None
    """The judging model, as its server names it."""

    def __post_init__(self) -> None:
        if self.decision not in get_args(LabelDecision):
            raise ConfigError(
                f"There is no decision {self.decision!r}. Choose "
                f"{', '.join(get_args(LabelDecision))}."
            )
        if (self.judge_url is None) != (self.judge_model is None):
            raise ConfigError("A judge needs both --judge-url and --judge-model; give the other.")

    @property
    def graded_metrics(self) -> frozenset[str]:
        """Metrics that need more than a reference and get it."""
        offered = {"pass_at_1": self.allow_code_execution, "judge_accuracy": bool(self.judge_url)}
        return frozenset(metric for metric, is_offered in offered.items() if is_offered)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where an OpenAI-compatible server is, and how to talk to it."""

    url: str
    """http://HOST:PORT, with or without /v1."""
    model: str | None = None
    """Its name for the base model; None where it serves one."""
    concurrency: int = 8
    """Requests under way at once."""
    timeout_s: float = 300.0
    """Seconds that one answer may take."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Adapters × tasks to be measured, and how.

    Raises:
        ConfigError: Two of its options do not go together, or one has a value that there is not.
    """

    tasks: Sequence[DataSource] = ()
    """Files, folders (test.jsonl) or rows that Python holds, as for `read_dataset`; each becomes a
    column."""
    adapters: Sequence[str] | None = None
    """Names; None for all adapters of the base that have their weights here."""
    base_model: str | None = None
    """As for `load_base_model`."""
    metric: str = "auto"
    """One metric for all tasks, or "auto"."""
    max_rows: int | None = None
    """Rows per task, drawn by `seed`; None for all."""
    seed: int = 0
    """Decides every draw."""
    mapping: Mapping[str, str] | None = None
    """Field names, as for `read_dataset`."""
    allow_skips: bool = False
    """Go on where many rows, or all of a class, can't be used; as for `read_dataset`."""
    shots: int | None = None
    """Show this many examples in each prompt, as a row of its own of the named adapters, or of the
    base where none is named; None for rows without examples."""
    shots_from: Sequence[DataSource] = ()
    """Answered rows to show, one source per task that is a file (or rows that Python holds), in
    their order; folders and Hub datasets bring their own training split."""
    keep_text: bool = False
    """Keep written answers beside the row digests."""
    grading: Grading = field(default_factory=Grading)
    """How labels are chosen, and what may be run or asked to grade answers."""
    backend: BackendName = "auto"
    """What scores and writes; "auto" takes vLLM where it and a GPU are there."""
    server: ServerOptions | None = None
    """Where the server is, for the backend "openai"."""
    suite: str | None = None
    """Name of a suite whose tasks are measured too, after `tasks`; None for none."""
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster whose workers measure, each with the base model of its own; they
    need the adapters' files, so the cache folder must be theirs too."""

    def __repr__(self) -> str:
        return request_repr(self, "tasks", "shots_from")

    def __post_init__(self) -> None:
        for name in ("tasks", "shots_from"):
            object.__setattr__(self, name, _sources(getattr(self, name), name))
        if self.adapters is not None:
            object.__setattr__(self, "adapters", _names(self.adapters, "adapters"))
        if self.suite is not None:
            suite_tasks(self.suite)
        elif not self.tasks:
            raise ConfigError("There is no task to score on. Name at least one, or a suite.")
        if self.metric != "auto" and metric_key(self.metric) not in METRIC_UNITS:
            raise ConfigError(
                f"There is no metric {self.metric!r}. Choose auto, {', '.join(METRIC_UNITS)}."
            )
        for option, count in (("--max-rows", self.max_rows), ("--shots", self.shots)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ConfigError(f"{option} is {count!r}, but must be a whole number from 1 on.")
        if not isinstance(self.grading, Grading):
            raise ConfigError(f"grading is {self.grading!r}, but must be a Grading.")
        if self.backend not in get_args(BackendName):
            raise ConfigError(
                f"There is no backend {self.backend!r}. Choose {', '.join(get_args(BackendName))}."
            )
        if self.ray_address is not None and self.backend not in ("auto", "transformers"):
            raise ConfigError(
                f"--ray spreads what transformers measures; leave out --backend {self.backend}, "
                "which measures many adapters at once by itself."
            )
        if self.backend == "openai" and self.server is None:
            raise ConfigError("--backend openai needs --server http://HOST:PORT.")
        if self.backend != "openai" and self.server is not None:
            raise ConfigError(
                f"--server is for --backend openai, not for --backend {self.backend}."
            )
        if self.suite is not None and self.shots is not None:
            raise ConfigError(
                f"--shots shows training rows, which the suite {self.suite!r} does not have. "
                "Name the tasks with --task, or leave out --shots."
            )
        if self.shots_from and self.shots is None:
            raise ConfigError("--shots-from says where examples come from; say how many: --shots.")

    @classmethod
    def of(
        cls, asked: "EvaluationRequest | DataSource | Sequence[DataSource]"
    ) -> "EvaluationRequest":
        """The request itself; of plain tasks, or of a single one, one with the defaults."""
        return asked if isinstance(asked, EvaluationRequest) else cls(_sources(asked, "tasks"))


def _sources(given: Any, name: str) -> tuple[DataSource, ...]:
    """Sources as a tuple of their own; a single one is one, and so is a list of rows."""
    is_list = isinstance(given, list | tuple)
    if is_list and given and all(isinstance(one, Mapping) for one in given):
        given, is_list = [given], True
    several = tuple(given) if is_list else (given,)
    for number, source in enumerate(several):
        check_source(source, f"{name}[{number}]" if is_list else name)
    return several


def _names(given: object, what: str) -> tuple[str, ...]:
    """Names as a tuple of their own; a single one is one, not its letters."""
    if isinstance(given, str):
        return (given,)
    several = tuple(given) if isinstance(given, Iterable) else (None,)
    if all(isinstance(one, str) for one in several):
        return several
    raise ConfigError(f"{what} is {given!r}, but must be one name, or a list of them.")
