"""Wrong configs and plans: each is refused with one error that names the field.

`run` changes one value at a time and goes as far as planning; `planted` puts one known
mistake into a plan that fits. Both draw from a seed, so that a failure can be repeated.
"""

from collections.abc import Callable, Iterator
import copy
import dataclasses
import json
import pathlib
import random
import signal
import tempfile
import traceback
from typing import Any

from benchmarks import plan_mistakes
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.commands import flags
from transfer_gen.config import codec, declare
from transfer_gen.run import assemble
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve

_SECONDS = 10  # For one mutant, up to its plan.
_WRONG = (None, "text", "", [], {}, (), float("nan"), float("inf"), -float("inf"), -1,
          0, 1, 3, 0.5, 2**63, -2**63, 10**400, True, False, b"bytes", "a\0b", [[]],
          ("",), (-1,), {"a": 1}, 1e300, 1e-300, "(", 3 + 4j)
_MODELS = (
    config.Decoder(num_layers=1, width=8, num_heads=2, max_length=64),
    config.Recurrent(cell="rnn", num_layers=1, embed_width=8, hidden_width=8))


@dataclasses.dataclass(frozen=True)
class Mutant:
  """One changed value.

  Attributes:
    name: What was changed, for a description.
    fields: Words of which a message must have one.
    act: Does what is to be tried.
  """
  name: str
  fields: tuple[str, ...]
  act: Callable[[], Any]


def base(folder: pathlib.Path, number: int = 0) -> config.Run:
  """Returns a small run on a text file that is made in a folder."""
  text = folder / "text.txt"
  if not text.exists():
    text.write_text("\n".join(f"line {i}, {i * 7 % 13}" for i in range(99)))
  return config.Run(
      model=copy.deepcopy(_MODELS[number % len(_MODELS)]),
      data=config.Data(name="files", train=str(text), length=16),
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=1), train=config.Train(steps=4, batch_size=8))


def fields(value: Any, path: str = "") -> Iterator[tuple[Any, str, str, Any]]:
  """Yields the owner, path, name and annotation of each field of a config."""
  for name, hint in declare.hints(type(value)).items():
    yield value, f"{path}{name}", name, hint
    inner = getattr(value, name)
    if dataclasses.is_dataclass(inner):
      yield from fields(inner, f"{path}{name}.")


def values(hint: Any) -> list[Any]:
  """Returns values to try for a field: of wrong types, and around each range's ends."""
  ends = [end for _, rules in declare.split(hint) for rule in rules
          if isinstance(rule, declare.Between)
          for limit in (rule.least, rule.most)
          for end in (limit - 1, limit, limit + 1)]
  words = [word for _, rules in declare.split(hint) for rule in rules
           if isinstance(rule, declare.OneOf) for word in rule.values]
  # As often as all others together.
  near = [*ends, *words]
  return [*_WRONG, *near * (len(_WRONG) // max(len(near), 1))]


def mutate(rng: random.Random, folder: pathlib.Path) -> Mutant:
  """Returns one mutant of a config or of a plan.

  Args:
    rng: What it is drawn from.
    folder: Empty folder that the mutant may write into.
  """
  return rng.choice((_attribute, _keyword, _flag, _json, _damaged, _plan, _plan_json))(
      rng, folder)


def outcome(mutant: Mutant) -> tuple[str, str]:
  """Tries a mutant; returns `refused`, `accepted` or `failures`, and what failed."""
  old = signal.signal(signal.SIGALRM, _late)
  signal.setitimer(signal.ITIMER_REAL, _SECONDS)
  try:
    mutant.act()
  except errors.UserError as error:
    named = any(field in str(error) for field in mutant.fields)
    return ("refused", "") if named else (
        "failures", f"{mutant.name}: does not name it: {error}")
  except TimeoutError:
    return "failures", f"{mutant.name}: takes more than {_SECONDS} s"
  except Exception as error:  # Whatever it is, it is no clear refusal.
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "failures", (f"{mutant.name}: {type(error).__name__}: {error!s:.200}"
                        f" at {last.filename}:{last.lineno}")
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)
  return "accepted", ""


def run(count: int, seed: int) -> dict[str, int]:
  """Tries mutants of configs and plans; prints what fails.

  Args:
    count: Number of mutants.
    seed: Seed of what is drawn.

  Returns:
    `configs`, the number of mutants, and of these `refused`, `accepted` and `failures`:
    an exception that is no `UserError`, more than 10 s, or a message without the field.
  """
  rng = random.Random(seed)
  found = {"configs": 0, "refused": 0, "accepted": 0, "failures": 0}
  for _ in range(count):
    with tempfile.TemporaryDirectory() as folder:
      kind, why = outcome(mutate(rng, pathlib.Path(folder)))
    found["configs"] += 1
    found[kind] += 1
    if why:
      print(why, flush=True)
  return found


def planted(count: int, seed: int) -> float:
  """Returns the share of plans with one mistake whose first misfit names it.

  Args:
    count: Number of plans.
    seed: Seed of what is drawn.
  """
  rng, good = random.Random(seed), 0
  source, target, plan = plan_mistakes.fitting()
  resolve.resolve(plan, {"": source}, target)  # Without a mistake it fits.
  for i in range(count):
    plant = plan_mistakes.PLANTS[i % len(plan_mistakes.PLANTS)]
    words: tuple[str, ...] = ()
    first = "nothing is wrong"
    try:
      words, make = plant(rng, plan, target)
      resolve.resolve(make(), {"": source}, target)
    except errors.UserError as error:
      lines = str(error).split("\n")
      first = lines[1] if lines[1:] else lines[0]
    right = all(word in first for word in words) and first != "nothing is wrong"
    good += right
    if not right:
      print(f"{plant.__name__} {words}: {first}", flush=True)
  return good / count


def _late(*_):
  raise TimeoutError


def _build(folder, made):
  return assemble.build(made, folder / "workdir")


def _change(rng, root):
  """Returns an owner, a path, a name and a value to try."""
  owner, path, name, hint = rng.choice(list(fields(root)))
  return owner, path, name, rng.choice(values(hint))


def _attribute(rng, folder):
  made = base(folder, rng.randrange(9))
  made.features, made.distill = config.Features(), config.Distill()
  made.source = config.Source()
  owner, path, name, value = _change(rng, made)
  # What a part that is only here to be changed would need is not at hand.
  for part in ("source", "features", "distill"):
    if not path.startswith(part):
      setattr(made, part, None)
  if rng.random() < 0.2:
    name, value = plan_mistakes.misspelt(rng, name), 3

  def act():
    setattr(owner, name, value)
    _build(folder, made)
  parts = (name, path.split(".")[0])
  return Mutant(f"config.{path} {name} = {declare.shown(value)}", parts, act)


def _keyword(rng, folder):
  made = base(folder, rng.randrange(9))
  kind = rng.choice((config.LoRA, config.IA3, config.Bottleneck, config.Prefix))
  owner: Any = kind(params=".*/attn/key/kernel")
  _, path, name, value = _change(rng, owner)
  if rng.random() < 0.2:
    name, value = plan_mistakes.misspelt(rng, name), 3

  def act():
    made.adapters = (dataclasses.replace(owner, **{name: value}),)
    _build(folder, made)
  return Mutant(f"{kind.__name__}({name}={declare.shown(value)})",
                (name, "dapter", kind.__name__, str(value)), act)


def _flag(rng, folder):
  made = base(folder, rng.randrange(9))
  _, path, name, value = _change(rng, made)
  if rng.random() < 0.2:
    path = plan_mistakes.misspelt(rng, path)
    name = path.rpartition(".")[2]
  shown = declare.shown(value) if not isinstance(value, str) else value
  file = folder / "config.py"
  file.write_text("from transfer_gen.config import codec\n"
                  f"get_config = lambda: codec.read_run({str(folder)!r})\n")
  (folder / codec.CONFIG).write_text(json.dumps(codec.run_to_json(made)))
  return Mutant(
      f"--config.{path}={shown}", (name, path.split(".")[0]),
      lambda: _build(folder, flags.parse("plan", [
          f"--config={file}", "--workdir=w", f"--config.{path}={shown}"]).config))


def _nodes(data, name=""):
  """Yields each object and list of JSON types, a key of it, and two names for it."""
  keys = data if isinstance(data, dict) else range(len(data))
  for key in keys:
    known = key if isinstance(key, str) else name
    yield data, key, (known, name or known)
    if isinstance(data[key], (dict, list)):
      yield from _nodes(data[key], known)


def _changed_json(rng, data):
  """Changes one value of JSON types in place; returns words that name it."""
  owner, key, names = rng.choice(list(_nodes(data)))
  how = rng.random()
  if how < 0.1:
    del owner[key]
  elif how < 0.25 and isinstance(owner, dict):
    names = (plan_mistakes.misspelt(rng, str(key)),)
    owner[names[0]] = 3
  else:
    plain = [value for value in _WRONG
             if not isinstance(value, (bytes, complex, tuple))]
    owner[key] = rng.choice(plain)
  return names


def _json(rng, folder):
  data = json.loads(json.dumps(codec.run_to_json(base(folder, rng.randrange(9)))))
  words = _changed_json(rng, data)
  stored = {"source_vocab_size": "encoder_vocab_size", "family": "model",
           "source_length": "encoder_length", "source_marks": "encoder_marks"}

  def act():
    # With so many digits JSON is written by hand; Python refuses to.
    (folder / codec.CONFIG).write_text(_dumps(data))
    _build(folder, codec.read_run(folder))
  return Mutant(f"config.json {words[0]}",
                (*words, *(stored.get(word, word) for word in words)), act)


def _dumps(data):
  try:
    return json.dumps(data)
  except ValueError:
    return "9" * 5000


def _damaged(rng, folder):
  text = bytearray(json.dumps(codec.run_to_json(base(folder))).encode())
  at = rng.randrange(len(text))
  how = rng.choice(("cut", "byte", "deep", "empty"))
  if how == "cut":
    del text[at:]
  elif how == "byte":
    text[at] = rng.randrange(256)
  else:
    text = bytearray(b"[" * 100_000 if how == "deep" else b"")

  def act():
    (folder / codec.CONFIG).write_bytes(bytes(text))
    _build(folder, codec.read_run(folder))
  return Mutant(f"config.json {how} at {at}", (
      codec.CONFIG, *declare.hints(config.Run)), act)


def _plan(rng, folder):
  del folder
  source, target, plan = plan_mistakes.fitting()
  part = rng.choice(("rules", "groups", "axes", "map", "anchor", "plan"))
  old: Any = plan if part == "plan" else (
      plan.axes[0].map if part == "map" else plan.groups[1].anchor
      if part == "anchor" else rng.choice(getattr(plan, part)))
  if part == "map":
    old = rng.choice((axes.Grow(), axes.Extend(), axes.MatchTokens(),
                      axes.Select(index=(*range(16), *range(16)))))
  name, hint = rng.choice(list(declare.hints(type(old)).items()))
  value = rng.choice(values(hint))
  if rng.random() < 0.2:
    name, value = plan_mistakes.misspelt(rng, name), 3

  def act():
    new = dataclasses.replace(old, **{name: value})
    changed = {
        "plan": lambda: new,
        "map": lambda: dataclasses.replace(
            plan, axes=(plan_lib.On(axis="mlp", map=new), plan.axes[1])),
        "anchor": lambda: dataclasses.replace(plan, groups=(
            plan.groups[0], dataclasses.replace(plan.groups[1], anchor=new))),
    }.get(part, lambda: dataclasses.replace(plan, **{part: tuple(
        new if one is old else one for one in getattr(plan, part))}))()
    resolve.resolve(changed, {"": source}, target)
  # A field of a rule or a group can be right in itself and wrong for these leaves;
  # what it then says of them names the leaf, the rule or the group.
  return Mutant(f"{type(old).__name__}.{name} = {declare.shown(value)}", (
      name, "Plan does not fit"), act)


def _plan_json(rng, folder):
  del folder
  source, target, plan = plan_mistakes.fitting()
  data = json.loads(json.dumps(plan_lib.to_json(plan)))
  words = _changed_json(rng, data)
  return Mutant(f"plan.json {words[0]}", (*words, "Plan"), lambda: resolve.resolve(
      plan_lib.from_json(data), {"": source}, target))
