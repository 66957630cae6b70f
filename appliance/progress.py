"""What a person sees of long work: one line a step, with its time, on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Show `text` with a spinner while the block runs, then the seconds it took."""
    begin = time.monotonic()
    try:
        with console.status(text):
            if not console.is_terminal:
                console.print(f"  … {text}", markup=False)
            yield
    except BaseException:
        console.print(f"[red]✗[/] {text}")
        raise
    console.print(f"[green]✓[/] {text} [dim]({time.monotonic() - begin:.1f} s)[/]")
