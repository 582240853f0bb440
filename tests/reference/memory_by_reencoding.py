"""Latent memory as its definition says: one text, no cache; for every token the whole text is read again.

A text is a list of input embeddings (D,), and which of them are text and which are latents.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from rtx_lab.data.delimiters import decision_points
from rtx_lab.inference.latent_rows import Decision
from rtx_lab.inference.latent_writing import MOST_ASKED
from rtx_lab.models.roles import RoleLinear
from rtx_lab.nn.masking import CHOICES, hashed_uniform


@dataclass
class Text:
    """What stands before the next token."""

    x: list
    is_text: list = field(default_factory=list)

    def add(self, vectors, is_text):
        self.x += [*vectors]
        self.is_text += [is_text] * len(vectors)


def read(model, x, role):
    """Last hidden states (L, D) of embeddings (L, D), by the plain network."""
    with model.role.play(role):
        return model.network.model(inputs_embeds=torch.stack([*x])[None], use_cache=False).last_hidden_state[0]


def weave(model, x, kind):
    """The latents (K, D) behind a text: the weaver reads the whole of it with its queries at the end."""
    seen_LD, queries_KD = torch.stack([*x]), model.queries[kind]
    if model.weaver_context == "shared_kv":
        with adapters_at(model, "weaver", [False] * len(seen_LD) + [True] * len(queries_KD)):
            z_LD = read(model, torch.cat([seen_LD, queries_KD]), "reader")
    else:
        if model.weaver_context == "hidden":
            seen_LD = read(model, seen_LD, model.reader_role)
        z_LD = read(model, torch.cat([model.to_weaver(seen_LD), queries_KD]), "weaver")
    m_KD = model.to_reader(z_LD[len(seen_LD) :])
    size = model.network.get_input_embeddings().weight.float().pow(2).mean().sqrt()
    return m_KD / (m_KD.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * model.gain * size.detach()


@contextmanager
def adapters_at(model, role, places):
    """Let the adapters of a role act at these places alone, in one pass over all of them."""
    acts_L1 = torch.tensor(places)[:, None]
    hooks = []
    for layer in model.network.modules():
        if isinstance(layer, RoleLinear) and role in layer.adapters:
            adapter = layer.adapters[role]
            hooks.append(layer.register_forward_hook(lambda _, given, y, a=adapter: y + a(given[0]) * acts_L1))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class Answer:
    ids: list
    actions: list
    places: list
    latents: int
    cut: bool
    text: Text
    first: int
    """Places of the prompt and its latents: the last of them predicts the first token."""


def write(model, prompt, seed, *, limits, delimiters, choose, in_answer=True):
    """The answer behind a prompt (S,): every token from a pass over all that stands before it."""
    text = Text([])
    text.add(model.embed(prompt[-model.max_seq_len :]), True)
    answer = Answer([], [], [], 0, False, text, 0)

    def room():
        return model.max_seq_len - len(text.x)

    def inserts():
        answer.actions.append(int(_chosen(model, text, choose, len(answer.actions), seed)))
        answer.places.append(len(answer.ids))
        return answer.actions[-1] == 1

    def insert(kind):
        latents = weave(model, text.x, kind)
        text.add(latents, False)
        answer.latents += len(latents)

    for number in range(model.max_insertions["prompt"] if choose else 0):
        fits = model.prompt_latents and room() > model.prompt_latents
        if fits and (inserts() if number == 0 else answer.actions[0] == 1):
            insert("prompt")
    answer.first, inserted = len(text.x), 0
    most_asked = 1 + MOST_ASKED * model.max_insertions["inference"]
    while room() >= 1:
        token = _picked(model, text, seed, len(answer.ids), limits)
        answer.ids.append(token)
        if token in limits.stop_ids:
            return answer
        if len(answer.ids) == limits.max_new_tokens:
            break
        text.add(model.embed(torch.tensor([token])), True)
        ended = len(answer.ids) in decision_points(delimiters, answer.ids).tolist()
        may = inserted < model.max_insertions["inference"] and room() > model.inference_latents > 0
        if ended and may and choose and in_answer and len(answer.actions) < most_asked and inserts():
            insert("inference")
            inserted += 1
    answer.cut = True
    return answer


def _chosen(model, text, choose, number, seed):
    """Whether a text gets latents here: judged by the trigger's state at the last place that is text."""
    if model.trigger == "lora":
        state_D = read(model, [x for x, real in zip(text.x, text.is_text, strict=True) if real], "trigger")[-1]
    else:
        last = max(place for place, real in enumerate(text.is_text) if real)
        state_D = read(model, text.x, model.reader_role)[last]
    one = torch.tensor([1])
    logit = (state_D * model.trigger_head.weight[0]).sum() + model.trigger_head.bias[0]
    return choose(Decision(state_D[None], logit[None], one, one * 0 + number, one * 0 + seed))


def _picked(model, text, seed, place, limits):
    """The likeliest token, or one drawn by the rule of Gumbel's maximum."""
    logits_V = read(model, text.x, model.reader_role)[-1] @ model.output_weight.T
    if limits.temperature > 0:
        uniform_V = hashed_uniform(seed[None] * 1_000_003 + place, len(logits_V), CHOICES)[0]
        logits_V = logits_V / limits.temperature - torch.log(-torch.log(uniform_V.clamp_min(1e-9)))
    return int(logits_V.argmax())


def all_logits(model, answer):
    """The logits behind every place from the prompt's end on, from one pass over the finished text."""
    return read(model, answer.text.x, model.reader_role)[answer.first - 1 :] @ model.output_weight.T


def sft_loss(model, prompt, answer, *, most_prompt, ends):
    """Nats of an answer (T,) with its end, in one text with latents behind the prompt and behind tokens `ends`."""
    text, predicting = Text([]), []
    text.add(model.embed(prompt), True)
    for _ in range(most_prompt):
        text.add(weave(model, text.x, "prompt"), False)
    for place, token in enumerate(answer.tolist()):
        predicting.append(len(text.x) - 1)
        if place + 1 < len(answer):
            text.add(model.embed(torch.tensor([token])), True)
        if place in ends:
            text.add(weave(model, text.x, "inference"), False)
    logits_TV = read(model, text.x, model.reader_role)[predicting] @ model.output_weight.T
    return torch.nn.functional.cross_entropy(logits_TV, answer, reduction="sum")
