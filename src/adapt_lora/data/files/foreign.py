"""Files that hold no rows as they are: archives, workbooks, other programs' own formats."""

import shlex

_BY_PANDAS = "or in Python `pandas.{reader}(FILE).to_json(OUT, orient='records', lines=True)`"
_WORKBOOK = "Save its sheet as CSV (UTF-8), " + _BY_PANDAS.format(reader="read_excel") + "."
# What a file begins with, what it then is, and what to do; {file} stands for its name.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first: `zstd -d {file}`."),
    (b"\xfd7zXZ", "compressed with xz", "Unpack it first: `xz -dk {file}`."),
    (b"BZh9", "compressed with bzip2", "Unpack it first: `bzip2 -dk {file}`."),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "Unpack it first: `lz4 -d {file}`."),
    (b"\x1f\x8b", "gzipped twice", "Unpack it once: `gunzip -k {file}`."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it first: `7z x {file}`."),
    (b"Rar!", "a RAR archive", "Unpack it first: `unrar x {file}`."),
    (b"\xd0\xcf\x11\xe0", "an old Office file, perhaps an Excel workbook", _WORKBOOK),
    (b"SQLite format 3\0", "an SQLite database", "Write its table as CSV or JSONL first."),
    (b"%PDF-", "a PDF", "Save the data as JSONL or CSV."),
    (b"\x93NUMPY", "a numpy array", "Write its rows as JSONL or CSV."),
    (b"\x89HDF", "an HDF5 file", "Write its rows as JSONL, CSV or Parquet."),
    (b"Obj\x01", "an Avro file", "Write it as Parquet or JSONL."),
    (b"\x80\x04\x95", "a Python pickle", "Write its rows as JSONL or Parquet."),
    (b"\x80\x05\x95", "a Python pickle", "Write its rows as JSONL or Parquet."),
    (b"<?xml", "XML", "Write its rows as JSONL or CSV."),
)
# Zip archives that are more than that: how their files end, and what stands inside.
_ZIPS: tuple[tuple[tuple[str, ...], bytes, str, str], ...] = (
    ((".xlsx", ".xlsm", ".xlsb"), b"xl/workbook", "an Excel workbook", _WORKBOOK),
    ((".ods",), b"opendocument.spreadsheet", "a spreadsheet", _WORKBOOK),
    ((".docx",), b"word/document", "a Word document", "Save the data as JSONL or CSV."),
    ((".npz",), b".npy", "a file of numpy arrays", "Write its rows as JSONL or CSV."),
    ((".pt", ".pth", ".bin"), b"data.pkl", "a file of PyTorch", "Write its rows as JSONL or CSV."),
)


def describe_foreign(data: bytes, *, name: str, suffix: str) -> str | None:
    """What a file is that is no data file, and what to do, as the end of a sentence about it.

    Args:
        data: What it holds.
        name: What it is called.
        suffix: The end of its name, in lower case.
    """
    file = shlex.quote(name)
    if data.startswith(b"PK\x03\x04"):
        for suffixes, inside, what, what_next in _ZIPS:
            if suffix in suffixes or inside in data:
                return f"{what}, not text. {what_next}"
        return f"a zip archive: unpack it first (`unzip {file}`)."
    if data[257:262] == b"ustar":
        return f"a tar archive: unpack it first (`tar -xf {file}`)."
    for mark, what, what_next in _KINDS:
        if data.startswith(mark):
            return f"{what}, not text. {what_next.format(file=file)}"
    return None
