"""A small model with latents, texts that it has read, and what the search for better latents asks of it."""

from types import SimpleNamespace

import torch

from rtx_lab.core.sections import Ltpo
from rtx_lab.inference import ltpo
from rtx_lab.inference.latents import woven
from rtx_lab.models.latent_memory import LatentMemory

VOCAB, LENGTHS = 40, (7, 3, 5)
SEARCHES = [
    {"estimator": "autograd"},
    {"estimator": "autograd", "num_candidates": 3},
    {"estimator": "reinforce"},
    {"estimator": "baseline", "num_candidates": 4},
    {"estimator": "antithetic", "num_candidates": 4},
]
CONTROLS = [{"control": "random_direction"}, {"control": "best_of", "num_candidates": 2}]


def settings(**values):
    return Ltpo(**({"enabled": True, "lr": 0.01, "sigma": 0.02, "decay": 0.9, "max_steps": 5} | values))


def small_model():
    """A network whose predictions are far from even; the table has more rows than ids are written."""
    torch.manual_seed(3)
    made = LatentMemory(
        architecture="qwen2", vocab_size=VOCAB, embedding_rows=VOCAB + 4, d_model=32, n_layers=2, n_heads=4,
        n_kv_heads=2, d_ff=48, max_seq_len=64, prompt_latents_len=3, inference_latents_len=2, lora_rank=4,
    )  # fmt: skip
    for weight in made.network.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.25)
    made.measure()
    return made.double().eval()


def read_rows(model, rows):
    """Texts of different lengths, padded in front, as the model has read them; their ids; their seeds."""
    generator = torch.Generator().manual_seed(1)
    every = [torch.randint(VOCAB, (length,), generator=generator) for length in LENGTHS]
    texts = [every[row] for row in rows]
    longest = max(map(len, texts))
    ids = torch.stack([torch.nn.functional.pad(text, (longest - len(text), 0)) for text in texts])
    real = torch.arange(longest) >= longest - torch.tensor([len(text) for text in texts])[:, None]
    with torch.no_grad():
        reading = model.begin(len(texts), weaves=True, decides=False)
        model.read(reading, model.embed(ids), real)
    return SimpleNamespace(reading=reading, texts=texts, seed=torch.tensor([11, 12, 13])[list(rows)])


def searched(model, read, how, kind="prompt"):
    return ltpo.improved(how)(model, read.reading, kind, read.seed)


def woven_of(model, read, kind="prompt"):
    with torch.no_grad():
        return woven(model, read.reading, kind, read.seed)[0]


def distance(latents, others):
    return (latents - others).flatten(1).norm(dim=1)


def record_passes(monkeypatch):
    """A list that gets the candidates of every pass from here on, and whether their gradient was asked for."""
    seen, plain = [], ltpo.score

    def recorded(model, stream, x_RKD, objective):
        seen.append((x_RKD.detach().clone(), x_RKD.requires_grad))
        return plain(model, stream, x_RKD, objective)

    monkeypatch.setattr(ltpo, "score", recorded)
    return seen
