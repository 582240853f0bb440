"""Latent memory (MemGen, arXiv 2509.24704): a frozen causal language model that is given woven latents while it writes.

One network plays all parts. The *reader* is the network itself, bit for bit. The *weaver* is the network with adapters:
at the prompt's end and at ends of sentences its queries look at what was read and become latents, which the reader
takes as input embeddings. The *trigger* says whether a place gets latents. What the weaver looks at (`weaver_context`):

    embeds      the input embeddings, read by the weaver itself (the original code)
    hidden      the reader's last hidden states, read by the weaver itself (the paper's text)
    shared_kv   the reader's own keys and values; adapters act on the queries alone

Deviations from the original: roles switch for certain, latents are brought to the size of token embeddings, the
projections start as the identity, the trigger's head starts at even odds, and no text is read twice.

Shapes: B rows, T places that are read, D width, K latents of an insertion, V rows of the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtx_lab.core import tensorfile
from rtx_lab.models import latent_stream, ranges
from rtx_lab.models.adapters import Adaptation
from rtx_lab.models.causal_base import EMBEDDING_STD, KEYS, build_causal, completed
from rtx_lab.models.latent_reading import Reading, last_state
from rtx_lab.models.roles import READER, Role, RoleLinear, give_roles, numbers_per_rank

CONTEXTS = ("embeds", "hidden", "shared_kv")
TRIGGERS = ("head", "lora")
PARTS = ("weaver", "trigger", "prompt", "tuned", "base")
"""What a stage may train: the weaver, the trigger, learnt input embeddings, adapters of the reader, the base itself."""
KINDS = ("prompt", "inference")
"""Where latents stand: behind the prompt, or behind a sentence of the answer."""


class LatentMemory(nn.Module):
    """A causal language model with weaver, trigger, learnt prompt and reader's adapters; see the module.

    `checkpoint`: hub id or folder, None for random weights, which `pretrain_phase` trains first. `vocab_size` ids are
    written; `embedding_rows` is the table's. `max_prompt_aug_num` insertions of `prompt_latents_len` behind the prompt,
    at most `max_inference_aug_num` of `inference_latents_len` in the answer. Raises UsageError with all problems.
    """

    task = "rtx_lab.tasks.answering.TuneTask"
    shape_keys = KEYS  # of a checkpoint's config.json, which fills nulls while settling
    max_steps = 1

    def __init__(
        self,
        *,
        architecture: str | None,
        checkpoint: str | None = None,
        revision: str = "main",
        tokenizer: str | None = None,
        tokenizer_size: int | None = None,
        pretrain_phase: str | None = None,
        vocab_size: int | None = None,
        embedding_rows: int | None = None,
        max_seq_len: int | None = 1024,
        d_model: int | None,
        n_layers: int | None,
        n_heads: int | None,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        d_ff: int | None,
        tied_head: bool | None = True,
        rope_theta: float | None = None,
        norm_eps: float | None = 1e-6,
        quantize: str = "none",
        max_prompt_aug_num: int = 1,
        max_inference_aug_num: int = 5,
        prompt_latents_len: int = 8,
        inference_latents_len: int = 8,
        weaver_context: str = "shared_kv",
        projection_init: str = "identity",
        trigger: str = "head",
        lora_rank: int = 16,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.1,
        lora_targets: Sequence[str] = ("q_proj", "v_proj"),
    ) -> None:
        super().__init__()
        given = completed({key: value for key, value in locals().items() if key not in ("self", "__class__")})
        _check(given)
        self.arguments = given
        self.max_seq_len, self.weaver_context, self.trigger = given["max_seq_len"], weaver_context, trigger
        self.max_insertions = {"prompt": max_prompt_aug_num, "inference": max_inference_aug_num}
        self.prompt_latents, self.inference_latents = prompt_latents_len, inference_latents_len
        self.role, self.reader_role = Role(), READER
        self.network = build_causal(given)
        self.refuses_fp16 = quantize != "none"  # its products and tables are bfloat16
        self.is_fixed = checkpoint is not None or quantize != "none"
        self._make_parts(given)
        self.size: Tensor
        self.register_buffer("size", self.output_weight.new_tensor(EMBEDDING_STD, dtype=torch.float32), False)
        self.measure()
        self.register_load_state_dict_post_hook(lambda module, _: module.measure())
        self.train_only(None)

    def _make_parts(self, given: dict[str, Any]) -> None:
        body, width = self.network.model, given["d_model"]
        how = Adaptation(
            rank=given["lora_rank"], alpha=float(given["lora_alpha"]), dropout=given["lora_dropout"],
            targets=tuple(given["lora_targets"]),
        )  # fmt: skip
        per_rank = numbers_per_rank(body, how.targets)
        lengths = {"prompt": given["prompt_latents_len"], "inference": given["inference_latents_len"]}
        table = self.network.get_input_embeddings().weight
        center = table.detach().float().mean(0)
        self.queries = nn.ParameterDict(
            {kind: center + EMBEDDING_STD * torch.randn(length, width) for kind, length in lengths.items()}
        )
        self.to_weaver = None
        if given["weaver_context"] != "shared_kv":
            self.to_weaver = _projection(width, given["projection_init"])
        self.to_reader = _projection(width, given["projection_init"])
        self.gain = nn.Parameter(torch.ones(width))
        shared = [self.queries, self.to_weaver, self.to_reader]
        num_shared = width + sum(p.numel() for module in shared if module is not None for p in module.parameters())
        tuned_rank = max(1, round((how.rank * per_rank + num_shared) / max(1, per_rank)))
        tuned = Adaptation(rank=tuned_rank, alpha=how.scale * tuned_rank, dropout=how.dropout, targets=how.targets)
        roles = {"weaver": how, "tuned": tuned} | ({"trigger": how} if given["trigger"] == "lora" else {})
        give_roles(body, self.role, roles)
        self.learnt = nn.Parameter(center + EMBEDDING_STD * torch.randn(max(1, lengths["prompt"]), width))
        self.trigger_head = nn.Linear(width, 1)
        nn.init.zeros_(self.trigger_head.weight)
        nn.init.zeros_(self.trigger_head.bias)

    @torch.no_grad()
    def measure(self) -> None:
        """Remember how large a token's embedding is: the root of its mean square."""
        self.size.copy_(self.network.get_input_embeddings().weight.float().pow(2).mean().sqrt())

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The trained numbers of each part."""
        lora: dict[str, list[nn.Parameter]] = {"weaver": [], "tuned": [], "trigger": []}
        for layer in self.network.modules():
            if isinstance(layer, RoleLinear):
                for role, adapter in layer.adapters.items():
                    lora[role] += [*adapter.parameters()]
        modules = [module for module in (self.queries, self.to_weaver, self.to_reader) if module is not None]
        own = [param for module in modules for param in module.parameters()]
        adapters = {id(param) for params in lora.values() for param in params}
        return {
            "weaver": [*lora["weaver"], *own, self.gain],
            "trigger": [*lora["trigger"], *self.trigger_head.parameters()],
            "prompt": [self.learnt],
            "tuned": lora["tuned"],
            "base": [param for param in self.network.parameters() if id(param) not in adapters],
        }

    def train_only(self, part: str | None) -> None:
        """Let one part learn and nothing else; under `tuned` the reader reads with its adapters from here on."""
        if part is not None:
            ranges.refuse(ranges.one_of("part", part, PARTS))
        if part == "base" and self.arguments["quantize"] != "none":
            ranges.refuse(
                [f"the base cannot be trained as model.quantize={self.arguments['quantize']}: set it to none"]
            )
        for name, params in self.parts().items():
            for param in params:
                param.requires_grad_(name == part)
        self.reader_role = "tuned" if part == "tuned" else READER

    @property
    def output_weight(self) -> Tensor:
        """The head's weight: one row for each id that may be written (V, D)."""
        return self.network.get_output_embeddings().weight[: self.arguments["vocab_size"]]

    def embed(self, ids: Tensor) -> Tensor:
        """Return (..., D) for ids (...), in float32."""
        x = self.network.get_input_embeddings()(ids)
        return x.float() if x.dtype is torch.bfloat16 else x

    def begin(self, num_rows: int, *, weaves: bool, decides: bool) -> Reading:
        """Texts of which nothing has been read; `weaves` and `decides` say which parts will be asked."""
        device = self.learnt.device
        own_weaver = weaves and self.weaver_context != "shared_kv"
        own_trigger = decides and self.trigger == "lora"
        return Reading(
            latent_stream.begin(num_rows, device),
            latent_stream.begin(num_rows, device) if own_weaver else None,
            latent_stream.begin(num_rows, device) if own_trigger else None,
            self.learnt.new_zeros(num_rows, self.learnt.shape[1]),
            [],
        )

    def read(self, reading: Reading, x_BTD: Tensor, real_BT: Tensor, text_BT: Tensor | None = None) -> Tensor:
        """Let every part read T more places; return the reader's hidden states (B, T, D).

        A weaver that reads by itself does so when it is asked: behind the last latents it reads nothing.

        `text_BT` says which of the real places are text; without it all are. A trigger of its own sees text alone.
        """
        with self.role.play(self.reader_role):
            hidden_BTD = latent_stream.read(self.network.model, reading.reader, x_BTD, real_BT)
        if reading.weaver is not None:
            reading.waiting.append((x_BTD if self.weaver_context == "embeds" else hidden_BTD, real_BT))
        judged, told_BT = hidden_BTD, real_BT if text_BT is None else real_BT & text_BT
        if reading.trigger is not None:
            with self.role.play("trigger"):
                judged = latent_stream.read(self.network.model, reading.trigger, x_BTD, told_BT)
        reading.state_BD = last_state(judged, told_BT, reading.state_BD)
        return hidden_BTD

    def catch_up(self, reading: Reading) -> None:
        """Let a weaver that reads by itself read what it has not read yet; before rows are chosen that insert."""
        if reading.weaver is None or self.to_weaver is None:
            return
        for x_BTD, real_BT in reading.joined():
            with self.role.play("weaver"):
                latent_stream.read(self.network.model, reading.weaver, self.to_weaver(x_BTD), real_BT)
        reading.waiting.clear()

    def weave(self, reading: Reading, kind: str) -> Tensor:
        """Latents (B, K, D) for what was read so far; nothing is added to it."""
        self.catch_up(reading)
        source = reading.reader if reading.weaver is None else reading.weaver
        x_BKD = self.queries[kind].expand(len(source.real_BL), -1, -1)
        real_BK = torch.ones(x_BKD.shape[:2], dtype=torch.bool, device=x_BKD.device)
        with self.role.play("weaver"):
            z_BKD = latent_stream.read(self.network.model, source.fork(), x_BKD, real_BK)
        m_BKD = self.to_reader(z_BKD)
        return F.rms_norm(m_BKD, m_BKD.shape[-1:], eps=1e-6) * self.gain * self.size

    def insertion_logit(self, state_BD: Tensor) -> Tensor:
        """The trigger's log odds (...) of an insertion, from states (..., D), in full precision: odds of the same state
        are the same while writing and while learning."""
        with torch.autocast(state_BD.device.type, enabled=False):
            return self.trigger_head(state_BD.to(self.trigger_head.weight.dtype)).squeeze(-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) in float32 or wider, for the few places where one is written."""
        weight_VD = self.output_weight
        found = F.linear(hidden.to(weight_VD.dtype), weight_VD)
        return found.float() if found.dtype in (torch.bfloat16, torch.float16) else found

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every tensor, or where the base is a checkpoint's or packed, all but the base."""
        if not self.is_fixed:
            return super().state_dict(*args, **kwargs)
        base = {id(param) for param in self.parts()["base"]}
        return {name: value.detach() for name, value in self.named_parameters() if id(value) not in base}

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors for `from_pretrained`; a checkpoint of the base is only named."""
        (folder / "config.json").write_text(json.dumps(self.arguments, indent=1) + "\n", encoding="utf-8")
        tensorfile.write(folder / "model.safetensors", self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> LatentMemory:
        """Open what `save_pretrained` wrote."""
        made = cls(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        made.load_state_dict(tensorfile.read(folder / "model.safetensors"))
        return made

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Set what `state_dict` gives. Raises RuntimeError where names or shapes differ, as torch does."""
        if not self.is_fixed:
            return super().load_state_dict(state_dict, strict, assign)
        own = self.state_dict()
        if strict and own.keys() != state_dict.keys():
            raise RuntimeError(f"other tensors than weaver and trigger: {sorted(own.keys() ^ state_dict.keys())}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def _projection(width: int, start: str) -> nn.Linear:
    layer = nn.Linear(width, width)
    nn.init.zeros_(layer.bias)
    if start == "identity":
        nn.init.eye_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=width**-0.5)
    return layer


def _check(given: dict[str, Any]) -> None:
    """Refuse every parameter of the parts that is out of range, all at once."""
    problems = []
    for key in ("max_prompt_aug_num", "max_inference_aug_num"):
        problems += ranges.integer(key, given[key], least=0)
    for key in ("prompt_latents_len", "inference_latents_len"):
        problems += ranges.integer(key, given[key], least=0)
    problems += ranges.one_of("weaver_context", given["weaver_context"], CONTEXTS)
    problems += ranges.one_of("projection_init", given["projection_init"], ("identity", "scaled"))
    problems += ranges.one_of("trigger", given["trigger"], TRIGGERS)
    problems += ranges.positive_integer("lora_rank", given["lora_rank"])
    problems += ranges.positive_number("lora_alpha", given["lora_alpha"])
    problems += ranges.number("lora_dropout", given["lora_dropout"], below=1)
    ranges.refuse(problems)
