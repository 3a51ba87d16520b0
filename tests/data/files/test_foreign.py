import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile

import pytest

from adapt_lora.data import read_dataset
from adapt_lora.errors import DatasetError

ROW = b'{"prompt": "p", "response": "r"}\n'


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, ROW)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("rows.jsonl")
        info.size = len(ROW)
        archive.addfile(info, io.BytesIO(ROW))
    return buffer.getvalue()


FOREIGN = {
    # file name, bytes, words of the sentence
    "zip": ("a b.zip", zipped("rows.jsonl"), r"a zip archive: unpack it first \(`unzip 'a b.zip'`"),
    "Excel": ("a.xlsx", zipped("xl/workbook.xml"), r"an Excel workbook.*sheet as CSV.*read_excel"),
    "Excel named .csv": ("a.csv", zipped("xl/workbook.xml"), "an Excel workbook"),
    "old Excel": ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "an Excel workbook"),
    "numpy": ("a.npz", zipped("arr_0.npy"), "a file of numpy arrays"),
    "xz": ("a.jsonl.xz", lzma.compress(ROW), r"compressed with xz.*`xz -dk a.jsonl.xz`"),
    "bzip2": ("a.jsonl.bz2", bz2.compress(ROW), r"with bzip2.*`bzip2 -dk a.jsonl.bz2`"),
    "zstd": ("a.jsonl.zst", b"\x28\xb5\x2f\xfd\0abc", "compressed with zstd"),
    "tar": ("a.tar.gz", tarred(), r"a tar archive.*`tar -xf a.tar.gz`"),
    "gzipped twice": ("a.jsonl.gz", gzip.compress(gzip.compress(ROW)), "is gzipped twice"),
    "PDF": ("a.jsonl", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", "is a PDF"),
    "XML": ("a.csv", b'<?xml version="1.0"?><rows/>', "is XML"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_of_another_kind_is_named_with_what_to_do(tmp_path, case):
    name, data, words = FOREIGN[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError, match=words) as caught:
        read_dataset(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_database_is_named(tmp_path):
    with sqlite3.connect(tmp_path / "rows.db") as connection:
        connection.execute("create table rows (text)")
    with pytest.raises(DatasetError, match="an SQLite database"):
        read_dataset(tmp_path / "rows.db")
