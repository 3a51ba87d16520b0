import sys
from types import ModuleType

import pyarrow
import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError
from tests.data.conftest import numbered


def fake_datasets(monkeypatch, *, splits: dict[str, list], names: list[str] | None = None) -> list:
    """A stand-in for the `datasets` library, which is no dependency; returns the calls it saw."""
    calls = []

    class FakeFeatures(dict):
        def to_dict(self):
            return dict(self)

    class FakeSplit(list):
        features = FakeFeatures()

        def with_format(self, form):
            assert form == "arrow"
            return pyarrow.Table.from_pylist(self)

    def load_dataset(path, name=None, revision=None, split=None):
        calls.append((path, name, revision, split))
        loaded = FakeSplit(splits[split])
        if names:
            loaded.features = FakeFeatures(label={"_type": "ClassLabel", "names": names})
        return loaded

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    module.get_dataset_split_names = lambda path, config_name=None, revision=None: list(splits)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_a_hub_dataset_gives_its_class_names(monkeypatch):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    calls = fake_datasets(monkeypatch, splits={"test": rows}, names=["neg", "pos"])
    dataset = read_dataset("stanfordnlp/imdb:plain@refs/pr/3", allow_skips=True)
    assert calls == [("stanfordnlp/imdb", "plain", "refs/pr/3", "test")]
    assert [row.label for row in dataset.rows] == ["pos", "neg"]
    assert dataset.skipped[0].line == 3  # -1 is a hidden label
    assert (dataset.name, dataset.source) == ("imdb-plain", "stanfordnlp/imdb:plain@refs/pr/3")


def test_what_stands_for_a_hub_split_is_said(monkeypatch):
    fake_datasets(monkeypatch, splits={"train": numbered(2), "validation": numbered(2)})
    note = "there is no split 'test', so 'validation' is read instead"
    assert read_dataset("org/name").notes[0] == note


def test_a_hub_split_may_be_named_or_is_the_one_nearest_to_a_test_split(monkeypatch):
    calls = fake_datasets(monkeypatch, splits={"validation": numbered(2), "extra": numbered(2)})
    read_dataset("org/name")
    read_dataset("org/name#extra")
    assert [call[3] for call in calls] == ["validation", "extra"]


def test_a_missing_hub_split_to_train_on_is_an_error(monkeypatch):
    fake_datasets(monkeypatch, splits={"test": numbered(2)})
    with pytest.raises(DatasetError, match=r"no split 'train' \(found: test\)"):
        read_dataset("org/name", split="train")


def test_a_hub_id_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DatasetError, match=r"org/name is not an existing path.*pip install datasets"
    ):
        read_dataset("org/name")


def test_a_hub_that_can_not_be_reached_is_one_sentence(monkeypatch):
    fake_datasets(monkeypatch, splits={"test": numbered(2)})

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nlong traceback")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", offline)
    with pytest.raises(
        DatasetError, match=r"can't be loaded: Couldn't reach the Hub .*\. Check"
    ) as caught:
        read_dataset("org/name")
    assert "\n" not in str(caught.value)
