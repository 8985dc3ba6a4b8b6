"""What a study found, for a terminal and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from transfer_gen.formats import whole
from transfer_gen.run import narrow
from transfer_gen.study import foretold_page
from transfer_gen.study import report_rows
from transfer_gen.study import sentences
from transfer_gen.study import where_trained


def study_text(facts: Mapping[str, Any]) -> str:
  """Returns the summary of a study for a terminal of 80 columns."""
  lines = ["", *narrow.sentence(facts["question"]), ""]
  lines += narrow.table(report_rows.runs(facts), keys=2)
  lines += ["", *_wrapped(sentences.verdicts(facts)), "",
            *_wrapped(sentences.costs(facts)), *_wrapped(sentences.rates(facts))]
  if accounts := report_rows.accounts(facts):
    lines += ["", *narrow.table(accounts)]
  if before := foretold_page.text(facts):
    lines += ["", *before]
  if troubles := report_rows.troubles(facts):
    lines += ["", *_wrapped("\n".join(troubles).splitlines())]
  samples = report_rows.samples(facts)
  lines += ["", "Samples of the test split:"] if samples else []
  for sample in samples:
    # Pairs, since a run may be called as one of these two.
    texts = [("input", sample["prompt"]), ("reference", sample["reference"]),
             *sample["texts"].items()]
    lines += ["", *(f"  {line}" for line in narrow.beside(
        [(name, _short(text)) for name, text in texts], narrow.WIDTH - 2))]
  return "\n".join([*lines, ""])


def study_markdown(command: str, facts: Mapping[str, Any]) -> str:
  """Returns the summary as a section of RESULTS.md; `command` reproduces it."""
  where, summary = facts["environments"], facts["summary"]
  before = foretold_page.tables(facts)
  return "\n".join([
      f"## {facts['question']}", "", "```", command, "```", "",
      *(f"{shown}\n"
        for shown in [*sentences.verdicts(facts), *sentences.costs(facts)]),
      *(f"{line}\n" for line in report_rows.troubles(facts)),
      *_markdown_table(report_rows.runs(facts)),
      *_markdown_table(report_rows.accounts(facts)),
      *_markdown_table(before.get("rows", ())),
      *_markdown_table(before.get("trust", ())),
      *(f"{line}\n" for line in sentences.rates(facts)),
      f"{where_trained.libraries(where)}; {summary['seconds']:.0f} s in"
      f" {summary['calls']} call{'s' if summary['calls'] > 1 else ''};"
      f" {where_trained.commits(where)}; data {facts['data']}.", ""])


def write_section(
    path: epath.PathLike, command: str, facts: Mapping[str, Any]) -> None:
  """Writes a study's section into a Markdown file, in place of its earlier one."""
  path = epath.Path(path)
  text = path.read_text() if path.exists() else "# Results\n"
  whole.write_text(path, replace_section(text, command, study_markdown(command, facts)))


def replace_section(text: str, key: str, section: str) -> str:
  """Puts the section of `key` in place of its earlier one, or at the end."""
  begin, end = f"<!-- {key} -->", f"<!-- end of {key} -->"
  new = f"{begin}\n{section}{end}\n"
  # Comments of HTML, which a reader of the page does not see, enclose a section. The
  # command that produced it is the key: a repeated study replaces only its own section.
  if begin not in text:
    return f"{text.rstrip()}\n\n{new}".lstrip()
  before, _, rest = text.partition(begin)
  return before + new + rest.partition(f"{end}\n")[2]


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
  line = lambda cells: "| " + " | ".join(cells) + " |"
  return [line(rows[0]), line(["---"] + ["---:"] * (len(rows[0]) - 1)),
          *map(line, rows[1:]), ""] if rows else []


def _wrapped(texts: Sequence[str]) -> list[str]:
  return [line for text in texts for line in narrow.sentence(text)]


def _short(text: str, limit: int = 100) -> str:
  flat = " ".join(text.split())
  return flat if len(flat) <= limit else flat[:limit - 3] + "..."
