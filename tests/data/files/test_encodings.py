import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError

ROWS = "text,label\n" + "".join(f"größer {i} — l'été,{'ab'[i % 2]}\n" for i in range(10))
FOREIGN = {
    # a codec, its name, a line of text
    "cp1252": ("WINDOWS-1252", "café très bon – «ok»"),
    "latin-1": ("WINDOWS-1252", "señor niño coração"),
    "cp1251": ("WINDOWS-1251", "Привет, как дела"),
    "koi8_r": ("KOI8-R", "Привет, как дела"),
    "shift_jis": ("SHIFT_JIS", "これはとても良い映画です"),
    "euc_jp": ("EUC-JP", "これはとても良い映画です"),
    "gb2312": ("GB18030", "这是一部非常好的电影"),
    "big5": ("BIG5", "這是一部非常好的電影"),
    "euc_kr": ("EUC-KR", "이 영화는 정말 좋았습니다"),
}


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
def test_unicode_is_read_in_each_of_its_forms(tmp_path, codec, name):
    path = tmp_path / "mine.csv"
    path.write_bytes(ROWS.encode(codec))
    dataset = read_dataset(path)
    assert dataset.rows[0].prompt == "größer 0 — l'été"
    assert (dataset.encoding, len(dataset.rows)) == (name, 10)
    assert (f"CSV in {name}," in dataset.describe()) == (name != "UTF-8")


@pytest.mark.parametrize("codec", FOREIGN)
def test_another_encoding_is_refused_by_name_with_what_to_do(tmp_path, codec):
    name, text = FOREIGN[codec]
    path = tmp_path / "mine.csv"
    path.write_bytes(f"text,label\nplain,a\n{text},b\n".encode(codec))
    with pytest.raises(DatasetError, match="not UTF-8 text") as caught:
        read_dataset(path)
    assert f"looks like {name}: as that, line 3 would read '{text}" in str(caught.value)
    assert f"iconv -f {name} -t UTF-8 mine.csv" in str(caught.value)


def test_a_few_damaged_bytes_among_good_ones_cost_only_their_rows(tmp_path):
    path = tmp_path / "mine.csv"
    rows = [f"größer {i},{'ab'[i % 2]}\n".encode() for i in range(40)]
    path.write_bytes(b"text,label\n" + b"".join(rows) + b"caf\xe9,a\n")
    dataset = read_dataset(path)
    assert [row.line for row in dataset.skipped] == [42]
    assert dataset.encoding == "UTF-8"


def test_where_skips_are_allowed_the_rows_of_another_encoding_are_skipped_and_said(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes("text,label\nplain,a\ncafé,b\nmore,a\n".encode("cp1252"))
    dataset = read_dataset(path, allow_skips=True)
    assert [row.prompt for row in dataset.rows] == ["plain", "more"]
    assert dataset.encoding == "WINDOWS-1252"
    assert "not UTF-8 but perhaps WINDOWS-1252" in dataset.describe()
