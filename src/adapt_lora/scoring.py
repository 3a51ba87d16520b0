"""Where `adapt_lora.model.scoring` was before; scripts that name it here go on working."""

from adapt_lora.model.scoring import (
    encode_row,
    encode_rows,
    generate,
    read_pass,
    score_labels,
)

__all__ = ["encode_row", "encode_rows", "generate", "read_pass", "score_labels"]
