"""The command line: parse, call, print. Nothing heavy is imported before a command needs it."""

from adapt_lora.cli.commands import app, main

__all__ = ["app", "main"]
