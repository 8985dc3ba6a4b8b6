"""Settings of generation of Hugging Face Transformers, as those of a run.

They stand in `generation_config.json`, and where that is missing, in `config.json`.
What they mean is written in the documentation of `transformers.GenerationConfig`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.maps import architecture

_FILE = "generation_config.json"
_TOP_K = 50  # Their default where tokens are drawn.
_EARLY = {False: "no", True: "yes", "never": "never"}
_NAMES = {
    "max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens",
    "beams": "num_beams", "num": "num_return_sequences",
    "length_penalty": "length_penalty", "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram": "no_repeat_ngram_size", "first_token": "forced_bos_token_id",
    "last_token": "forced_eos_token_id", "suppress": "suppress_tokens",
    "end_tokens": "eos_token_id", "stop": "stop_strings"}
# What changes texts and has no place here, with the values that change nothing beside
# None, False, 0 and empty ones.
_IGNORED: Mapping[str, tuple[Any, ...]] = {
    "assistant_early_exit": (), "begin_suppress_tokens": (), "constraints": (),
    "diversity_penalty": (), "dola_layers": (), "encoder_no_repeat_ngram_size": (),
    "encoder_repetition_penalty": (1,), "epsilon_cutoff": (), "eta_cutoff": (),
    "exponential_decay_length_penalty": (), "force_words_ids": (),
    "forced_decoder_ids": (), "guidance_scale": (1,), "max_time": (),
    "num_beam_groups": (1,), "penalty_alpha": (), "renormalize_logits": (),
    "sequence_bias": (), "token_healing": (), "top_h": (1,), "typical_p": (1,),
    "watermarking_config": ()}


def read(
    raw: architecture.Raw, model: Any
) -> tuple[config_lib.Decoding, tuple[str, ...]]:
  """Returns the settings of a checkpoint, and what of them has no place here.

  Args:
    raw: The checkpoint.
    model: Config of our model that computes the same.

  Returns:
    The settings; and a sentence, if settings are ignored that change texts.

  Raises:
    errors.UserError: If a setting is of the wrong type.
  """
  path = architecture.beside(raw, _FILE) or architecture.beside(raw, "config.json")
  if path is None:
    return config_lib.Decoding(), ()
  asked = _Settings(str(path), architecture.read_json(path), model)
  decoding = asked.decoding()
  if not asked.ignored:
    return decoding, ()
  return decoding, (
      f"{path}: ignored, although they change texts: {', '.join(asked.ignored)}.",)


def fields(decoding: config_lib.Decoding) -> dict[str, Any]:
  """Returns fields of a `generation_config.json` for settings, as `read` reads them.

  Fields are left out that say what Transformers does without them. `too_long` and
  `seed` have no field there.
  """
  usual = config_lib.Decoding()
  found: dict[str, Any] = {}
  for ours, theirs in _NAMES.items():
    value = getattr(decoding, ours)
    if value != getattr(usual, ours):
      found[theirs] = list(value) if isinstance(value, tuple) else value
  if len(decoding.end_tokens) == 1:  # As most files have it.
    found["eos_token_id"], = decoding.end_tokens
  if decoding.early_stopping != usual.early_stopping:
    found["early_stopping"] = next(
        theirs for theirs, ours in _EARLY.items() if ours == decoding.early_stopping)
  if decoding.temperature > 0:
    found |= {"do_sample": True, "temperature": decoding.temperature,
              "top_k": decoding.top_k, "top_p": decoding.top_p}
    # Only where it is used, as older versions do not know it.
    found |= {"min_p": decoding.min_p} if decoding.min_p else {}
  return found


class _Settings:
  """The fields of a file; `ignored` names those that are left out."""

  def __init__(self, where: str, fields: Mapping[str, Any], model: Any):
    self._where, self._fields, self._model = where, fields, model
    self.ignored = [
        name for name, idle in _IGNORED.items()
        if fields.get(name) and fields[name] not in idle]

  def decoding(self) -> config_lib.Decoding:
    """Returns the settings."""
    beams = self._get("num_beams", 1, int)
    ends = self._tokens("eos_token_id")
    return config_lib.Decoding(
        **self._lengths(), **self._drawn(beams), beams=beams, end_tokens=ends,
        num=min(self._get("num_return_sequences", 1, int),
                beams if beams > 1 else 2**31),
        length_penalty=float(self._get("length_penalty", 1.0, float)),
        early_stopping=self._early(),
        repetition_penalty=float(self._get("repetition_penalty", 1.0, float)),
        no_repeat_ngram=self._get("no_repeat_ngram_size", 0, int),
        first_token=self._one("forced_bos_token_id"),
        last_token=self._one("forced_eos_token_id"),
        suppress=tuple(sorted({*self._tokens("suppress_tokens"),
                               *self._bad_words(ends)})),
        stop=self._stops())

  def _get(self, name: str, default: Any, kind: type) -> Any:
    value = self._fields.get(name)
    if value is None:
      return default
    # A bool is an int to Python, and a whole number is as good as a real one.
    fits = not isinstance(value, bool) and isinstance(
        value, (int, float) if kind is float else kind)
    if not fits:
      raise errors.UserError(
          f"{self._where}: {name} is {value!r:.60}, must be of type {kind.__name__}.")
    return value

  def _lengths(self) -> dict[str, Any]:
    """Returns the bounds of new tokens; theirs count the prompt, unless named new."""
    found: dict[str, Any] = {}
    for ours, name, total in (("max_tokens", "max_new_tokens", "max_length"),
                              ("min_tokens", "min_new_tokens", "min_length")):
      value = self._get(name, None, int)
      whole = self._get(total, None, int)
      if value is None and whole and self._model.encodes:
        value = max(whole - 1, 0)  # The prompt is a single token.
      elif value is None and whole:
        self.ignored.append(f"{total} (it counts the prompt)")
      found[ours] = value or 0
    return found

  def _drawn(self, beams: int) -> dict[str, Any]:
    if not self._fields.get("do_sample"):
      return {}
    if beams > 1:
      self.ignored.append("do_sample (of a beam search)")
      return {}
    real = lambda name, default: float(self._get(name, default, float))
    return {"temperature": real("temperature", 1.0), "top_p": real("top_p", 1.0),
            "top_k": self._get("top_k", _TOP_K, int), "min_p": real("min_p", 0.0)}

  def _early(self) -> str:
    value = self._fields.get("early_stopping") or False
    if not isinstance(value, (bool, str)) or value not in _EARLY:
      raise errors.UserError(
          f"{self._where}: early_stopping is {value!r:.60}, must be true, false or"
          " 'never'.")
    return _EARLY[value]

  def _one(self, name: str) -> int:
    """Returns a token, or -1 if there is none."""
    found = self._tokens(name)
    if len(found) > 1:
      self.ignored.append(f"{name} (several)")
    return found[0] if len(found) == 1 else -1

  def _tokens(self, name: str) -> tuple[int, ...]:
    """Returns the tokens that a field names, as a number or a list of them."""
    value = self._fields.get(name)
    value = [] if value is None else value
    return tuple(self._known(name, value if isinstance(value, list) else [value]))

  def _known(self, name: str, tokens: list[Any]) -> Iterator[int]:
    for token in tokens:
      if type(token) is not int:
        raise errors.UserError(
            f"{self._where}: {name} has {token!r:.60}, must be token ids.")
      # Some files name a token that the table was never given a row for.
      if 0 <= token < self._model.vocab_size:
        yield token

  def _bad_words(self, ends: tuple[int, ...]) -> Iterator[int]:
    words = self._get("bad_words_ids", [], list)
    if any(not isinstance(word, list) for word in words):
      raise errors.UserError(
          f"{self._where}: bad_words_ids must be a list of lists of token ids.")
    if any(len(word) > 1 for word in words):
      self.ignored.append("bad_words_ids (of several tokens)")
    single = [word[0] for word in words if len(word) == 1]
    # What ends a text is never a bad word there.
    return (i for i in self._known("bad_words_ids", single) if i not in ends)

  def _stops(self) -> tuple[str, ...]:
    value = self._fields.get("stop_strings") or []
    stops = value if isinstance(value, list) else [value]
    if any(not isinstance(stop, str) for stop in stops):
      raise errors.UserError(f"{self._where}: stop_strings must be texts.")
    return tuple(filter(None, stops))

