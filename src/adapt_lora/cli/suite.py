"""Public tasks that come as definitions: `adapt suite`."""

from typing import Annotated

import typer

from adapt_lora.cli.options import JsonFlag
from adapt_lora.console import Console

SuiteNameOption = Annotated[
    str, typer.Option("--name", envvar="ADAPT_SUITE_NAME", help="Suite to list: core or labels.")
]


def suite(name: SuiteNameOption = "core", as_json: JsonFlag = False) -> None:
    """List the public tasks that `adapt evaluate --suite` measures; nothing is fetched."""
    from adapt_lora.data.suite import describe_cost, suite_tasks
    from adapt_lora.report.plain import suite_json
    from adapt_lora.report.tables import suite_table

    tasks = suite_tasks(name)
    console = Console(as_json)
    if as_json:
        console.print_json(suite_json(name, tasks))
        return
    console.show(suite_table(name, tasks))
    cost = describe_cost(sum(task.n_tokens for task in tasks))
    console.print_line(f"One adapter on all of them, at four characters a token: {cost}")
