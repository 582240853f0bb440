"""Where latents come from: random ones are as long as those that would have been woven, and point elsewhere."""

import pytest
import torch
from small_latent_memory import prompts, small

from rtx_lab.inference.latents import learnt, noise, woven

SEEDS = torch.tensor([3, 11, 6])


@pytest.mark.parametrize("kind", ["prompt", "inference"])
def test_noise_has_the_norms_of_what_would_have_been_woven(kind):
    model = small()
    _, ids_BS, mask_BS = prompts((9, 4, 12))
    with torch.no_grad():
        reading = model.begin(3, weaves=True, decides=False)
        model.read(reading, model.embed(ids_BS), mask_BS)
        (wanted, _), (found, told) = (source(model, reading, kind, SEEDS) for source in (woven, noise))
    torch.testing.assert_close(found.norm(dim=-1), wanted.norm(dim=-1))
    assert wanted.norm(dim=-1).std() > 1e-3 * wanted.norm(dim=-1).mean()
    cosine = torch.nn.functional.cosine_similarity(found, wanted, dim=-1)
    assert cosine.abs().max() < 0.6
    assert not torch.equal(found[0] / found[0].norm(), found[1] / found[1].norm())
    assert not told.any()
    assert torch.equal(learnt(model, reading, "prompt", SEEDS)[0], model.learnt.expand(3, -1, -1))
