"""A dataset's fingerprint as a page for the terminal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adapt_lora.registry.records import Fingerprint, Histogram

_LEVELS = " ▁▂▃▄▅▆▇█"
_BAR_WIDTH = 20
_MAX_LABELS = 10
_MAX_LABEL_WIDTH = 28

_Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class _Line:
    """One figure of the page."""

    name: str
    figure: str
    picture: str = ""


def fingerprint_page(dataset_description: str, fingerprint: Fingerprint) -> RenderableType:
    """The fingerprint in sections, each with its units; what is absent has no line.

    Args:
        dataset_description: What was read, as the dataset describes itself.
        fingerprint: What is known of it.
    """
    values = fingerprint.values
    base = fingerprint.base.name.rpartition("/")[2] if fingerprint.base else "the base model"
    sections = [
        ("Size", _size_lines(values, base)),
        ("Length (tokens)", _length_lines(fingerprint)),
        ("Labels", _label_lines(values)),
        (f"Surprise under {base} (± one standard error)", _perplexity_lines(fingerprint)),
        (f"{base} on the labels, no adapter (± one standard error)", _base_lines(values)),
        ("Language", _language_lines(values)),
        ("Duplicates", _duplicate_lines(values)),
        ("Embeddings", _embedding_lines(fingerprint)),
    ]
    parts: list[RenderableType] = [Text(_printable(dataset_description))]
    for title, lines in sections:
        if lines:
            parts += [Text(), Text(_printable(title), style="bold"), _grid(lines)]
        if title == "Labels" and fingerprint.label_shares:
            parts.append(_label_bars(fingerprint))
    if fingerprint.notes:
        parts += [Text(), Text("Notes", style="bold")]
        parts += [Text(f"  {_printable(note)}", style="yellow") for note in fingerprint.notes]
    return Group(*parts)


def sparkline(counts: Sequence[int]) -> str:
    """One character per bin, as high as its count; any count above zero is seen."""
    highest = max(counts, default=0)
    if highest == 0:
        return ""
    return "".join(_LEVELS[-(-count * (len(_LEVELS) - 1) // highest)] for count in counts)


def _size_lines(values: Mapping[str, float], base: str) -> list[_Line]:
    lines = []
    if "n_rows" in values:
        lines.append(_Line("rows", f"{values['n_rows']:,.0f}"))
    if "n_rows_sampled" in values:
        sample = f"{values['n_rows_sampled']:,.0f} rows"
        if "n_tokens_sampled" in values:
            sample += f", {values['n_tokens_sampled']:,.0f} tokens"
        lines.append(_Line(f"read by {base}", sample))
    return lines


def _length_lines(fingerprint: Fingerprint) -> list[_Line]:
    values = fingerprint.values
    lines = []
    for side, name in (("prompt", "prompt"), ("response", "response"), ("total", "both")):
        key = f"{side}_tokens"
        if f"{key}_mean" not in values:
            continue
        figure = f"{_number(values[f'{key}_mean'])} mean"
        if f"{key}_sd" in values:
            figure += f", sd {_number(values[f'{key}_sd'])}"
        if f"{key}_skew" in values:
            figure += f", skew {_number(values[f'{key}_skew'])}"
        figure += _span(values, key)
        # Edges of whole numbers lie half-way between them.
        lines.append(_Line(name, figure, _picture(fingerprint.histograms.get(key), inset=0.5)))
    return lines + _lines(values, [("response_prompt_ratio", "response ÷ prompt", _number)])


def _label_lines(values: Mapping[str, float]) -> list[_Line]:
    lines = []
    if "is_classification" in values:
        kind = "classification" if values["is_classification"] else "generation (no label set)"
        lines.append(_Line("kind", kind))
    if "label_entropy" in values:
        evenness = ""
        if "label_entropy_normalised" in values:
            evenness = f" ({_share(values['label_entropy_normalised'])} of an even spread)"
        lines.append(_Line("entropy", f"{_number(values['label_entropy'])} nats{evenness}"))
    return lines + _lines(
        values,
        [
            ("n_labels", "labels", _number),
            ("label_share_max", "largest share", _share),
            ("label_imbalance_ratio", "commonest ÷ rarest", _number),
            ("label_length_eta2", "length explained by label (η²)", _share),
        ],
    )


def _perplexity_lines(fingerprint: Fingerprint) -> list[_Line]:
    values = fingerprint.values
    lines = []
    for side, name in (("response", "response"), ("prompt", "prompt"), ("total", "both")):
        if f"{side}_ppl" not in values:
            continue
        figure = f"perplexity {_with_error(values, f'{side}_ppl')}"
        if f"{side}_bits_per_byte" in values:
            figure += f", {_number(values[f'{side}_bits_per_byte'])} bits per byte"
        lines.append(_Line(name, figure))
    if "response_nll_mean" in values:
        figure = f"{_number(values['response_nll_mean'])} nats mean"
        figure += _span(values, "response_nll")
        picture = _picture(fingerprint.histograms.get("response_nll"))
        lines.append(_Line("per response token", figure, picture))
    return lines


def _base_lines(values: Mapping[str, float]) -> list[_Line]:
    lines = []
    if "base_score" in values:
        lines.append(_Line("balanced accuracy", _with_error(values, "base_score")))
    return lines + _lines(
        values,
        [
            (
                "base_label_cross_entropy",
                "cross-entropy over labels",
                lambda x: f"{_number(x)} nats",
            ),
            ("base_label_share_max", "share of its favourite label", _share),
            ("base_label_entropy_normalised", "evenness of its picks", _share),
            ("base_label_tv", "total variation from gold", _share),
        ],
    )


def _language_lines(values: Mapping[str, float]) -> list[_Line]:
    return _lines(
        values,
        [
            ("mattr", "types ÷ tokens per 50 words", _number),
            ("zlib_ratio", "compressed ÷ raw bytes", _number),
            ("share_digits", "digits", _share),
            ("share_punctuation", "punctuation", _share),
            ("share_upper", "upper-case letters", _share),
            ("share_code", "words that look like code", _share),
            ("numbers_per_row", "numbers per prompt", _number),
            ("comparisons_per_row", "comparisons per prompt", _number),
            ("unit_conversions_per_row", "unit conversions per prompt", _number),
            ("questions_per_row", "questions per prompt", _number),
            ("steps_per_row", "steps per prompt", _number),
        ],
    )


def _duplicate_lines(values: Mapping[str, float]) -> list[_Line]:
    return _lines(
        values,
        [
            ("exact_duplicate_share", "exact", _share),
            ("near_duplicate_share", "exact or near", _share),
        ],
    )


def _embedding_lines(fingerprint: Fingerprint) -> list[_Line]:
    names = {
        "hidden_mid_mean": "hidden states at depth 0.6",
        "hidden_last_mean": "last hidden states",
        "minilm_mean": "MiniLM",
    }
    return [
        _Line(name, f"{len(fingerprint.vectors[key])} dimensions")
        for key, name in names.items()
        if key in fingerprint.vectors
    ]


def _label_bars(fingerprint: Fingerprint) -> Table:
    """Gold and base share of the commonest labels, side by side."""
    by_share = sorted(fingerprint.label_shares.items(), key=lambda item: -item[1])
    base_shares = fingerprint.base_label_shares
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for header in ("  label", "data", ""):
        table.add_column(header)
    if base_shares:
        table.add_column("base picks")
        table.add_column("")
    for label, share in by_share[:_MAX_LABELS]:
        cells = [f"  {_shortened(label)}", f"{_share(share):>6}", _bar(share)]
        if base_shares:
            picked = base_shares.get(label, 0.0)
            cells += [f"{_share(picked):>6}", _bar(picked)]
        table.add_row(*map(Text, cells))
    if len(by_share) > _MAX_LABELS:
        table.add_row(Text(f"  and {len(by_share) - _MAX_LABELS} more", style="dim"))
    return table


def _grid(lines: Iterable[_Line]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for line in lines:
        # Text, not markup: names and figures may hold brackets of the user's own.
        table.add_row(
            Text(f"  {_printable(line.name)}"), Text(line.figure), Text(line.picture, style="cyan")
        )
    return table


def _lines(values: Mapping[str, float], wanted: Sequence[tuple[str, str, _Format]]) -> list[_Line]:
    return [_Line(name, show(values[key])) for key, name, show in wanted if key in values]


def _span(values: Mapping[str, float], key: str) -> str:
    if f"{key}_q50" not in values:
        return ""
    low, middle, high = (_number(values[f"{key}_{level}"]) for level in ("q05", "q50", "q95"))
    return f", median {middle} (5–95 %: {low}–{high})"


def _picture(histogram: Histogram | None, *, inset: float = 0.0) -> str:
    if histogram is None:
        return ""
    low, high = _number(histogram.edges[0] + inset), _number(histogram.edges[-1] - inset)
    return f"{low} │{sparkline(histogram.counts)}│ {high}"


def _with_error(values: Mapping[str, float], key: str) -> str:
    error = values.get(f"{key}_se")
    return _number(values[key]) + ("" if error is None else f" ± {_number(error)}")


def _bar(share: float) -> str:
    return "█" * round(share * _BAR_WIDTH) or ("▏" if share > 0 else "")


def _shortened(label: str) -> str:
    text = _printable(label).replace("\n", " ")
    return text if len(text) <= _MAX_LABEL_WIDTH else text[: _MAX_LABEL_WIDTH - 1] + "…"


def _printable(text: str) -> str:
    # A label could else send the terminal escape codes.
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text)


def _number(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
