"""Improving latents as its definition says: one text, no cache, the whole text read by the plain network every step."""

import math

import torch


def reward(logits, objective, top_k=10):
    """The mean over places of how sure a prediction is, from logits (K, V), place by place and token by token."""
    total = logits.new_zeros(())
    for place in logits:
        p = torch.exp(place - place.max())
        p = p / p.sum()
        ordered = p.sort(descending=True).values
        if objective == "entropy":
            total = total + sum(value * value.log() for value in p)
        elif objective == "topk_neglogp":
            total = total - sum((value + 1e-10).log() for value in ordered[:top_k]) / min(top_k, len(p))
        elif objective == "max_prob":
            total = total + ordered[0]
        elif objective == "margin":
            total = total + ordered[0] - ordered[1]
        elif objective == "self_certainty":
            total = total + sum((1 / len(p)) * math.log(1 / len(p)) - value.log() / len(p) for value in p)
    return total / len(logits)


def reward_and_gradient(model, ids, latents, objective, top_k=10):
    """The reward of latents (K, D) behind the text `ids`, and its gradient."""
    with torch.enable_grad():
        latents = latents.detach().clone().requires_grad_()
        table = model.network.get_input_embeddings().weight.detach()
        whole = torch.cat([table[ids], latents])[None]
        with model.role.play(model.reader_role):
            logits = model.network(inputs_embeds=whole, use_cache=False).logits[0]
        found = reward(logits[len(ids) :, : model.arguments["vocab_size"]], objective, top_k)
        found.backward()
    return found.detach(), latents.grad


def improve(model, ids, woven, settings, draw):
    """Latents of one text, improved without controls, radius or early end; `draw(step)` is the noise (S, K, D).

    Noise and Adam's steps are in units of an embedding's size. Returns the best latents, their reward, and all rewards
    that were seen, the woven latents' first.
    """
    center = woven.detach().clone().requires_grad_()
    adam = torch.optim.Adam([center], lr=settings.lr * model.size.item(), maximize=True)
    best, seen = None, []
    for step in range(settings.max_steps + 1):
        sigma = settings.sigma * settings.decay ** (step - 1)
        noise = draw(step) * model.size if step else torch.zeros_like(woven)[None]
        rewards, slopes = [], []
        for eps in noise:
            candidate = center.detach() + eps
            value, slope = reward_and_gradient(model, ids, candidate, settings.objective, settings.top_k)
            rewards, slopes, seen = [*rewards, value], [*slopes, slope], [*seen, float(value)]
            if best is None or value > best[1]:
                best = candidate, value
        if settings.estimator == "autograd":
            center.grad = sum(slopes) / len(slopes)
            adam.step()
        elif step:
            center.data += settings.lr * _estimate(settings.estimator, rewards, noise, sigma)
    return *best, seen


def _estimate(estimator, rewards, noise, sigma):
    total = torch.zeros_like(noise[0])
    for i, eps in enumerate(noise):
        if estimator == "reinforce":
            total += rewards[i] * eps / sigma**2 / len(noise)
        elif estimator == "baseline":  # the mean of the others: unbiased
            others = sum(rewards[:i] + rewards[i + 1 :]) / (len(noise) - 1)
            total += (rewards[i] - others) * eps / sigma**2 / len(noise)
        elif estimator == "antithetic" and i < len(noise) // 2:
            opposite = rewards[i + len(noise) // 2]
            total += (rewards[i] - opposite) * eps / (2 * sigma**2) / (len(noise) // 2)
    return total
