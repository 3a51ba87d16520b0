"""Rows that a base model has read are not read again."""

import json
import shutil

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.model.base import open_base_model
from adapt_lora.registry.fingerprint import fingerprint_dataset, known_fingerprint


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def passes(monkeypatch):
    """The base model's passes over rows, one entry each."""
    from adapt_lora.model import scoring

    seen, read_pass = [], scoring.read_pass

    def counted(base, rows, **more):
        seen.append(len(rows))
        return read_pass(base, rows, **more)

    monkeypatch.setattr(scoring, "read_pass", counted)
    return seen


def rows(change=""):
    return [{"text": f"film {i}{change}", "label": ("good", "bad")[i % 2]} for i in range(12)]


def opened(folder):
    return open_base_model(folder, dtype="float32", device="cpu")


def known(dataset, base, *, max_tokens=2_000, seed=0):
    return known_fingerprint(dataset, base=base, max_tokens=max_tokens, seed=seed)


def test_the_second_time_nothing_is_read_and_no_weights_are_loaded(passes, tiny_base_dir):
    first = known(read_dataset(rows()), opened(tiny_base_dir))
    assert len(passes) == 1
    base = opened(tiny_base_dir)
    # Another name and another file of the same rows.
    assert known(read_dataset(rows(), name="other"), base) == first
    assert len(passes) == 1
    assert not {"model", "tokenizer"} & vars(base).keys()


def test_it_is_the_fingerprint_itself(tiny_base_dir, tiny_base):
    dataset = read_dataset(rows())
    found = fingerprint_dataset(dataset, base=tiny_base, max_tokens=2_000)
    for _ in range(2):
        assert known(dataset, opened(tiny_base_dir)) == found
    assert "hidden_mid_mean" in found.vectors


def test_whatever_decides_it_makes_another_one(passes, tiny_base_dir, tmp_path):
    base, dataset = opened(tiny_base_dir), read_dataset(rows())
    known(dataset, base)
    known(dataset, base, seed=1)
    known(dataset, base, max_tokens=1_000)
    known(read_dataset(rows(change=" ")), base)  # white space counts for tokens
    known(read_dataset([{**row, "label": "bad"} for row in rows()]), base)
    known(dataset, open_base_model(tiny_base_dir, dtype="bfloat16", device="cpu"))
    assert len(passes) == 6
    templated = shutil.copytree(tiny_base_dir, tmp_path / "templated")
    for file in (templated / "tokenizer_config.json", templated / "chat_template.jinja"):
        if file.is_file():
            file.write_text(file.read_text().replace("im_start", "im_end"))
    known(dataset, opened(templated))
    assert len(passes) == 7
    same = shutil.copytree(tiny_base_dir, tmp_path / "same")
    assert known(dataset, opened(same)).base == opened(same).identity
    assert len(passes) == 7


@pytest.mark.parametrize("damage", ["{", json.dumps({"content": "{}"})])
def test_a_damaged_file_is_ignored_and_written_anew(passes, tiny_base_dir, tmp_path, damage):
    dataset, base = read_dataset(rows()), opened(tiny_base_dir)
    first = known(dataset, base)
    (file,) = (tmp_path / "cache" / "fingerprints").glob("*.json")
    good = file.read_text()
    file.write_text(damage)
    assert known(dataset, base) == first
    assert (len(passes), file.read_text()) == (2, good)
