"""What people type to describe a run: `config.Run`, `config.Decoder`, and so on."""

from transfer_gen.config.adapters import Bottleneck, IA3, LoRA, Prefix
from transfer_gen.config.models import Decoder, EncoderDecoder, Recurrent
from transfer_gen.config.run import Data, Optim, Parallel, Run, Study, Tokenizer, Train
from transfer_gen.config.sources import Distill, Features, Source
from transfer_gen.config.strategy import Strategy

__all__ = (
    "Bottleneck", "Data", "Decoder", "Distill", "EncoderDecoder", "Features", "IA3",
    "LoRA", "Optim", "Parallel", "Prefix", "Recurrent", "Run", "Source", "Strategy",
    "Study", "Tokenizer", "Train")
