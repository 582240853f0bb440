"""A small latent memory whose answers depend on its decisions, prompts for it, and rewards that are not all alike."""

import torch

from rtx_lab.core.sections import Generation, Ltpo
from rtx_lab.core.types import Cut
from rtx_lab.data.generated import arithmetic
from rtx_lab.models.latent_memory import LatentMemory
from rtx_lab.tasks.trigger import TriggerTask

SHAPE = {
    "architecture": "llama", "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 48,
    "max_seq_len": 256, "prompt_latents_len": 3, "inference_latents_len": 2, "lora_rank": 4, "max_inference_aug_num": 3,
}  # fmt: skip
CUT = Cut(seed=3, global_batch=4, micro_batch=4, eval_batch=8)


def small_dataset():
    """A few word problems in the format of GSM8K; made anew, for caches that belong to a test."""
    return arithmetic(num_train=64, num_validation=8, num_test=8, data_seed=1)


def small_model(trigger="head", dtype=torch.float64, **values):
    """A random network whose next token is far from certain, and a trigger whose odds depend on the state."""
    torch.manual_seed(0)
    made = LatentMemory(vocab_size=116, trigger=trigger, **(SHAPE | values))
    for weight in made.network.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.25)
    torch.nn.init.normal_(made.trigger_head.weight, std=0.2)
    made.measure()
    return made if dtype is torch.float32 else made.to(dtype)


class Often:
    """Every fifth token of an answer ends a sentence: a random network hardly writes full stops."""

    def to(self, device):
        return self

    def advance(self, states, ids):
        return states + 1

    def decides(self, states):
        return states % 5 == 0


def small_task(dataset, cut=CUT, **values):
    """The task over a data set, with short answers that meet many decisions."""
    values = {"prompts_share": 1.0} | values
    made = TriggerTask(
        dataset=dataset, cut=cut, generation=Generation(max_new_tokens=18, watch_rows=8), ltpo=Ltpo(), **values
    )
    made.solver.delimiters = Often()
    return made


class Parity:
    """Verdicts that a random network meets half the time: right is an answer whose ids have an even sum."""

    def of(self, row, actions, ids, cut):
        return sum(ids) % 2 == 0
