"""What a run may read beside its data: checkpoints, stored features, a teacher.

People type these names as `config.Source` and so on.
"""

import dataclasses


@dataclasses.dataclass
class Source:
  """A checkpoint that a transfer reads.

  Attributes:
    path: A run's workdir, or one of its checkpoints; or a checkpoint of another
      framework, see `sources`; or word vectors, see `sources.word_vectors`.
    map: Of another framework's: name of its architecture, or path of a map file of
      your own, see `sources.foreign`. Empty: found out.
    vocabulary: Of another framework's: `refuse` or `repair` one with damaged or
      doubled entries.
    run: In a study: the name of the run whose best checkpoint it is.
    step: Which checkpoint. -1: the best, and the last where none was validated.
    moments: Whether groups whose leaves are all copied as they are go on with the
      source's optimiser moments; needs a checkpoint that holds them (not a best one).
  """
  path: str = ""
  map: str = ""
  vocabulary: str = "refuse"
  run: str = ""
  step: int = -1
  moments: bool = False


@dataclasses.dataclass
class Features:
  """Hidden states of the model's frozen beginning, made once and read from disk.

  The beginning is the embedding and as many of the first layers as never learn, by
  the plan's groups. With `float32` training is that of the live model.

  Attributes:
    path: Folder that holds them, which runs may share; in it each beginning, data and
      dtype has a folder of its own. Empty: `features/` in the workdir.
    dtype: As stored: `float32`, or `bfloat16`, half of it on disk.
    check: Share of the batches that are computed again when training starts or goes
      on, and compared; at least one of each split is.
  """
  path: str = ""
  dtype: str = "float32"
  check: float = 0.01


@dataclasses.dataclass
class Distill:
  """A trained teacher, and how the model is held to what the teacher computes.

  The loss is a sum of terms, each by its weight; 0 leaves it out. By default the soft
  targets count more than the hard ones, as in Hinton et al. (2015) and, with the
  temperature 2, in DistilBERT (Sanh et al., 2019: 5 to 2).

  Attributes:
    teacher: A run's workdir, or a checkpoint of another framework with a map.
    ce: Weight of the cross entropy on the data.
    logits: Weight of T^2 KL(teacher || model), both softened by T = `temperature`
      (Hinton et al., 2015); with other vocabularies see there.
    temperature: T.
    hidden: Weight on hidden states after layers, where widths differ through a
      learned projection of the model's (FitNets: Romero et al., 2015; TinyBERT: Jiao
      et al., 2020). Such projections are leaves, `distill/layer_0/kernel`, with rows
      and groups like any other.
    hidden_loss: `mse`, a mean over features; or `cosine`, 1 - cos (DistilBERT).
    attention: Weight on relations between positions, softmax(Q Q'), softmax(K K'),
      softmax(V V'), by KL (MiniLMv2: Wang et al., 2021); between Transformers.
    layers: (layer of the model, layer of the teacher), from 0, for `hidden` and
      `attention`. (): for hidden states, each layer of the model takes the teacher's
      at the same share of its depth, as in TinyBERT; for attention the last two.
    vocabularies: `same`: tokens are the teacher's. Others, where the two have read
      the same bytes: `uld`, L1 between sorted probabilities (Boizard et al., 2024);
      `mined`, KL after each token of the teacher went to that of the model that is
      nearest by edits (FuseLLM: Wan et al., 2024).
  """
  teacher: Source = dataclasses.field(default_factory=Source)
  ce: float = 0.3
  logits: float = 0.7
  temperature: float = 2.0
  hidden: float = 0.0
  hidden_loss: str = "mse"
  attention: float = 0.0
  layers: tuple[tuple[int, int], ...] = ()
  vocabularies: str = "same"
