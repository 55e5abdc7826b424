"""Tables of formatted text, and their output as Markdown, LaTeX (booktabs) and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from emi_ray.spreadsheets import safe_cell


@dataclass(frozen=True)
class TextTable:
    """A table of formatted text; the first cell of each row is its heading."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


_LATEX = {
    "\\": r"\textbackslash{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "…": r"\dots{}",
    "[": "{[}",  # a bracket or star after the end of a row would be read as its option
    "*": "{*}",
    "\u00a0": "~",
}
_LAST_OF_LATIN = "\u017f"
# Letters of the Latin blocks that pdflatex's T1 fonts lack.
_NOT_IN_T1 = "ĦħĸĿŀŉŦŧſ"
_PUNCTUATION = "—‘’“”„•†‡€"


def markdown(tables: Sequence[TextTable]) -> str:
    """Format all tables as one Markdown page."""
    return "\n".join(_markdown(table) for table in tables)


def latex_document(tables: Sequence[TextTable], title: str) -> str:
    """Format all tables as a complete LaTeX document; each is a ``table`` that can be copied into a paper."""
    parts = [_latex(table) for table in tables]
    return (
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n\\usepackage{graphicx}\n"
        "\\usepackage[margin=2cm]{geometry}\n"
        f"\\title{{{latex_text(title)}}}\n\\date{{}}\n\\begin{{document}}\n\\maketitle\n"
        + "\n".join(parts)
        + "\\end{document}\n"
    )


def csv_text(tables: Sequence[TextTable]) -> str:
    """Format all tables as one CSV text, with the title of the table in the first column of each row.

    Names from the corpus in titles and headings are escaped, so that a spreadsheet does not execute them as formulas.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *map(safe_cell, table.headings)])
        for name, *values in table.rows:
            writer.writerow([safe_cell(table.title), safe_cell(name), *values])
    return text.getvalue()


def latex_text(text: str) -> str:
    """Escape text for LaTeX.

    A character that the usual fonts of pdflatex lack (Chinese, Cyrillic, …) is replaced by its code point.
    """
    return "".join(_LATEX.get(letter) or _known_letter(letter) for letter in text)


def _known_letter(letter: str) -> str:
    is_latin = letter.isprintable() and letter <= _LAST_OF_LATIN and letter not in _NOT_IN_T1
    if is_latin or letter in _PUNCTUATION:
        return letter
    return " " if letter.isspace() else f"{{[}}U+{ord(letter):04X}]"


def _markdown(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = line(["---", *("---:" for _ in table.headings[1:])])
    lines = [f"## {table.title}", "", line(table.headings), rule, *map(line, table.rows), ""]
    return "\n".join([*lines, table.note, ""] if table.note else lines)


def _latex(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(latex_text(cell.replace("\n", " ")) for cell in cells) + r" \\"

    columns = "l" + "r" * (len(table.headings) - 1)
    rows = "\n".join(map(line, table.rows))
    note = f"\n\\par\\smallskip\\footnotesize {latex_text(table.note)}" if table.note else ""
    return (
        f"\\begin{{table}}[p]\n\\centering\n\\caption{{{latex_text(table.title)}}}\n"
        # Only a table that is too wide is made smaller.
        f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(table.headings)}\n\\midrule\n{rows}\n"
        f"\\bottomrule\n\\end{{tabular}}}}{note}\n\\end{{table}}\n"
    )
