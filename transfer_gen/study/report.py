"""The page that answers a study's question; it opens without a network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import html
import os
from typing import Any

from etils import epath
from matplotlib import figure

from transfer_gen.formats import whole
from transfer_gen.run import page
from transfer_gen.study import sentences
from transfer_gen.study import task_metrics

RESULT = "result.json"  # In the workdir of a study.


def study_text(facts: Mapping[str, Any]) -> str:
  """Returns the summary of a study for a terminal."""
  lines = ["", facts["question"], ""]
  lines += page.aligned(_table(facts))
  lines += ["", *sentences.verdicts(facts), "", *sentences.costs(facts)]
  if accounts := _accounts(facts):
    lines += ["", *page.aligned(accounts)]
  lines += _troubles(facts)
  samples = _samples(facts)
  lines += ["", "Samples of the test split:"] if samples else []
  for sample in samples:
    lines += ["", f"  input      {_short(sample['prompt'])}",
              f"  reference  {_short(sample['reference'])}"]
    lines += [f"  {name:10} {_short(text)}" for name, text in sample["texts"].items()]
  return "\n".join([*lines, ""])


def study_page(
    facts: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
  """Returns the summary as HTML, with validation curves.

  Args:
    facts: What `study.run` found.
    curves: Lines of metrics by the name of a run.
  """
  escape = html.escape
  samples = []
  for sample in _samples(facts):
    shown = {"input": sample["prompt"], "reference": sample["reference"],
            **sample["texts"]}
    samples.append("<pre>" + escape("\n".join(
        f"{name:10} {_short(text, 400)}" for name, text in shown.items())) + "</pre>")
  return "\n".join([
      "<!doctype html><html lang=en><meta charset=utf-8>",
      f"<title>{escape(facts['question'])}</title><style>{page.STYLE}</style>",
      f"<h1>{escape(facts['question'])}</h1>",
      *(f"<p class=gain>{escape(line)}</p>" for line in sentences.verdicts(facts)),
      *_html_table(_table(facts)),
      *(f"<p>{escape(line)}</p>" for line in sentences.costs(facts)),
      *_html_table(_accounts(facts)),
      *(f"<pre>{escape(line)}</pre>" for line in _troubles(facts) if line),
      *_trade_off(facts),
      "<h2>Validation loss</h2>", page.plot(curves), *_metric_curves(curves),
      *_forgetting(curves),
      *(["<h2>Samples of the test split</h2>"] if samples else []), *samples,
      *_pictures(facts),
      "</html>", ""])


def study_markdown(command: str, facts: Mapping[str, Any]) -> str:
  """Returns the summary as a section of RESULTS.md; `command` reproduces it."""
  where, summary = facts["environment"], facts["summary"]
  versions = ", ".join(f"{name} {where['versions'][name]}"
                       for name in ("jax", "flax", "optax"))
  changed = f" with changes {where['uncommitted']}" if where["uncommitted"] else ""
  return "\n".join([
      f"## {facts['question']}", "", "```", command, "```", "",
      *(f"{shown}\n"
        for shown in [*sentences.verdicts(facts), *sentences.costs(facts)]),
      *(f"{line}\n" for line in _troubles(facts) if line),
      *_markdown_table(_table(facts)), *_markdown_table(_accounts(facts)),
      "Learning rate chosen by mean validation loss: "
      + ", ".join(f"{name} {lr:g}" for name, lr in summary["lrs"].items()) + ".",
      f"Python {where['python']}, {versions}; {where['devices'][0]}"
      f" ({len(where['devices'])}); {summary['seconds']:.0f} s in {summary['calls']}"
      f" call{'s' if summary['calls'] > 1 else ''}; commit"
      f" {(where['commit'] or 'none')[:10]}{changed}; data {facts['data']}.", ""])


def data_title(workdirs: Iterable[epath.Path]) -> str:
  """Returns name, version, if any, and fingerprint of each data set that runs read."""
  title = lambda data: " ".join(map(str, filter(
      None, (data["name"], data.get("version"), data["fingerprint"][:16]))))
  return ", ".join(dict.fromkeys(
      whole.read_json(workdir / "data.json", title) for workdir in workdirs))


def write(
    workdir: epath.PathLike, facts: Mapping[str, Any], show: Callable[..., Any],
    curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
  """Writes result.json and report.html of a study into its workdir.

  Args:
    workdir: Workdir of the study.
    facts: What `study.run` found.
    show: Makes the page; a failure of that is no failure of the study, see
      `trainings.Trainings.show`.
    curves: Lines of metrics by the name of a run.
  """
  workdir = epath.Path(workdir)
  for run in (run for runs in facts["runs"].values() for run in runs):
    if "pictures" in run:  # Relative, so that the folder can be moved.
      run["pictures"] = os.path.relpath(run["pictures"], workdir)
  whole.write_json(workdir / RESULT, facts)
  show("report.html", lambda: whole.write_text(
      workdir / "report.html", study_page(facts, curves)), None)


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


def _table(facts) -> list[tuple[str, ...]]:
  metrics = task_metrics.names(facts)
  rows: list[tuple[str, ...]] = [(
      "run", "seed", "lr", "best step", "validation", "test", "bits/byte", *metrics,
      "train tokens", "seconds")]
  for name, runs in facts["runs"].items():
    rows += [(name, str(run["seed"]), f"{run['lr']:g}", str(run["step"]),
              f"{run['validation_loss']:.4f}", f"{run['loss']:.4f}",
              f"{run['bits_per_byte']:.3f}" if "bits_per_byte" in run else "-",
              *(task_metrics.cell(run, metric) for metric in metrics),
              f"{run['train_tokens']:,}",
              f"{run['train_seconds']:.0f}") for run in runs]
  return rows


def _accounts(facts) -> list[tuple[str, ...]]:
  """What each run cost, averaged over seeds; empty if that was not asked for."""
  rows = []
  for name, runs in facts["runs"].items():
    found = [run["accounts"] for run in runs if "accounts" in run]
    if found:
      mean = lambda key, found=found: sum(one[key] for one in found) / len(found)
      cells = [f"{mean('learning'):,.0f}", f"{mean('slot_bytes') / 2**20:.2f}",
               _digits(mean("gflops_a_step")),
               _digits(mean("gflops") + mean("search_gflops"))]
      if all("forgetting" in one for one in found):
        cells += [f"{mean(key):.3f}" for key in ("before", "after", "forgetting")]
      loss = sum(run["loss"] for run in runs) / len(runs)
      rows.append((name, f"{loss:.4f}", *cells))
  header = ("mean over seeds", "test", "learning params", "state, MB", "GFLOPs a step",
            "GFLOPs, search in it", "source before, bits/byte", "after", "forgetting")
  return [header[:max(map(len, rows))], *(
      row + ("",) * (max(map(len, rows)) - len(row)) for row in rows)] if rows else []


def _troubles(facts) -> list[str]:
  """What has no result, what failed, and what could not be shown."""
  lines = [f"{treated} against {control}: no result."
           for treated, control in facts.get("missing", ())]
  for failure in facts.get("failures", ()):
    lines.append("\n  ".join([f"{failure['run']} failed:", *failure["lines"]]))
  lines += facts.get("notes", ())
  return ["", *lines] if lines else []


def _trade_off(facts) -> list[str]:
  """Plots gain against forgetting, a point per run and seed, if both are known."""
  control = {pair["treated"]: pair["control"] for pair in facts["comparisons"]}
  canvas = figure.Figure(figsize=(9, 4.5), layout="constrained")
  axes, drawn = canvas.add_subplot(), False
  for name, runs in facts["runs"].items():
    points = [(run["accounts"]["forgetting"], base["loss"] - run["loss"])
              for run, base in zip(runs, facts["runs"].get(control.get(name), ()))
              if "forgetting" in run.get("accounts", ())]
    if points:
      axes.scatter(*zip(*points), label=name)
      drawn = True
  axes.set_xlabel("forgetting: bits per byte more on the source's test text")
  axes.set_ylabel("gain over the control, nats per token")
  axes.grid(alpha=0.3)
  if not drawn:
    return []
  axes.legend(fontsize="small")
  return ["<h2>Gain against forgetting</h2>", page.svg(canvas)]


def _pictures(facts) -> list[str]:
  """What the runs of the first seed drew, as files beside the page."""
  shown = {name: runs[0]["pictures"] for name, runs in facts["runs"].items()
           if "pictures" in runs[0]}
  return ["<h2>Drawings</h2>", *(
      f'<p>{html.escape(name)}</p><img src="{html.escape(path)}" width="800"'
      f' alt="drawings of {html.escape(name)}">' for name, path in shown.items())
          ] if shown else []


def _metric_curves(curves) -> list[str]:
  """Plots each metric of texts that some run was validated by."""
  found = sorted({name for lines in curves.values() for name in page.metrics(lines)})
  return [part for name in found for part in (
      f"<h2>Validation {html.escape(name)}</h2>", page.plot(curves, name))]


def _forgetting(curves) -> list[str]:
  """Plots the loss on the source's text over the runs, if it was measured."""
  kept = {name: lines for name, lines in curves.items()
          if any("remembered" in line for line in lines)}
  return ["<h2>Forgetting of the source's text</h2>",
          page.plot(kept, "remembered")] if kept else []


def _html_table(rows: Sequence[Sequence[str]]) -> list[str]:
  cells = lambda tag, row: "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row)
  return ["<table>", *(f"<tr>{cells('td' if i else 'th', row)}</tr>"
                       for i, row in enumerate(rows)), "</table>"] if rows else []


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
  line = lambda cells: "| " + " | ".join(cells) + " |"
  return [line(rows[0]), line(["---"] + ["---:"] * (len(rows[0]) - 1)),
          *map(line, rows[1:]), ""] if rows else []


def _digits(value: float) -> str:
  """A number with at least three significant digits."""
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _samples(facts) -> list[dict[str, Any]]:
  """Each prompt with what every run of the first seed that read it answered."""
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for name, runs in facts["runs"].items():
    for sample in runs[0]["samples"]:
      one = found.setdefault(
          (sample["prompt"], sample["reference"]), {**sample, "texts": {}})
      one["texts"][name] = sample["text"]
  return list(found.values())


def _short(text: str, limit: int = 100) -> str:
  flat = " ".join(text.split())
  return flat if len(flat) <= limit else flat[:limit - 3] + "..."
