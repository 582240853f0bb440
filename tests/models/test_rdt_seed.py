"""The seed's recursive denoiser: its totals, torch's own layer as its twin, padding, gate, bad parameters."""

import post_norm_by_torch as twin
import pytest
import torch
from small_denoisers import B, batch_of, logits_of, loss_of, run_chain, seed_denoiser, trained

from rtx_lab.core.errors import UsageError
from rtx_lab.models.counts import count_parameters
from rtx_lab.models.rdt_seed import SeedDenoiser


def _formula(vocab_size, d_model, d_ff, num_layers, gate_hidden):
    """V D + n (4 D^2 + 2 D F + F + 9 D) + D V + V + gate; with F = 4 D a layer is 12 D^2 + 13 D."""
    layer = 4 * d_model**2 + 2 * d_model * d_ff + d_ff + 9 * d_model
    gate = d_model * gate_hidden + 2 * gate_hidden + 1
    return vocab_size * d_model + num_layers * layer + d_model * vocab_size + vocab_size + gate


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        ({"d_model": 512, "n_heads": 8, "d_ff": 2048, "n_encoder_layers": 6}, 50_330_939),
        ({"d_model": 256, "n_heads": 4, "d_ff": 1024, "n_encoder_layers": 4}, 18_882_875),
        ({"d_model": 768, "n_heads": 12, "d_ff": 3072, "n_encoder_layers": 12}, 132_163_899),
    ],
)
def test_totals(sizes, total):
    with torch.device("meta"):
        counted = count_parameters(SeedDenoiser(vocab_size=30522, **sizes))
    assert counted == _formula(30522, sizes["d_model"], sizes["d_ff"], sizes["n_encoder_layers"], 256) == total
    d = sizes["d_model"]
    assert _formula(0, d, 4 * d, 1, 0) == 12 * d**2 + 13 * d + 1


@pytest.mark.parametrize("ways", [{}, {"decoder_type": "transformer", "n_decoder_layers": 2}])
@torch.no_grad()
def test_it_marches_in_step_with_torchs_encoder_layer(ways):
    model = trained(seed_denoiser(**ways).double()).eval()
    tokens, real = batch_of()
    thoughts, reads = run_chain(model, tokens, real, [None] * 4)
    for b in range(B):
        for step, (hidden, noise, read) in enumerate(twin.denoise(model, tokens[b, real[b]], 4)):
            torch.testing.assert_close(thoughts[step].hidden_BLD[b, real[b]], hidden, rtol=0, atol=1e-10)
            assert thoughts[step].noise_B[b].item() == pytest.approx(noise, abs=1e-12)
            if step:
                torch.testing.assert_close(reads[step - 1][b, real[b]], read, rtol=0, atol=1e-10)


@torch.no_grad()
def test_padding_changes_nothing_and_a_batch_equals_its_samples():
    model = trained(seed_denoiser(decoder_type="transformer")).eval()
    tokens, real = batch_of()
    thoughts, reads = run_chain(model, tokens, real, [None] * 5)
    for b in range(B):
        alone, alone_reads = run_chain(model, tokens[b : b + 1, real[b]], None, [None] * 5)
        torch.testing.assert_close(reads[-1][b, real[b]], alone_reads[-1][0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(thoughts[-1].noise_B[b], alone[-1].noise_B[0], rtol=0, atol=1e-6)
    noises = torch.stack([thought.noise_B for thought in thoughts])
    assert (noises[1:] <= noises[:-1]).all()
    assert (noises[1:] < noises[:-1]).any()


def test_every_parameter_learns_and_an_empty_text_stays_finite():
    model = trained(seed_denoiser(decoder_type="transformer", n_decoder_layers=1))
    tokens, real = batch_of()
    real[1] = False
    loss_of(model, tokens, real).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    still = [name for name, value in model.named_parameters() if not value.grad.any()]
    assert still == []


def test_logits_start_near_unit_variance():
    model = seed_denoiser(vocab_size=1000, d_model=64, n_heads=4, d_ff=256, n_encoder_layers=6).eval()
    for states in run_chain(model, *batch_of(), [None] * 8)[1]:
        assert 0.8 < logits_of(model, states).std() < 1.2


def test_backprop_steps_cuts_the_gradient():
    for num_steps, whole in ((2, True), (3, False)):
        model = seed_denoiser(backprop_steps=2)
        run_chain(model, *batch_of(), [None] * num_steps)[1][-1].sin().sum().backward()
        assert (model.token.grad is not None) == whole


def test_it_takes_no_fresh_tokens():
    model = seed_denoiser()
    tokens, real = batch_of()
    with pytest.raises(ValueError, match="re-injects nothing"):
        model.advance(model.begin(tokens, real), None, tokens)
    assert (model.commit, model.noise_mixing_steps) == (False, 0)


def test_saved_model_is_bit_equal(tmp_path):
    model = trained(seed_denoiser()).eval()
    model.save_pretrained(tmp_path)
    loaded = SeedDenoiser.from_pretrained(tmp_path).eval()
    assert torch.equal(*(run_chain(each, *batch_of(), [None] * 2)[1][-1] for each in (model, loaded)))


def test_layers_for_a_linear_decoder_are_pointed_out():
    with pytest.warns(UserWarning, match="model.n_decoder_layers=3 has no effect"):
        seed_denoiser(n_decoder_layers=3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("vocab_size", 0), ("n_heads", 3), ("gate_hidden_dim", 0), ("decoder_type", "tied"), ("max_chain_length", 0)],
)
def test_bad_parameters_are_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"model.{key} must "):
        seed_denoiser(**{key: value})
