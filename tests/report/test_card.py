import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

from markdown_it import MarkdownIt

from adapt_lora.registry.records import AdapterRecord, DatasetRecord, Fingerprint
from adapt_lora.report.card import adapter_card_html, adapter_card_markdown
from adapt_lora.report.transfer import adapter_gains
from adapt_lora.report.wording import one_line
from tests.report.conftest import BASE, HOSTILE


def test_the_note_tells_training_data_gains_and_how_to_fetch(matrix, record):
    note = adapter_card_markdown(record, adapter_gains(matrix, record))
    assert "sst2: 1,200 rows" in note
    assert "| sst2-test (own) | balanced accuracy | 51.2 | 88.3 | +37.1 | 4.2 | 100 |" in note
    assert "adapt pull sentiment-lora" in note
    assert "Trained on 1,200 rows only." in note


def test_the_note_of_an_adapter_without_data_invents_none(record):
    bare = replace(record, dataset=None, group=None, fingerprint=Fingerprint(), has_weights=False)
    note = adapter_card_markdown(bare)
    assert "Unknown: registered without its training data." in note
    assert "Not measured on any task yet." in note
    assert "adapt pull" not in note


def test_scores_that_came_without_error_and_rows_show_gaps(matrix, record):
    cells = tuple(replace(cell, se=None, n=None) for cell in matrix.cells)
    published = replace(record, params={"method": "full"}, has_weights=False)
    gains = adapter_gains(replace(matrix, cells=cells), published)
    note = adapter_card_markdown(published, gains)
    assert "| sst2-test (own) | balanced accuracy | 51.2 | 88.3 | +37.1 | · | · |" in note
    assert "Full fine-tune for" in note
    html = adapter_card_html(published, gains)
    assert "+37.1" in html
    assert "Full fine-tune for" in html
    assert "LoRA adapter" not in html


def test_hostile_names_stay_text_in_the_note(record):
    hostile = replace(
        record,
        name=HOSTILE,
        dataset=DatasetRecord(HOSTILE, "d", "g", 3, HOSTILE),
        params={HOSTILE: HOSTILE},
        warnings=(HOSTILE,),
    )
    html = rendered(adapter_card_markdown(hostile))
    assert f"<h1>{escape(one_line(HOSTILE), quote=False)}</h1>" in html
    assert set(tags_of(html)).isdisjoint({"script", "a", "img", "em"})
    # The row of the hostile setting keeps its two columns.
    assert html.count(f"<td>{escape(one_line(HOSTILE), quote=False)}</td>") == 2
    assert "<h1>end</h1>" not in html


def test_a_name_can_not_close_the_code_block(record):
    note = adapter_card_markdown(replace(record, name="x\n```\n# big"))
    assert [line for line in note.splitlines() if line.startswith("```")] == ["```", "```"]


def test_the_page_holds_all_parts_and_is_well_formed(matrix, record):
    html = adapter_card_html(record, adapter_gains(matrix, record))
    tags = tags_of(html)
    assert tags.count("svg") == 6 + 3  # a strip per gain, a histogram per distribution
    assert "norm relative" in html
    assert "own training data" in html
    assert "+37.1" in html


def test_hostile_names_stay_text_on_the_page(matrix, record):
    hostile = replace(
        record,
        name=HOSTILE,
        base=replace(BASE, name=HOSTILE),
        params={HOSTILE: HOSTILE},
        warnings=("<img src=x onerror=alert(1)>",),
        fingerprint=Fingerprint(label_shares={HOSTILE: 1.0}, notes=(HOSTILE,)),
    )
    tags = tags_of(adapter_card_html(hostile, adapter_gains(matrix, record)))
    assert "script" not in tags
    assert "img" not in tags


def test_the_page_loads_nothing(record):
    html = adapter_card_html(record)
    assert not re.search(r"(src|href)\s*=|url\(|@import", html)


def rendered(markdown: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(markdown))


def tags_of(html: str) -> list[str]:
    """Start tags in order; fails where an element is closed that was not open."""
    void = {"meta", "br", "line", "circle", "path", "rect"}
    seen: list[str] = []
    still_open: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append(tag)
            if tag not in void:
                still_open.append(tag)

        def handle_startendtag(self, tag, attrs):
            seen.append(tag)

        def handle_endtag(self, tag):
            assert still_open.pop() == tag

    Reader().feed(html)
    assert not still_open
    return seen


def test_the_markdown_card_shows_training_traits_weights_and_behaviour():
    record = AdapterRecord(
        "a",
        "name",
        BASE,
        metrics={"train/n_rows": 200.0},
        traits={"T1": 1.25},
        weights={"delta_norm_relative": 0.031},
        behaviour={"hidden_shift_relative": 0.42},
    )
    text = adapter_card_markdown(record)
    for words in ("train/n\\_rows", "T1", "delta\\_norm\\_relative", "hidden\\_shift\\_relative"):
        assert words in text
    assert "## Traits" not in adapter_card_markdown(AdapterRecord("a", "name", BASE))
