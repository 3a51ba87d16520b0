"""`torchrun -m adapt_lora.cli train …` starts it this way."""

from adapt_lora.cli import main

main()
