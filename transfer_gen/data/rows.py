"""Lays out texts in rows of tokens.

Axes: N rows, T positions, S positions of the encoder's input, B rows of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, NoReturn

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.data import best_fit

# Special tokens of an encoder's input, by the value of `encoder_marks`.
_MARKS = {"none": (), "eos": ("eos",), "both": ("bos", "eos")}

Batch = dict[str, np.ndarray]
Texts = Sequence[np.ndarray]  # i32[length] each.
Roles = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of one length.

  Attributes:
    inputs: i32[N, T], the tokens that a model reads.
    targets: i32[N, T], the token that follows each input.
    documents: i32[N, T], the index of the document that a target belongs to; -1 for
      targets that do not count, such as padding.
    encoder_inputs: i32[N, S], the tokens that an encoder reads; None without one.
    encoder_counts: i32[N], number of encoder inputs that are not padding.
    hidden: What is stored of the rows, of a model's frozen beginning: any object that
      i64[B] indexes and that gives arrays dtype[B, ...] by name; None if nothing is.
    positions: i32[N, T], the number of inputs before each one that belong to the same
      document. It is 0 where a document begins, and models see nothing before that.
      None if each row is read as one text.
    clean: i32[N, L], the texts of rows that are corrupted anew in each epoch, filled up
      with -1; None for all others.
    starts: i32[N], where these texts begin in their documents, in tokens.
    values: f32[N, T, 2], the offset that leads to each point of a drawing; or None.
    points: i32[N], the number of points; what stands behind has no value.
    draws: u32[N], a number of each drawing, of which keys are made.
  """
  inputs: np.ndarray
  targets: np.ndarray
  documents: np.ndarray
  encoder_inputs: np.ndarray | None = None
  encoder_counts: np.ndarray | None = None
  hidden: Any = None
  positions: np.ndarray | None = None
  clean: np.ndarray | None = None
  starts: np.ndarray | None = None
  values: Any = None
  points: Any = None
  draws: Any = None

  def __len__(self) -> int:
    return len(self.inputs)

  @property
  def length(self) -> int:
    """T, the number of positions."""
    return self.inputs.shape[1]

  @property
  def corrupted(self) -> bool:
    """Whether the rows are corrupted anew in each epoch."""
    return self.clean is not None

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """What all rows hold, by field, without what is stored of a beginning."""
    return {field.name: value for field in dataclasses.fields(self)
            if field.name != "hidden" and (
                value := getattr(self, field.name)) is not None}

  def take(self, index: np.ndarray) -> "Rows":
    """Returns the rows at the indices i64[B], without what is stored of a beginning."""
    return Rows(**{name: value[index] for name, value in self.arrays.items()})

  def all(self) -> "Rows":
    """Returns the rows themselves; see `stored_rows.Stored`."""
    return self

  def with_positions(self) -> "Rows":
    """Returns the same rows, with positions also if each row is read as one text."""
    if self.positions is not None:
      return self
    counted = np.broadcast_to(
        np.arange(self.inputs.shape[1], dtype=np.int32), self.inputs.shape)
    return dataclasses.replace(self, positions=counted)

  def batch(self, index: np.ndarray) -> Batch:
    """Returns the rows at the indices i64[B] as a batch."""
    batch = {
        "inputs": self.inputs[index],
        "targets": self.targets[index],
        "weights": (self.documents[index] >= 0).astype(np.float32)}
    for name in ("positions", "encoder_inputs", "encoder_counts"):
      if (found := getattr(self, name)) is not None:
        batch[name] = found[index]
    if self.hidden is not None:
      batch |= self.hidden[index]
    if self.values is not None:
      inside = np.arange(self.inputs.shape[1]) < self.points[index][:, None]
      batch |= {"values": self.values[index], "pen_states": batch["targets"],
                "value_weights": inside.astype(np.float32), "draws": self.draws[index]}
    return batch

  def evaluation_batch(self, index: np.ndarray) -> Batch:
    """Returns a batch as `batch` does, with the documents that targets belong to."""
    return self.batch(index) | {"documents": self.documents[index]}


def pack(texts: Texts, roles: Roles, length: int) -> Rows:
  """Packs texts, each as `[bos] text [eos]`, into rows of T inputs that they share.

  A text of at most T inputs stands in one row. A longer one is cut after every T
  inputs, and each piece is read without what came before it. Pieces are placed by best
  fit in order of decreasing size (Ding et al., 2024, section 3), and the rest of a row
  is padding. Special tokens that `roles` lacks are left out; the first token of such a
  text has nothing before it and is no target.

  Returns:
    The rows, with `positions` if any of them holds several pieces.
  """
  bos, eos = _ends(roles)
  pieces = [
      (document, start, min(count - start, length))
      for document, ids in enumerate(texts)
      # The last token of a document is only a target.
      for count in [len(bos) + len(ids) + len(eos) - 1]
      for start in range(0, count, length)]
  sizes = np.array([size for _, _, size in pieces], np.int64)
  places, num_rows = best_fit.place(sizes, length)
  rows = _empty(max(1, num_rows), length, roles)
  positions = np.zeros(rows.inputs.shape, np.int32)
  for piece, row, column in places:
    document, start, size = pieces[piece]
    tokens = np.concatenate([bos, texts[document], eos])[start:start + size + 1]
    end = column + size
    rows.inputs[row, column:end] = tokens[:-1]
    rows.targets[row, column:end] = tokens[1:]
    rows.documents[row, column:end] = document
    # Up to the end of the row: the next piece overwrites its part, and padding, which
    # nothing reads, continues the last piece.
    positions[row, column:] = np.arange(length - column)
  # Most rows of long documents hold one piece each. Models then compute the same with
  # positions as without them, and are faster without.
  shared = any(column for _, _, column in places)
  return dataclasses.replace(rows, positions=positions) if shared else rows


def unpredicted(
    texts: Texts, roles: Roles, surfaces: Sequence[bytes]) -> np.ndarray:
  """Returns the bytes of the first token of each packed text that nothing predicts.

  Args:
    texts: Token ids of each text.
    roles: As for `pack`. If they have bos, it predicts the first token.
    surfaces: The bytes that each token stands for.

  Returns:
    i64[N].
  """
  return np.array([
      0 if "bos" in roles or not len(ids) else len(surfaces[ids[0]])
      for ids in texts], np.int64)


def join(texts: Texts, roles: Roles, length: int) -> Rows:
  """Joins all texts, each as `[bos] text [eos]`, and cuts them into rows of T inputs.

  Each row is read as one text, so that predictions also depend on the documents before.
  Special tokens that `roles` lacks are left out. Inputs and targets are views of one
  array, shifted by a position.
  """
  bos, eos = _ends(roles)
  total = sum(len(bos) + len(ids) + len(eos) for ids in texts)
  # N tokens give N - 1 targets, as the first one has nothing before it. The division
  # rounds up, and one more position holds the target of the last input.
  num_rows = max(1, -(-(total - 1) // length))
  tokens = np.full(num_rows * length + 1, roles["pad"], np.int32)
  owners = np.full(num_rows * length + 1, -1, np.int32)
  position = 0
  for document, ids in enumerate(texts):
    begin = position + len(bos)
    end = begin + len(ids) + len(eos)
    tokens[position:end] = np.concatenate([bos, ids, eos])
    # bos itself is not a target: it always follows eos, so there is nothing to learn.
    owners[begin:end] = document
    position = end
  # Owners are shifted like the targets, whose documents they are.
  flat = tokens[:-1], tokens[1:], owners[1:]
  return Rows(*(values.reshape(num_rows, length) for values in flat))


def mark(inputs: Texts, targets: Texts, roles: Roles) -> tuple[Texts, Texts]:
  """Returns prompts `[bos] input [sep]` and answers `target [eos]`."""
  bos, sep, eos = ([roles[role]] for role in ("bos", "sep", "eos"))
  return ([np.concatenate([bos, ids, sep]) for ids in inputs],
          [np.concatenate([ids, eos]) for ids in targets])


def pad(
    prompts: Texts, answers: Texts, roles: Roles, lengths: Sequence[int]
) -> tuple[list[Rows], np.ndarray]:
  """Lays out each pair as a row, a prompt and its answer, padded on the right.

  Args:
    prompts: Token ids of the prompts, at least one each; they are given, so a model
      does not learn to write them.
    answers: Token ids of their answers.
    roles: Ids of all roles.
    lengths: Lengths of the buckets, ascending.

  Returns:
    Rows for each bucket, and bool[N], which pairs fit into a bucket.
  """
  # The last token of a row is only a target and takes no position.
  counts = np.array([len(a) + len(b) - 1 for a, b in zip(prompts, answers)])
  buckets = []
  for length, members in _buckets(counts, lengths):
    rows = _empty(len(members), length, roles)
    for row, member in enumerate(members):
      # The target of a prompt's last token is the first token of the answer.
      _write(rows, row, np.concatenate([prompts[member], answers[member]]),
             first=len(prompts[member]) - 1, document=member)
    buckets.append(rows)
  return buckets, counts <= lengths[-1]


def pad_both(
    inputs: Texts, targets: Texts, roles: Roles, lengths: Sequence[int],
    encoder: config_lib.Recurrent, encoder_roles: Roles,
) -> tuple[list[Rows], np.ndarray]:
  """Lays out each pair as two rows, the encoder's input and `[start] target [eos]`.

  The longer side decides the bucket, and both sides are padded to its length, so that
  there is one shape, and one compiled program, for each bucket.

  Args:
    inputs: Token ids of the inputs.
    targets: Token ids of their answers.
    roles: Ids of all roles.
    lengths: Lengths of the buckets, ascending.
    encoder: Config of the model.
    encoder_roles: Ids of all roles in the inputs, whose tokenizer may be another one.

  Returns:
    Rows for each bucket, and bool[N], which pairs fit into a bucket.
  """
  marked = [encoder_row(ids, encoder_roles, encoder) for ids in inputs]
  # [start] target [eos] takes one position less than it has tokens, as in `pad`.
  counts = np.array([max(len(a), len(b) + 1) for a, b in zip(marked, targets)])
  begin, buckets = start_token(roles, encoder), []
  for length, members in _buckets(counts, lengths):
    encoder_inputs = np.full((len(members), length), encoder_roles["pad"], np.int32)
    rows = dataclasses.replace(
        _empty(len(members), length, roles), encoder_inputs=encoder_inputs,
        encoder_counts=np.array([len(marked[i]) for i in members], np.int32))
    for row, member in enumerate(members):
      encoder_inputs[row, :len(marked[member])] = marked[member]
      tokens = np.concatenate([[begin], targets[member], [roles["eos"]]])
      _write(rows, row, tokens, first=0, document=member)
    buckets.append(rows)
  return buckets, counts <= lengths[-1]


def fit(
    inputs: Texts, targets: Texts, encoder_roles: Roles, config: config_lib.Data,
    encoder: config_lib.Recurrent | None,
) -> tuple[Texts, Texts, int]:
  """Cuts pairs that no row holds, where the config asks for it.

  Args:
    inputs: Token ids of the inputs.
    targets: Token ids of their answers.
    encoder_roles: Ids of all roles in the inputs.
    config: `length` and `too_long` are read.
    encoder: Config of the model, if it has an encoder; otherwise None.

  Returns:
    Inputs and targets, and the number of pairs that were cut.

  Raises:
    errors.UserError: If pairs are too long, and the config refuses such.
  """
  if config.too_long == "drop":
    return inputs, targets, 0  # `pad` and `pad_both` leave them out.
  if encoder is None:
    # The special tokens of `mark` take two positions.
    room = config.length - 2
    rooms = [(room - min(len(b), max(room - room // 2, room - len(a))),
              max(room - room // 2, room - len(a))) for a, b in zip(inputs, targets)]
  else:
    marks = len(encoder_row([], encoder_roles, encoder))
    rooms = [(config.length - marks, config.length - 1)] * len(inputs)
  long = sum(len(a) > room[0] or len(b) > room[1]
             for a, b, room in zip(inputs, targets, rooms))
  if long and config.too_long == "refuse":
    longest = max(max(map(len, inputs)), max(map(len, targets)))
    refuse_long(long, len(inputs), config, f"the longest side has {longest}")
  return ([a[:room] for a, (room, _) in zip(inputs, rooms)],
          [b[:room] for b, (_, room) in zip(targets, rooms)], long)


def refuse_long(
    long: int, count: int, config: config_lib.Data, longest: str) -> NoReturn:
  """Raises a `UserError` about pairs that no row holds."""
  raise errors.UserError(
      f"data: {long} of {count} pairs do not fit into data.length={config.length}"
      f" tokens; {longest}. Raise data.length, or set data.too_long to drop or cut.")


def encoder_row(
    ids: Sequence[int] | np.ndarray, roles: Roles, encoder: config_lib.Recurrent,
) -> list[int]:
  """Returns a text with its special tokens, as an encoder reads it.

  Special tokens that `roles` lacks are left out.

  Raises:
    errors.UserError: If the model asks for others than there are.
  """
  if encoder.encoder_marks not in _MARKS:
    raise errors.UserError(
        f"model.encoder_marks is {encoder.encoder_marks!r}, must be one of"
        f" {', '.join(_MARKS)}.")
  marks = _MARKS[encoder.encoder_marks]
  before, behind = (
      [roles[role]] if role in marks and role in roles else []
      for role in ("bos", "eos"))
  return [*before, *ids, *behind]


def start_token(roles: Roles, encoder: config_lib.Recurrent) -> int:
  """Returns the token that an answer begins with.

  Raises:
    errors.UserError: If the config has no start token and the tokenizer no bos.
  """
  if encoder.start_token >= 0:
    return encoder.start_token
  if "bos" not in roles:
    raise errors.UserError(
        "The tokenizer has no bos token for answers to begin with. Set"
        " model.start_token.")
  return roles["bos"]


def fill_batch(
    batch: Batch, batch_size: int, pad_token: int, encoder_pad: int
) -> Batch:
  """Adds padding rows of weight 0 to a batch, up to B rows.

  Their encoder input has one token, because an encoder never reads an empty input.
  """
  # Whatever is not named in `empty` may hold any value, as its weight is 0.
  missing = batch_size - len(batch["inputs"])
  empty = {"weights": 0, "documents": -1, "encoder_counts": 1, "positions": 0,
           "encoder_inputs": encoder_pad, "values": 0, "value_weights": 0}
  return {
      name: np.pad(value, ((0, missing), *((0, 0),) * (value.ndim - 1)),
                   constant_values=empty.get(name, pad_token))
      for name, value in batch.items()}


def _ends(roles: Roles) -> tuple[list[int], list[int]]:
  """Returns what stands before and after each text of a language model."""
  bos, eos = ([roles[role]] if role in roles else [] for role in ("bos", "eos"))
  return bos, eos


def _buckets(
    counts: np.ndarray, lengths: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
  """Yields each length and the rows for which it is the shortest that holds them."""
  # Rows longer than all lengths get the place behind the last, which is never yielded.
  places = np.searchsorted(lengths, counts)
  for place, length in enumerate(lengths):
    yield length, np.flatnonzero(places == place)


def _empty(count: int, length: int, roles: Roles) -> Rows:
  """Returns rows of padding, without targets that count."""
  shape = (count, length)
  return Rows(np.full(shape, roles["pad"], np.int32),
              np.full(shape, roles["pad"], np.int32), np.full(shape, -1, np.int32))


def _write(rows: Rows, row: int, tokens: np.ndarray, first: int, document: int) -> None:
  """Writes one row; its targets count from position `first` on."""
  size = len(tokens) - 1
  rows.inputs[row, :size] = tokens[:-1]
  rows.targets[row, :size] = tokens[1:]
  rows.documents[row, first:size] = document
