import importlib.util
import subprocess
import sys
from dataclasses import dataclass

import pytest

from adapt_lora.registry.fingerprint import fingerprint_dataset, linguistics
from adapt_lora.registry.fingerprint.linguistics import (
    DEPENDENCIES,
    PARTS_OF_SPEECH,
    english_pipeline,
    linguistics_part,
)


@dataclass(frozen=True)
class Word:
    text: str
    pos_: str
    dep_: str

    @property
    def is_space(self):
        return self.text.isspace()


TAGS = {"dogs": ("NOUN", "nsubj"), "bark": ("VERB", "ROOT"), "loudly": ("ADV", "odd")}


class Dictionary:
    """A pipeline that looks each word up; it keeps the texts that it was given."""

    def __init__(self, tags=TAGS):
        self.tags = tags
        self.texts = []

    def pipe(self, texts):
        for text in texts:
            self.texts.append(text)
            words = text.replace("\n", " \n ").split(" ")
            yield [Word(w, *self.tags.get(w, ("X", "dep"))) for w in words if w]


def test_shares_are_of_all_tokens_but_spaces():
    values = linguistics_part(["dogs bark"], ["loudly bark"], pipeline=Dictionary()).values
    assert values["pos_share_verb"] == 0.5
    assert values["pos_share_noun"] == values["pos_share_adv"] == 0.25
    assert values["pos_share_det"] == 0
    assert values["dep_share_root"] == 0.5
    assert values["dep_share_other"] == 0.25
    assert sum(values[f"pos_share_{tag}"] for tag in PARTS_OF_SPEECH) == 1
    assert sum(values[f"dep_share_{tag}"] for tag in (*DEPENDENCIES, "other")) == 1


def test_a_pipeline_without_tagger_gives_a_note_instead_of_zeros():
    part = linguistics_part(["dogs bark"], [""], pipeline=Dictionary(dict.fromkeys(TAGS, ("", ""))))
    assert not part.values
    assert [note.split(":")[0] for note in part.notes] == [
        "The spaCy pipeline has no tagger",
        "The spaCy pipeline has no parser",
    ]


def test_rows_and_their_lengths_are_capped():
    pipeline = Dictionary()
    linguistics_part(["dogs " * 1000] * 500, ["bark"] * 500, pipeline=pipeline)
    assert len(pipeline.texts) == 100
    assert max(map(len, pipeline.texts)) == 1000


def test_without_a_pipeline_the_note_says_how_to_get_one():
    part = linguistics_part(["dogs bark"], [""], pipeline=None)
    assert not part.values
    (note,) = part.notes
    assert "pip install 'adapt-lora[linguistics]'" in note


def test_the_fingerprint_of_a_dataset_takes_it_in_when_asked(tmp_path, monkeypatch):
    from adapt_lora.data import read_dataset

    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "dogs bark", "response": "loudly"}\n' * 3)
    rows = read_dataset(path)
    monkeypatch.setattr("adapt_lora.registry.fingerprint.dataset.english_pipeline", Dictionary)
    asked = fingerprint_dataset(rows, base=None, linguistics="auto")
    assert asked.values["pos_share_noun"] == pytest.approx(1 / 3)
    assert not any("pos_share" in key for key in fingerprint_dataset(rows, base=None).values)
    monkeypatch.setattr("adapt_lora.registry.fingerprint.dataset.english_pipeline", lambda: None)
    without = fingerprint_dataset(rows, base=None, linguistics="auto")
    assert linguistics.HOW_TO_GET in without.notes
    assert without.values.keys() < asked.values.keys()


def test_the_smallest_english_pipeline_is_taken(monkeypatch):
    class Point:
        def __init__(self, name):
            self.name = name

    names = ("de_core_news_sm", "en_core_web_trf", "en_core_web_sm", "en_core_web_md")
    monkeypatch.setattr(linguistics, "entry_points", lambda group: [Point(n) for n in names])
    monkeypatch.setattr(linguistics, "_load", lambda name: name)
    assert english_pipeline() == "en_core_web_sm"


def test_spacy_is_not_imported_where_no_pipeline_is_installed():
    code = (
        "import sys\nfrom adapt_lora.registry.fingerprint import linguistics as l\n"
        "l.entry_points = lambda group: []\n"
        "assert l.english_pipeline() is None\nprint('spacy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_pipeline_that_cant_be_loaded_counts_as_absent():
    linguistics._load.cache_clear()
    assert linguistics._load("en_no_such_pipeline") is None


@pytest.mark.skipif(importlib.util.find_spec("spacy") is None, reason="spaCy is not installed")
def test_spacys_own_pipelines_obey_the_protocol():
    import spacy

    blank = spacy.blank("en")
    assert linguistics_part(["Dogs bark."], ["Yes."], pipeline=blank).notes
    ruler = blank.add_pipe("attribute_ruler")
    ruler.add(patterns=[[{"LOWER": "dogs"}]], attrs={"POS": "NOUN"})
    ruler.add(patterns=[[{"LOWER": {"NOT_IN": ["dogs"]}}]], attrs={"POS": "VERB"})
    values = linguistics_part(["Dogs bark"], [""], pipeline=blank).values
    assert values["pos_share_noun"] == values["pos_share_verb"] == 0.5
