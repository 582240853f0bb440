"""T5's and KoBART's tokenizers with the special tokens of dialogues, as transformers makes them."""

import os
from pathlib import Path

from rtx_lab.data.dialogues import SPECIAL_TOKENS

ROOT = Path(os.environ.get("RTX_LAB_TOKENIZERS", "/nowhere"))


def their_t5():
    """From its tokenizer.json, as it stands; the class T5Tokenizer of transformers 5 replaces what the file says."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT / "t5")
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPECIAL_TOKENS)}, replace_extra_special_tokens=False)
    return tokenizer


def their_kobart():
    from transformers import PreTrainedTokenizerFast

    roles = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(ROOT / "kobart" / "model.json"), **roles)
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPECIAL_TOKENS)})
    return tokenizer
