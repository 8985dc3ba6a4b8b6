"""What people write to describe a run: `config.Run`, `config.Decoder`, and so on."""

from transfer_gen.config.adapters import Bottleneck, IA3, LoRA, Prefix
from transfer_gen.config.data import Corrupt, Data, Decoding, Tokenizer
from transfer_gen.config.models import (
    Decoder,
    dropouts,
    Encoder,
    EncoderDecoder,
    Recurrent,
    Sketch,
)
from transfer_gen.config.run import Run, Study
from transfer_gen.config.sources import Distill, Features, Source
from transfer_gen.config.training import (
    Objective,
    Optim,
    Parallel,
    Strategy,
    Term,
    Train,
)
from transfer_gen.config.validate import check

__all__ = (
    "Bottleneck", "Corrupt", "Data", "Decoder", "Decoding", "Distill", "Encoder",
    "EncoderDecoder", "Features", "IA3", "LoRA", "Objective", "Optim", "Parallel",
    "Prefix", "Recurrent", "Run", "Sketch", "Source", "Strategy", "Study", "Term",
    "Tokenizer", "Train", "check", "dropouts")
