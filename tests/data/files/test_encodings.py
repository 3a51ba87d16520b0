import gzip

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
    "cp1253": ("WINDOWS-1253", "Πολύ ωραία ταινία"),
    "cp1255": ("WINDOWS-1255", "הסרט היה טוב מאוד"),
    "cp1256": ("WINDOWS-1256", "كان الفيلم رائعا"),
    "cp1250": ("WINDOWS-1250", "Zażółć gęślą jaźń"),
    "cp866": ("CP866", "Привет, как дела"),
    "iso2022_jp": ("ISO-2022-JP", "これはとても良い映画です"),
    "utf-7": ("UTF-7", "größer als naïv"),
}


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32"),
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


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf16_without_its_mark_is_known_where_few_letters_are_ascii(tmp_path, codec):
    path = tmp_path / "mine.csv"
    rows = "".join(f"这是一部非常好的电影我们都很喜欢看,{'ab'[i % 2]}\n" for i in range(10))
    path.write_bytes(f"text,label\n{rows}".encode(codec))
    dataset = read_dataset(path)
    assert dataset.rows[0].prompt == "这是一部非常好的电影我们都很喜欢看"
    assert dataset.encoding == "UTF-16"


@pytest.mark.parametrize("text", ["2+2 is 4, C++ is +1", "a+b-c", "x\x1b[31mred\x1b[0m", "+-+-"])
def test_ascii_with_pluses_and_escapes_is_ascii(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(f'text,label\n"{text}",a\n"{text}",b\n')
    assert read_dataset(path).rows[0].prompt == text


def test_letters_spelt_in_ascii_are_refused_even_where_skips_are_allowed(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes("text,label\ngrößer,a\nnaïf,b\n".encode("utf-7"))
    with pytest.raises(DatasetError, match="looks like UTF-7"):
        read_dataset(path, allow_skips=True)


def test_a_gzipped_file_is_unzipped_before_it_is_converted(tmp_path):
    path = tmp_path / "my rows.csv.gz"
    path.write_bytes(gzip.compress("text,label\ncafé,a\n".encode("cp1252")))
    command = "gunzip -c 'my rows.csv.gz' | iconv -f WINDOWS-1252 -t UTF-8 > 'utf8-my rows.csv'"
    with pytest.raises(DatasetError) as caught:
        read_dataset(path)
    assert command in str(caught.value)


@pytest.mark.parametrize(
    ("codec", "name", "text"),
    [
        ("cp1256", "WINDOWS-1256", "فيلم سيء"),
        ("cp1253", "WINDOWS-1253", "ΚΑΛΗ ΤΑΙΝΙΑ"),
        ("cp1251", "WINDOWS-1251", "ХОРОШИЙ ФИЛЬМ"),
    ],
)
def test_few_letters_and_capitals_will_do(tmp_path, codec, name, text):
    path = tmp_path / "mine.csv"
    path.write_bytes(f"text,label\n{text},a\n{text},b\n".encode(codec))
    with pytest.raises(DatasetError, match=f"looks like {name}: as that, line 2 would read"):
        read_dataset(path)
