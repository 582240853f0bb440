"""The recursive core: modulated norms, at first blind to the noise."""

import recursion_by_loops as loops
import torch

from rtx_lab.models.counts import count_parameters
from rtx_lab.nn.adaln import NoiseEmbedding, RecursiveCore, modulate
from rtx_lab.nn.rotary import rotary_table

B, L, D, H, LAYERS = 3, 7, 12, 2, 3


def _core():
    torch.manual_seed(0)
    return RecursiveCore(D, LAYERS, H, 20, 0.0).double()


def _inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(B, L, D, generator=generator, dtype=torch.float64)
    return x, rotary_table(L, D // H).double()(L)


def test_an_untrained_core_does_not_hear_the_noise():
    core, (x, rotation) = _core(), _inputs()
    quiet = core(x, torch.zeros(B, dtype=torch.float64), rotation, None)
    for level in (0.3, 7.0, 20.0):
        assert torch.equal(core(x, torch.full((B,), level, dtype=torch.float64), rotation, None), quiet)


def test_it_learns_to_hear_it():
    core, (x, rotation) = _core(), _inputs()
    optimizer = torch.optim.SGD(core.parameters(), lr=0.1)
    for _ in range(2):  # scales and shifts move first, and then pass a gradient to the embedding
        optimizer.zero_grad()
        core(x, torch.tensor([0.0, 9.0, 20.0]), rotation, None).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad.any() for parameter in core.parameters())
    low, high = (core(x, torch.full((B,), level), rotation, None) for level in (0.0, 20.0))
    assert not torch.allclose(low, high)


def test_one_stacked_map_is_a_linear_map_per_norm():
    core = _core()
    assert count_parameters(core.modulation) == 2 * LAYERS * (2 * D**2 + 2 * D)
    torch.nn.init.normal_(core.modulation.weight, std=0.3)
    torch.nn.init.normal_(core.modulation.bias, std=0.3)
    x, rotation = _inputs()
    level = torch.tensor([0.0, 3.7, 20.0], dtype=torch.float64)
    out = core(x, level, rotation, None)
    for b in range(B):
        torch.testing.assert_close(out[b], loops.core(core, x[b], level[b].item()), rtol=1e-10, atol=1e-11)


def test_noise_embedding_equals_its_formula():
    torch.manual_seed(0)
    module = NoiseEmbedding(D).double()
    level = torch.tensor([0.0, 0.5, 19.0], dtype=torch.float64)
    for b, embedded in enumerate(module(level)):
        wave = loops.wave(level[b].item(), D)
        torch.testing.assert_close(embedded, module.outer(torch.nn.functional.silu(module.inner(wave))))


def test_modulation_is_per_sample():
    x = torch.randn(2, L, D)
    scale, shift = torch.tensor([[0.0], [1.0]]).expand(2, D), torch.tensor([[0.0], [5.0]]).expand(2, D)
    out = modulate(x, scale, shift)
    normed = torch.nn.functional.layer_norm(x, (D,))
    torch.testing.assert_close(out[0], normed[0])
    torch.testing.assert_close(out[1], 2 * normed[1] + 5)
