"""Writes `src/messages.ts`: the types of what a page may ask for, out of the Python that answers.

A test writes it again and compares.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tapml_nb.widgets.messages import COMMANDS  # noqa: E402

NAMES = {int: "number", float: "number", str: "string", bool: "boolean", type(None): "null"}


def text_of(hint: Any, known: dict[str, str]) -> str:
    """A type in TypeScript; the interfaces that it needs join those that are known."""
    of, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return "unknown"
    if hint is None or hint in NAMES:
        return NAMES[hint or type(None)]
    if is_typeddict(hint):
        return interface(hint, known)
    if of is Literal:
        return " | ".join(f'"{value}"' for value in inner)
    parts = [text_of(part, known) for part in inner]
    if of is types.UnionType:
        return " | ".join(parts)
    if of is list:
        return f"({parts[0]})[]" if "|" in parts[0] else f"{parts[0]}[]"
    if of is tuple:
        return f"[{', '.join(parts)}]"
    if of is dict:
        return f"Record<{parts[0]}, {parts[1]}>"
    raise TypeError(f"no type of TypeScript's for {hint}")


def interface(kind: Any, known: dict[str, str]) -> str:
    """An interface's name; what it is joins those that are known."""
    if kind.__name__ not in known:
        lines = []
        for name, hint in get_type_hints(kind, include_extras=True).items():
            optional = get_origin(hint) is NotRequired
            value = text_of(get_args(hint)[0] if optional else hint, known)
            lines.append(f"  {name}{'?' if optional else ''}: {value};")
        text = block(f"export interface {kind.__name__} {{", lines, "}")
        if not lines:
            text = f"export type {kind.__name__} = Record<string, never>;"
        known[kind.__name__] = comment(kind.__doc__) + text
    return kind.__name__


def comment(text: str | None) -> str:
    words = " ".join((text or "").replace("``", "`").split())
    if len(words) < 90:
        return f"/** {words} */\n" if words else ""
    return "\n".join(["/**", *(f" * {line}" for line in wrap(words, 96)), " */\n"])


def block(begin: str, lines: list[str], end: str) -> str:
    return "\n".join([begin, *lines, end])


def generate() -> str:
    """The whole file."""
    known: dict[str, str] = {}
    commands = [
        f"  {name}: {{ arguments: {text_of(command.arguments, known)}; "
        f"answer: {text_of(command.answer, known)} }};"
        for name, command in COMMANDS.items()
    ]
    questions = [f'  "{name}",' for name, command in COMMANDS.items() if command.question]
    patience = [f"  {name}: {command.patience}," for name, command in COMMANDS.items()]
    blocks = [
        "// Made by ../messages.py of tapml_nb/widgets/messages.py: change that one.",
        *known.values(),
        block("export interface Commands {", commands, "}"),
        comment("What changes nothing, so that it may be asked again.")
        + block("export const QUESTIONS = new Set<keyof Commands>([", questions, "]);"),
        comment("Seconds of silence after which there will be no answer.")
        + block("export const PATIENCE: Record<keyof Commands, number> = {", patience, "};"),
    ]
    return "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    (HERE / "src" / "messages.ts").write_text(generate())
