"""A sample's depth depends on its tokens and the step, not on padding, its neighbours or how a batch is cut."""

import torch

from rtx_lab.nn.depths import sample_uniform

TOKENS = torch.randint(0, 50, (4000, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(TOKENS, dtype=torch.bool)


def test_uniform():
    torch.manual_seed(3)
    counts = torch.histc(sample_uniform(TOKENS, MASK), bins=8, min=0, max=1)
    assert (counts - 500).abs().max() < 100
    assert sample_uniform(TOKENS, MASK).max() < 1


def test_same_for_padded_and_cut_batches_and_consumes_no_randomness():
    torch.manual_seed(3)
    whole = sample_uniform(TOKENS, MASK)
    after = torch.rand(1)
    padded = torch.cat([TOKENS, torch.randint(0, 50, (4000, 5))], dim=1)
    mask = torch.arange(17).expand(4000, -1) < 12
    assert torch.equal(sample_uniform(padded, mask), whole)
    assert torch.equal(sample_uniform(TOKENS[100:164], MASK[100:164]), whole[100:164])
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


def test_new_at_every_step():
    torch.manual_seed(3)
    first = sample_uniform(TOKENS, MASK)
    torch.manual_seed(4)
    second = sample_uniform(TOKENS, MASK)
    assert (first == second).float().mean() < 0.01
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 0.06


def test_compiled_graphs_do_not_keep_the_seed():
    compiled = torch.compile(sample_uniform, backend="eager", fullgraph=True)
    for seed in (1, 2):
        torch.manual_seed(seed)
        assert torch.equal(compiled(TOKENS[:8], MASK[:8]), sample_uniform(TOKENS[:8], MASK[:8]))
