"""How a trained model writes texts: length, search or sampling, and penalties."""

import dataclasses


@dataclasses.dataclass
class Decoding:
  """How a model continues prompts or answers inputs.

  Attributes:
    max_tokens: Largest number of new tokens, the end token included, at least 0; 0, the
      default, means 64 for a language model, and `data.length` for a model of pairs.
    min_tokens: Number of new tokens before a text may end, at least 0. Default: 0.
    beams: Number of beams of a beam search, at least 1; 1, the default, means no
      search.
    num: Number of texts for each input, at least 1, and at most `beams` in a beam
      search. Default: 1.
    length_penalty: For a beam search: exponent of the length by which a text's log
      probability is divided. Default: 1.0.
    early_stopping: For a beam search: when the search of an input stops. `no`, the
      default: as soon as its best running text, scored at its present length, is no
      better than the worst of `beams` ended texts. `yes`: also as soon as `beams` texts
      have ended. `never`: as `no`, with the best score that the text could still reach.
      These are False, True and "never" in Hugging Face Transformers.
    temperature: Logits are divided by it before a token is drawn, at least 0; 0, the
      default, means that the likeliest token is always taken.
    top_k: Number of likeliest tokens that are drawn from, at least 0; 0, the default,
      means all.
    top_p: Tokens are drawn from the smallest set of likeliest ones whose total
      probability reaches this, in (0, 1] (Holtzman et al., 2020). Default: 1.0.
    min_p: Tokens are drawn from those at least this many times as likely as the
      likeliest, in [0, 1] (Nguyen et al., 2025). Default: 0.0.
    repetition_penalty: Positive logits of tokens that occurred before are divided by
      it and negative ones multiplied, above 0 (Keskar et al., 2019). Default: 1.0.
    no_repeat_ngram: Length in tokens of sequences that may not occur twice, at least 0;
      0, the default, allows all.
    first_token: Id of the token that every new text begins with; -1, the default,
      means none.
    last_token: Id of the token that a text of `max_tokens` tokens ends with; -1, the
      default, means none.
    end_tokens: Ids of tokens that end a text. If (), the default, it is the
      tokenizer's eos.
    suppress: Ids of tokens that are never written. Default: ().
    stop: Texts before which a new text is cut off. Default: ().
    too_long: What happens to an input that is longer than the model can read: `report`:
      its answer is empty and the input is counted; `cut`: the input is shortened.
      Default: `report`.
    seed: Seed of what is drawn; from 0 to 2**32 - 1. Default: 0.
  """
  max_tokens: int = 0
  min_tokens: int = 0
  beams: int = 1
  num: int = 1
  length_penalty: float = 1.0
  early_stopping: str = "no"
  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  min_p: float = 0.0
  repetition_penalty: float = 1.0
  no_repeat_ngram: int = 0
  first_token: int = -1
  last_token: int = -1
  end_tokens: tuple[int, ...] = ()
  suppress: tuple[int, ...] = ()
  stop: tuple[str, ...] = ()
  too_long: str = "report"
  seed: int = 0
