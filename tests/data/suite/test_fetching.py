"""Fetching public files: kept once they are there, and a sentence for each way to fail."""

import pytest

from adapt_lora.data.suite import RowSource, SourceFetcher, read_suite_task, suite_tasks
from adapt_lora.data.suite.formats import read_records
from adapt_lora.data.suite.rows import build_rows
from adapt_lora.errors import DatasetError
from tests.data.suite.made_up import contents_of

SST2, TWEETS = (next(t for t in suite_tasks() if t.name == n) for n in ("sst2", "tweet_emotion"))


def test_a_file_is_fetched_once(github, fetcher):
    github.serve(SST2, b"1 a\n")
    assert not fetcher.has(SST2)
    assert fetcher.fetch(SST2) == fetcher.fetch(SST2) == [b"1 a\n"]
    assert len(github.asked) == 1
    assert fetcher.has(SST2)
    assert [path.name[0] for path in fetcher.cache.iterdir()] != ["."]


def test_what_was_fetched_before_a_failure_is_kept(github, fetcher):
    github.serve(TWEETS, b"hello\n")
    with pytest.raises(
        DatasetError, match=r"tweet_emotion: http://\S+test_labels.txt is not there"
    ):
        fetcher.fetch(TWEETS)
    github.serve(TWEETS, b"hello\n", b"1\n")
    assert fetcher.fetch(TWEETS) == [b"hello\n", b"1\n"]
    assert [path.rpartition("/")[2] for path in github.asked].count("test_text.txt") == 1


def test_a_file_that_is_gone_is_named_with_what_to_do(fetcher):
    with pytest.raises(DatasetError, match=r"\(404\): the repository was moved .* ADAPT_SUITE_DIR"):
        fetcher.fetch(SST2)


def test_a_rate_limit_is_waited_for(github, tmp_path):
    waits = []
    fetcher = SourceFetcher(tmp_path, github.url, sleep=waits.append)
    github.serve(SST2, b"1 a\n")
    place = github.path(SST2, SST2.files[0])
    github.answers[place] = [(429, {"Retry-After": "7"}, b""), (503, {}, b"")]
    assert fetcher.fetch(SST2) == [b"1 a\n"]
    assert waits == [7.0, 2.0]


def test_a_rate_limit_of_an_hour_is_told(github, fetcher):
    place = github.path(SST2, SST2.files[0])
    github.answers[place] = [(429, {"Retry-After": "3600"}, b"")]
    with pytest.raises(DatasetError, match=r"429\)\. Try again in 3600 s, or set ADAPT_SUITE_DIR"):
        fetcher.fetch(SST2)
    assert len(github.asked) == 1


def test_a_reply_that_breaks_off_is_asked_for_again_and_never_kept(github, fetcher):
    github.serve(SST2, b"1 a\n")
    place = github.path(SST2, SST2.files[0])
    cut = (200, {"Content-Length": "400"}, b"1 ")
    github.answers[place] = [cut]
    assert fetcher.fetch(SST2) == [b"1 a\n"]
    fetcher.forget(SST2)
    github.answers[place] = [cut] * 3
    with pytest.raises(DatasetError, match=r"sst2: .* broke off"):
        fetcher.fetch(SST2)
    assert list(fetcher.cache.iterdir()) == []


def test_without_a_network_every_task_says_so_at_once(github, tmp_path):
    fetcher = SourceFetcher(tmp_path, "http://127.0.0.1:9")
    for task in (SST2, TWEETS):
        with pytest.raises(DatasetError, match=rf"{task.name}: .*Check the network, or set ADAPT"):
            fetcher.fetch(task)


def test_a_host_that_is_no_address_is_named(tmp_path):
    with pytest.raises(DatasetError, match="ADAPT_SUITE_HOST nowhere: not an address"):
        SourceFetcher(tmp_path, "nowhere").fetch(SST2)


def test_a_cache_that_cant_be_written_is_named(github, tmp_path):
    github.serve(SST2, b"1 a\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/cache.*ADAPT_CACHE_DIR"):
        SourceFetcher(tmp_path / "file" / "cache", github.url).fetch(SST2)


@pytest.mark.parametrize("content", [b"<html>Sign in</html>", b"1 another\n0 copy\n", b"\xff\xfe"])
def test_another_copy_is_refused_with_counts_and_not_kept(content, github, fetcher):
    github.serve(SST2, content)
    with pytest.raises(DatasetError, match=r"sst2: only 0 of the 200 rows .* ADAPT_SUITE_DIR"):
        read_suite_task(SST2, RowSource(fetcher))
    assert not fetcher.has(SST2)


def test_a_page_in_place_of_json_is_not_kept(github, fetcher):
    task = next(task for task in suite_tasks() if task.format == "jsonl")
    github.serve(task, b"<html>Sign in</html>")
    with pytest.raises(DatasetError, match="Something else was sent"):
        read_suite_task(task, RowSource(fetcher))
    assert not fetcher.has(task)


def test_a_few_lost_rows_are_told_and_more_are_an_error(github, fetcher, known_rows):
    lines = [f"{i % 2} film {i}\n".encode() for i in range(20)]
    rows = list(build_rows(SST2, read_records(SST2, [b"".join(lines)])))
    known_rows("sst2", rows)
    github.serve(SST2, b"".join(lines[:18]))
    dataset = read_suite_task(SST2, RowSource(fetcher))
    assert dataset.rows == tuple(rows[:18])
    assert dataset.notes[0].startswith("2 of the 20 rows of the suite are not in harvardnlp/")
    fetcher.forget(SST2)
    github.serve(SST2, b"".join(lines[:17]))
    with pytest.raises(DatasetError, match="only 17 of the 20 rows"):
        read_suite_task(SST2, RowSource(fetcher))


def test_made_up_contents_are_not_the_suites_rows(github, fetcher):
    github.serve(TWEETS, *contents_of("tweet_emotion"))
    with pytest.raises(DatasetError, match="another copy"):
        read_suite_task(TWEETS, RowSource(fetcher))
