"""The encoder of MLM, CMLM and MDLM: its totals, its slow twin, padding, bad parameters."""

import math

import pytest
import recursion_by_loops as loops
import torch
from small_denoisers import B, batch_of, logits_of, loss_of, masked, trained

from rtx_lab.core.errors import UsageError
from rtx_lab.models.counts import count_parameters
from rtx_lab.models.masked_lm import MaskedLanguageModel


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        ({"d_model": 512, "n_heads": 8, "d_ff": 2048, "n_encoder_layers": 6}, 34_530_304),
        ({"d_model": 768, "n_heads": 12, "d_ff": 3072, "n_encoder_layers": 12}, 108_460_032),
    ],
)
@pytest.mark.parametrize("objective", ["mlm", "cmlm", "mdlm"])
def test_published_totals(sizes, total, objective):
    with torch.device("meta"):
        assert count_parameters(MaskedLanguageModel(vocab_size=30522, objective=objective, **sizes)) == total


@torch.no_grad()
def test_it_equals_its_slow_twin_and_ignores_padding():
    model = trained(masked().double()).eval()
    tokens, real = batch_of()
    states = model.encode(tokens, real)
    for b in range(0, B, 2):
        own = model.token[tokens[b, real[b]]] * math.sqrt(16)
        torch.testing.assert_close(states[b, real[b]], loops.stack(model.encoder, own), rtol=0, atol=1e-10)
        torch.testing.assert_close(states[b, real[b]], model.encode(tokens[b : b + 1, real[b]], None)[0])


def test_every_parameter_learns_and_an_empty_text_stays_finite():
    model = masked()
    tokens, real = batch_of()
    real[1] = False
    loss_of(model, tokens, real).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())
    assert all(value.grad.any() for value in model.parameters())


def test_logits_start_near_unit_variance():
    model = masked(vocab_size=1000, d_model=64, n_heads=4, n_encoder_layers=6).eval()
    assert 0.8 < logits_of(model, model.encode(*batch_of())).std() < 1.2
    assert model.output_bias is None


@pytest.mark.parametrize(("objective", "passes"), [("mlm", 1), ("cmlm", 7), ("mdlm", 30)])
def test_the_objective_says_how_many_passes_fill_a_text(objective, passes):
    model = masked(objective=objective, num_iterations=7, num_sampling_steps=30)
    assert (model.objective, model.max_steps) == (objective, passes)


def test_saved_model_is_bit_equal(tmp_path):
    model = trained(masked(objective="mdlm", noise_schedule="linear")).eval()
    model.save_pretrained(tmp_path)
    loaded = MaskedLanguageModel.from_pretrained(tmp_path).eval()
    assert (loaded.objective, loaded.noise_schedule) == ("mdlm", "linear")
    assert torch.equal(model.encode(*batch_of()), loaded.encode(*batch_of()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("objective", "bert"),
        ("mask_ratio", 0),
        ("mask_ratio", 1.2),
        ("num_iterations", 0),
        ("num_sampling_steps", 2.5),
        ("sampler", "ddpm"),
        ("noise_schedule", "log"),
        ("n_heads", 5),
        ("dropout", -0.1),
        ("vocab_size", None),
    ],
)
def test_bad_parameters_are_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^model.{key} must "):
        masked(**{key: value})
