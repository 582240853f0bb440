"""Small latent memories whose adapters, projections and predictions are far from where they start."""

from functools import partial

import numpy as np
import torch

from rtx_lab.data.delimiters import _ENDED, _WORD, NUM_STATES, Delimiters
from rtx_lab.inference import latents
from rtx_lab.inference.latent_rows import Limits
from rtx_lab.inference.latent_writing import write
from rtx_lab.models.latent_memory import LatentMemory

VOCAB = 40
STOPS = (1, 2, 4, 5, 7, 8)
SIZES = {
    "architecture": "qwen2", "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 48,
    "max_seq_len": 96, "prompt_latents_len": 3, "inference_latents_len": 2, "max_inference_aug_num": 2, "lora_rank": 3,
    "lora_dropout": 0.0, "embedding_rows": VOCAB + 4, "vocab_size": VOCAB,
}  # fmt: skip


def small(seed=3, **changes):
    """A model in float32 with random weights everywhere, in evaluation mode."""
    torch.manual_seed(seed)
    made = LatentMemory(**(SIZES | changes))
    stir(made)
    return made.eval()


@torch.no_grad()
def stir(model):
    """Make every part matter: adapters that start at zero, projections that start as the identity, the head."""
    table = model.network.get_input_embeddings().weight
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "queries" not in name:
            spread = 0.25 if name.startswith("network") else 0.1
            weight.add_(spread * torch.randn_like(weight.float()).to(weight))
    model.gain.add_(0.3 * torch.randn_like(model.gain))
    for query in model.queries.values():
        query.copy_(table.float().std() * torch.randn_like(query))
    model.learnt.copy_(table.float().std() * torch.randn_like(model.learnt))
    model.trigger_head.weight.normal_(std=0.5)
    model.measure()


def in_double(model):
    """The model in float64 throughout; transformers computes its norms in float32 whatever the type."""
    for norm in model.network.modules():
        if type(norm).__name__.endswith("RMSNorm"):
            norm.forward = partial(torch.nn.functional.rms_norm, normalized_shape=norm.weight.shape, eps=1e-6)
            assert (norm.weight == 1).all()
    return model.double()


def every_third(vocab_size=VOCAB):
    """Delimiters of which every third id ends a sentence, as arrays."""
    kinds = (np.arange(vocab_size) % 3 == 0).astype(np.int64)
    return Delimiters(kinds, np.tile(np.array([_WORD, _ENDED]), (NUM_STATES, 1)))


def prompts(lengths, vocab_size=VOCAB, seed=1):
    """Prompts of these lengths: a list of ids, and the padded batch with its mask, as `collate` makes them."""
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(vocab_size, (length,), generator=generator) for length in lengths]
    ids_BS = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return texts, ids_BS, torch.arange(ids_BS.shape[1]) < torch.tensor(lengths)[:, None]


def limits_of(temperature=0.0, max_new_tokens=20, stop_ids=STOPS):
    return Limits(stop_ids=stop_ids, pad_id=0, max_new_tokens=max_new_tokens, temperature=temperature)


def written(model, ids_BS, mask_BS, seeds, limits, choose, **more):
    """What `write` gives, rows in the order of the prompts, as comparable values."""
    options = {"source": latents.woven, "decides": model.trigger == "lora"} | more
    found = write(model, ids_BS, mask_BS, seeds, limits=limits, ends=every_third().to("cpu"), choose=choose, **options)
    order = found.owner_B.argsort().tolist()
    return [
        (
            found.token_BT[row, : found.length_B[row]].tolist(),
            [a for a in found.action_BJ[row].tolist() if a >= 0],
            found.place_BJ[row, : int((found.action_BJ[row] >= 0).sum())].tolist(),
            int(found.latents_B[row]), bool(found.cut_B[row]),
        )
        for row in order
    ]  # fmt: skip
