"""The tokenizer of the runs that the tests merge."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.merge.helpers import PROMPTS, STOP, TEMPLATE


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """Return the directory of a byte-level BPE tokenizer with a stop token and a chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=[STOP], show_progress=False)
    backend.train_from_iterator(PROMPTS * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=STOP)
    fast.chat_template = TEMPLATE
    directory = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(directory)
    return directory
