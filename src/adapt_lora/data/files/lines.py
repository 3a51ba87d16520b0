"""Plain text: a prompt on each line."""

from adapt_lora.data.files.content import Content
from adapt_lora.data.files.json import read_json
from adapt_lora.data.table import Table
from adapt_lora.errors import DatasetError

_SEPARATORS = ("\t", ",", ";", "|")
# What the header of a table calls its columns; as words of a prompt they do not stand alone.
_HEADS = frozenset(
    {
        *("prompt", "prompts", "text", "sentence", "question", "query", "instruction", "input"),
        *("utterance", "review", "comment", "message", "label", "labels", "class", "category"),
        *("intent", "sentiment", "response", "answer", "completion", "output", "target"),
    }
)


def read_lines(content: Content) -> Table:
    """A record for each line that is not blank; JSON where the first line is an object or array.

    Raises:
        DatasetError: The lines are the rows of a table: which cells are the prompt can't be told.
    """
    # A prompt may begin with a bracket ("[INST] ..."): only what can be read as JSON is JSON.
    if content.text.lstrip()[:1] in ("{", "["):
        try:
            table = read_json(content)
        except DatasetError:
            table = None
        if table is not None and table.records:
            return table
    lines = [
        (number, line.strip())
        for number, line in enumerate(content.text.split("\n"), start=1)
        if line.strip()
    ]
    suffix = _suffix_of_table([line for _, line in lines])
    if suffix is not None:
        raise DatasetError(
            f"{content.path}: its lines look like the rows of a table, and a .txt is read as a "
            f"prompt on each line. Name it {suffix}, with a header line such as text,label."
        )
    records = [(number, {"prompt": line}) for number, line in lines]
    return Table("text", records, encoding=content.encoding.name)


def _suffix_of_table(lines: list[str]) -> str | None:
    """What a table's name would end in; None where these are no lines of one."""
    n_tabs = {line.count("\t") for line in lines}
    if len(lines) > 1 and len(n_tabs) == 1 and 0 not in n_tabs:
        return ".tsv"
    heads = ([cell.strip(' "').lower() for cell in lines[0].split(by)] for by in _SEPARATORS)
    is_headed = any(len(cells) > 1 and _HEADS.issuperset(cells) for cells in heads)
    return ".csv" if is_headed and len(lines) > 1 else None
