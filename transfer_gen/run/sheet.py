"""A sheet of samples: inputs, references and what each run wrote, side by side."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.formats import whole
from transfer_gen.run import page
from transfer_gen.run import writing

_KINDS = (".html", ".md")
Sample = Mapping[str, str]  # Texts by the title of their column.


def samples(written: Mapping[str, writing.Written], count: int) -> list[Sample]:
  """Returns the first samples that all runs wrote a text for.

  Args:
    written: What each run wrote for the same documents, by the name of the run.
    count: Largest number of samples.
  """
  first = next(iter(written.values()))
  found: list[Sample] = []
  for i, (given, right) in enumerate(zip(first.inputs[:count], first.references)):
    references = {f"reference {number}" if right[1:] else "reference": text
                  for number, text in enumerate(right, 1)}
    found.append({"input": given, **references,
                  **{name: one.outputs[i] for name, one in written.items()}})
  return found


def text(found: Sequence[Sample]) -> str:
  """Returns the sheet for a terminal."""
  lines = []
  for number, sample in enumerate(found, 1):
    width = max(map(len, sample))
    lines += [f"--- {number} of {len(found)}", *(
        f"{title:{width}}  {_line(shown)}" for title, shown in sample.items())]
  return "\n".join(lines)


def check(path: epath.PathLike) -> None:
  """Refuses a file for a sheet whose ending names no form.

  Raises:
    errors.UserError: If it is another than `.html` and `.md`.
  """
  if epath.Path(path).suffix not in _KINDS:
    raise errors.UserError(
        f"--sheet={path}: a sheet ends in {' or '.join(_KINDS)}.")


def write(path: epath.PathLike, title: str, found: Sequence[Sample]) -> None:
  """Writes the sheet as HTML, which opens without a network, or as Markdown.

  Args:
    path: The file; its ending, `.html` or `.md`, says which.
    title: Title of the sheet.
    found: The samples.
  """
  form = _page if epath.Path(path).suffix == ".html" else _markdown
  whole.write_text(epath.Path(path), form(title, found))


def write_outputs(
    path: epath.PathLike, written: Sequence[writing.Written]) -> None:
  """Writes what runs wrote as JSON lines, one for each document.

  A line has `input`, `references`, `output`, and `against` for the output of a second
  run.

  Args:
    path: The file.
    written: What the run wrote, and what another one wrote if they are compared.
  """
  # People read these lines too, and escapes would hide every letter beyond ASCII.
  keys, first = ("output", "against"), written[0]
  lines = [{"input": given, "references": list(right),
            **{key: one.outputs[i] for key, one in zip(keys, written)}}
           for i, (given, right) in enumerate(zip(first.inputs, first.references))]
  whole.write_text(epath.Path(path), "".join(
      json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _page(title: str, found: Sequence[Sample]) -> str:
  titles = _titles(found)
  return page.render("sheet.html", title=title, rows=[titles, *(
      [sample.get(name, "") for name in titles] for sample in found)])


def _markdown(title: str, found: Sequence[Sample]) -> str:
  titles = _titles(found)
  # A bar would end a cell, and a line end the row.
  cell = lambda shown: _line(shown).replace("|", "\\|")
  row = lambda texts: "| " + " | ".join(map(cell, texts)) + " |"
  return "\n".join([
      f"# {title}", "", row(titles), row(["---"] * len(titles)),
      *(row([sample.get(name, "") for name in titles]) for sample in found), ""])


def _titles(found: Sequence[Sample]) -> list[str]:
  """Returns the titles of all columns; a document may have fewer references."""
  titles = dict.fromkeys(title for sample in found for title in sample)
  given = [title for title in titles if title.startswith(("input", "reference"))]
  return [*given, *(title for title in titles if title not in given)]


def _line(text_: str) -> str:
  return " ".join(text_.split())


def names(workdirs: Sequence[Any]) -> list[str]:
  """Returns the name of each folder, or whole paths where two have one name."""
  short = [epath.Path(workdir).name for workdir in workdirs]
  return short if len(set(short)) == len(short) else [str(path) for path in workdirs]
