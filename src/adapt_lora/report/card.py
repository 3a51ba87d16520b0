"""An adapter's card: what it is, what it was trained on, where it helps and where it harms."""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapt_lora.registry.records import AdapterRecord
from adapt_lora.report.pages import (
    GainSpan,
    figure_rows,
    histogram_picture,
    interval_bars,
    page,
)
from adapt_lora.report.transfer import GainSummary, TaskGain, summarise_gains
from adapt_lora.report.wording import (
    GAP,
    UNIT_WORDS,
    count_text,
    gain_text,
    number_text,
    one_line,
    score_text,
)

# What CommonMark and GitHub's dialect read as more than text; a backslash makes each plain again.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")

_HISTOGRAM_WORDS: Mapping[str, tuple[str, str]] = {
    "prompt_tokens": ("Prompt length", "tokens"),
    "response_tokens": ("Response length", "tokens"),
    "response_nll": ("Surprise of response tokens", "nats"),
}
_KEY_STATISTICS: Mapping[str, str] = {
    "response_ppl": "perplexity of responses under the base",
    "prompt_tokens_mean": "mean prompt length (tokens)",
    "response_tokens_mean": "mean response length (tokens)",
    "n_labels": "labels",
    "label_entropy": "label entropy (nats)",
    "label_share_max": "largest label share",
    "base_score": "balanced accuracy of the base",
}
# 95 % of a normal distribution lies within this many standard errors.
_Z_95 = 1.96


def adapter_card_markdown(
    record: AdapterRecord, gains: Sequence[TaskGain] = (), *, folder: str | None = None
) -> str:
    """The card as GitHub-flavoured markdown, for MLflow's description of the adapter.

    Names come from users: all are escaped, so that none is read as markup.

    Args:
        record: The adapter.
        gains: Its measured gains.
        folder: Where its files are, for the code that uses them; None for code that fetches them.
    """
    data = record.dataset
    lines = [f"# {_plain(record.name)}", "", f"{record.kind} for {_plain(record.base.name)}."]
    if record.unchecked is not None:
        lines.append(f"\n> **Not checked on its base model:** {_plain(record.unchecked)}")
    lines += [f"\n> **Warning:** {_plain(warning)}" for warning in record.warnings]
    lines += ["", "## Training data", ""]
    if data is None:
        lines.append("Unknown: registered without its training data.")
    else:
        source = f", from {_plain(data.source)}" if data.source else ""
        lines.append(f"{_plain(data.name)}: {count_text(data.n_rows)} rows{source}.")
        if data.parent:
            lines.append(f"\nMade from {_plain(data.parent)}.")
    values = record.fingerprint.values
    statistics = [
        (words, number_text(values[key])) for key, words in _KEY_STATISTICS.items() if key in values
    ]
    if statistics:
        lines += ["", *_markdown_table(("statistic", "value"), statistics)]
    lines += ["", "## Gain over the base model", ""]
    if gains:
        lines += [*map(summary_text, summarise_gains(gains)), ""]
        heads = ("task", "metric", "base", "adapter", "gain", "± se", "rows")
        lines += _markdown_table(heads, [_gain_row(gain) for gain in _by_gain(gains)])
    else:
        lines.append("Not measured on any task yet.")
    if folder is not None:
        lines += ["", "## Use it", "", "```python", python_usage(record, folder), "```"]
    elif record.has_weights:
        lines += ["", "## Use it", "", "```", usage_text(record), "```"]
    for title, values in _figure_sections(record):
        rows = [(_plain(key), number_text(value)) for key, value in values.items()]
        lines += ["", f"## {title}", "", *_markdown_table(("figure", "value"), rows)]
    if record.params:
        settings = [(_plain(key), _plain(value)) for key, value in sorted(record.params.items())]
        lines += ["", "## Settings", "", *_markdown_table(("setting", "value"), settings)]
    return "\n".join(lines) + "\n"


def summary_text(summary: GainSummary) -> str:
    """An adapter's mean gains of one unit, as a sentence."""
    unit = UNIT_WORDS[summary.unit]
    parts = []
    if summary.mean is not None:
        others = "one other task" if summary.n_tasks == 1 else f"{summary.n_tasks} other tasks"
        parts.append(f"{gain_text(summary.mean, summary.unit)} {unit} on {others}")
    if summary.own is not None:
        parts.append(f"{gain_text(summary.own, summary.unit)} {unit} on its own data")
    return f"Mean gain: {', '.join(parts)}."


def adapter_card_html(record: AdapterRecord, gains: Sequence[TaskGain] = ()) -> str:
    """The card as one self-contained HTML page: no script, nothing loaded, all names escaped."""
    fingerprint = record.fingerprint
    return page(
        "card.html",
        name=one_line(record.name),
        kind=record.kind,
        base_model=one_line(record.base.name),
        version=record.version,
        key_facts=_key_facts(record, gains),
        warnings=record.warnings,
        gain_blocks=_gain_blocks(gains),
        pictures=[
            histogram_picture(title, fingerprint.histograms[name], unit)
            for name, (title, unit) in _HISTOGRAM_WORDS.items()
            if name in fingerprint.histograms and any(fingerprint.histograms[name].counts)
        ],
        fingerprint=figure_rows(fingerprint.values),
        notes=fingerprint.notes,
        sections=[
            ("Label shares", figure_rows(fingerprint.label_shares)),
            ("Weights", figure_rows(record.weights)),
            ("Behaviour on the probe prompts", figure_rows(record.behaviour)),
            ("Traits", figure_rows(record.traits)),
            ("Settings", sorted(record.params.items())),
            ("Findings of the checks", sorted(record.tags.items())),
        ],
        usage=usage_text(record) if record.has_weights else "",
        adapter_id=record.adapter_id,
    )


def usage_text(record: AdapterRecord) -> str:
    """Commands that fetch the adapter and ask it, names quoted for the shell."""
    name = shlex.quote(one_line(record.name))
    return f"adapt pull {name} ./adapter\n\n# then, in Python\n{python_usage(record, './adapter')}"


def python_usage(record: AdapterRecord, folder: str) -> str:
    """Python that puts the adapter in a folder on its base, and asks it as it is scored here."""
    # The one template that no tokenizer knows.
    is_quiz = record.params.get("recipe/template") == "question-answer"
    plain = '"###Question: " + prompt + "\\n###Answer: "' if is_quiz else 'prompt + "\\n"'
    chat = (
        "if tokenizer.chat_template:\n"
        '    turns = [{"role": "user", "content": prompt}]\n'
        "    text = tokenizer.apply_chat_template(\n"
        "        turns, tokenize=False, add_generation_prompt=True\n"
        "    )\n"
        "else:\n    "
    )
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "\n"
        f"name = {_python_text(record.base.name)}\n"
        "tokenizer = AutoTokenizer.from_pretrained(name)\n"
        "base = AutoModelForCausalLM.from_pretrained(name)\n"
        f"model = PeftModel.from_pretrained(base, {_python_text(folder)})\n"
        "\n"
        'prompt = "A prompt like those that it was trained on"\n'
        f"{'' if is_quiz else chat}"
        f'text = (tokenizer.bos_token or "") + {plain}\n'
        'inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")\n'
        "written = model.generate(**inputs, max_new_tokens=64, do_sample=False)\n"
        'answer = written[0, inputs["input_ids"].shape[1]:]\n'
        "print(tokenizer.decode(answer, skip_special_tokens=True))"
    )


def _figure_sections(record: AdapterRecord) -> list[tuple[str, Mapping[str, float]]]:
    """What is known of an adapter beside its data and gains; empty parts are left out."""
    sections = (
        ("Training", record.metrics),
        ("Traits", record.traits),
        ("Weights", record.weights),
        ("Behaviour on the probe prompts", record.behaviour),
    )
    return [(title, values) for title, values in sections if values]


def _key_facts(record: AdapterRecord, gains: Sequence[TaskGain]) -> list[tuple[str, str]]:
    data = record.dataset
    values = record.fingerprint.values
    facts = [("trained on", one_line(data.name) if data else "unknown data")]
    if data:
        facts.append(("training rows", count_text(data.n_rows)))
        if data.parent:
            facts.append(("made from", one_line(data.parent)))
    if "lora/r" in record.params:
        facts.append(("LoRA rank", record.params["lora/r"]))
    if "response_ppl" in values:
        facts.append(("perplexity under the base", number_text(values["response_ppl"])))
    foreign = [gain for gain in gains if not gain.own]
    if foreign:
        helped = sum(gain.gain > 0 for gain in foreign)
        facts.append(("other tasks helped", f"{helped} of {len(foreign)}"))
    return facts


def _gain_blocks(gains: Sequence[TaskGain]) -> list[dict[str, Any]]:
    """One table for each unit: strips in points and in nats can't share a scale."""
    blocks = []
    for unit, words in UNIT_WORDS.items():
        ranked = _by_gain(gain for gain in gains if gain.unit == unit)
        spans = [GainSpan(gain.gain, _interval(gain)) for gain in ranked]
        rows = [
            {
                "task": one_line(gain.task),
                "metric": gain.metric.replace("_", " "),
                "base_score": score_text(gain.base_score, unit),
                "score": score_text(gain.score, unit),
                "gain": gain_text(gain.gain, unit),
                "n": count_text(gain.n),
                "own": gain.own,
                "bar": bar,
            }
            for gain, bar in zip(ranked, interval_bars(spans, unit), strict=True)
        ]
        if rows:
            blocks.append({"unit": words, "rows": rows})
    return blocks


def _interval(gain: TaskGain) -> tuple[float, float] | None:
    if gain.se is None:
        return None
    return gain.gain - _Z_95 * gain.se, gain.gain + _Z_95 * gain.se


def _gain_row(gain: TaskGain) -> tuple[str, ...]:
    return (
        _plain(gain.task) + (" (own)" if gain.own else ""),
        gain.metric.replace("_", " "),
        score_text(gain.base_score, gain.unit),
        score_text(gain.score, gain.unit),
        gain_text(gain.gain, gain.unit),
        GAP if gain.se is None else score_text(gain.se, gain.unit),
        count_text(gain.n),
    )


def _by_gain(gains: Iterable[TaskGain]) -> list[TaskGain]:
    """Points before nats, the largest gain first."""
    units = list(UNIT_WORDS)
    return sorted(gains, key=lambda gain: (units.index(gain.unit), -gain.gain))


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of cells that are already escaped."""
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _plain(text: str) -> str:
    """A user's text for markdown: one line, nothing in it read as markup."""
    return _MARKDOWN.sub(r"\\\1", one_line(text))


def _python_text(text: str) -> str:
    """The text as a Python literal in double quotes."""
    return json.dumps(one_line(text), ensure_ascii=False)
