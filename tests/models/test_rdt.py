"""The Recursive Denoising Transformer: its totals, its slow twin, padding, recursion, gradients, bad parameters."""

import warnings

import pytest
import recursion_by_loops as loops
import torch
from small_denoisers import B, L, batch_of, logits_of, loss_of, recursive, run_chain, trained

from rtx_lab.core.errors import UsageError
from rtx_lab.models.counts import count_parameters
from rtx_lab.models.rdt import RecursiveDenoiser

SMALL = {"d_model": 512, "n_heads": 8, "d_ff": 2048, "n_input_layers": 1, "n_encoder_layers": 4, "n_decoder_layers": 1}
BASE = {"d_model": 768, "n_heads": 12, "d_ff": 3072, "n_input_layers": 2, "n_encoder_layers": 6, "n_decoder_layers": 2}
NOISES = (None, torch.linspace(0, 1, B), None, None)
WAYS = ({}, {"reinject": True}, {"carry_norm": False}, {"reinject": True, "carry_norm": False, "n_input_layers": 0})


@pytest.mark.parametrize(("sizes", "total"), [(SMALL, 40_497_596), (BASE, 112_253_116)])
def test_published_totals(sizes, total):
    with torch.device("meta"):
        assert count_parameters(RecursiveDenoiser(vocab_size=30522, **sizes)) == total


@pytest.mark.parametrize("ways", WAYS)
@torch.no_grad()
def test_it_marches_in_step_with_its_slow_twin(ways):
    model = trained(recursive(**ways).double()).eval()
    tokens, real = batch_of()
    thoughts, reads = run_chain(model, tokens, real, NOISES)
    for b in range(0, B, 2):
        levels = [noise if noise is None else noise[b].item() for noise in NOISES]
        for step, (hidden, noise, read) in enumerate(loops.denoise(model, tokens[b, real[b]], levels)):
            torch.testing.assert_close(thoughts[step].hidden_BLD[b, real[b]], hidden, rtol=0, atol=1e-7)
            assert thoughts[step].noise_B[b].item() == pytest.approx(noise, abs=1e-8)
            if read is not None:
                torch.testing.assert_close(reads[step - 1][b, real[b]], read, rtol=0, atol=1e-7)


@torch.no_grad()
def test_committed_tokens_enter_as_the_twin_says():
    model = trained(recursive(reinject=True, commit=True).double()).eval()
    tokens, fresh = batch_of()[0][:2], batch_of(1)[0][:2]
    thoughts, _ = run_chain(model, tokens, None, [None, None, None], fresh)
    for b in range(2):
        for step, (hidden, _, _) in enumerate(loops.denoise(model, tokens[b], [None] * 3, fresh[b])):
            torch.testing.assert_close(thoughts[step].hidden_BLD[b], hidden, rtol=0, atol=1e-7)
    kept, _ = run_chain(model, tokens, None, [None, None, None])
    assert torch.equal(kept[1].hidden_BLD, thoughts[1].hidden_BLD)
    assert not torch.allclose(kept[2].hidden_BLD, thoughts[2].hidden_BLD)


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@torch.no_grad()
def test_padding_changes_nothing_and_a_batch_equals_its_samples(ways, dtype, bound):
    model = trained(recursive(**ways)).to(dtype).eval()
    tokens, real = batch_of()
    thoughts, reads = run_chain(model, tokens, real, NOISES)
    for b in range(B):
        own = [noise if noise is None else noise[b : b + 1] for noise in NOISES]
        alone, alone_reads = run_chain(model, tokens[b : b + 1, real[b]], None, own)
        for many, one in zip(thoughts, alone, strict=True):
            torch.testing.assert_close(many.hidden_BLD[b, real[b]], one.hidden_BLD[0], rtol=bound, atol=bound)
            torch.testing.assert_close(many.noise_B[b], one.noise_B[0], rtol=0, atol=bound)
        torch.testing.assert_close(reads[-1][b, real[b]], alone_reads[-1][0], rtol=bound, atol=bound)


@torch.no_grad()
def test_at_the_start_the_output_does_not_depend_on_the_noise():
    model = recursive().double().eval()
    tokens, real = batch_of()
    reads = [run_chain(model, tokens, real, [torch.full((B,), noise)] * 3)[1][-1] for noise in (0.0, 0.37, 1.0)]
    assert torch.equal(reads[0], reads[1])
    assert torch.equal(reads[0], reads[2])
    heard = trained(model)
    low, high = (run_chain(heard, tokens, real, [torch.full((B,), noise)] * 3)[1][-1] for noise in (0.0, 1.0))
    assert not torch.allclose(low, high)


@torch.no_grad()
def test_logits_start_near_unit_variance_after_any_number_of_recursions():
    model = recursive(vocab_size=1000, d_model=64, n_heads=4, d_ff=256, n_encoder_layers=4).eval()
    tokens, real = batch_of()
    _, reads = run_chain(model, tokens, real, [None] * 20)
    for states in reads:
        assert 0.8 < logits_of(model, states).std() < 1.2


@torch.no_grad()
def test_the_carried_state_grows_only_without_its_norm():
    tokens, real = batch_of()
    ends = {}
    for carry_norm in (False, True):
        model = recursive(carry_norm=carry_norm, d_model=64, n_heads=4, n_encoder_layers=4).eval()
        thoughts, _ = run_chain(model, tokens, real, [None] * 20)
        ends[carry_norm] = thoughts[-1].hidden_BLD.std() / thoughts[0].hidden_BLD.std()
    assert ends[True] == pytest.approx(1, abs=0.05)
    assert ends[False] > 2


@torch.no_grad()
def test_the_gates_estimate_never_rises():
    model = trained(recursive()).eval()
    thoughts, _ = run_chain(model, *batch_of(), [None] * 20)
    noises = torch.stack([thought.noise_B for thought in thoughts])
    assert (noises[1:] <= noises[:-1]).all()
    assert (noises >= 0).all()
    assert (noises <= 1).all()


def test_a_text_without_tokens_stays_finite():
    model = recursive(reinject=True)
    tokens, real = batch_of()
    real[2] = False
    loss_of(model, tokens, real).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("ways", [*WAYS, {"decoder_type": "linear", "n_decoder_layers": None}])
def test_every_parameter_learns(ways):
    model = trained(recursive(**ways))
    loss_of(model, *batch_of()).backward()
    still = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert still in ([], ["gate.pool.key.bias"])  # a constant added to all scores changes no softmax


def _state_gradient(model, num_steps):
    """The gradient of a loss at the last recursion alone, for the embedding, the gate left out."""
    tokens, real = batch_of()
    _, reads = run_chain(model, tokens, real, [torch.full((B,), 0.5)] * num_steps)
    reads[-1].sin().sum().backward()
    return model.token.grad


def test_backprop_steps_cuts_the_gradient():
    for num_steps in (1, 2):
        assert _state_gradient(recursive(backprop_steps=2), num_steps).any()
    for num_steps in (3, 4):
        assert _state_gradient(recursive(backprop_steps=2), num_steps) is None
        assert _state_gradient(recursive(backprop_steps=2, reinject=True), num_steps).any()
        assert _state_gradient(recursive(), num_steps).any()
    whole, longer = (recursive(backprop_steps=steps) for steps in (None, 4))
    assert torch.equal(_state_gradient(whole, 4), _state_gradient(longer, 4))


def test_a_cut_gradient_is_that_of_the_last_recursions_by_hand():
    cut, whole = trained(recursive(backprop_steps=2)), trained(recursive())
    _state_gradient(cut, 4)
    tokens, real = batch_of()
    noises = [torch.full((B,), 0.5)] * 2
    thought = run_chain(whole, tokens, real, noises)[0][-1]
    thought.hidden_BLD = thought.hidden_BLD.detach()
    for noise in noises:
        thought = whole.advance(thought, noise)
    whole.read(thought.hidden_BLD, real).sin().sum().backward()
    for (name, one), other in zip(cut.core.named_parameters(), whole.core.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name


def test_selecting_samples_goes_on_as_they_would_alone():
    model = trained(recursive(reinject=True).double()).eval()
    tokens, real = batch_of()
    thought = model.advance(model.begin(tokens, real))
    index = torch.tensor([4, 1, 1])
    for after, kept in ((thought, real), (model.advance(model.begin(tokens, None)), None)):
        chosen = after.select(index)
        assert (chosen.real_BL is None) == (kept is None)
        torch.testing.assert_close(model.advance(chosen).hidden_BLD, model.advance(after).hidden_BLD[index])
        assert torch.equal(chosen.noise_B, after.noise_B[index])


def test_a_linear_decoder_is_a_norm_and_says_that_it_has_no_layers():
    with pytest.warns(UserWarning, match="model.n_decoder_layers=2 has no effect"):
        model = recursive(decoder_type="linear", n_decoder_layers=2)
    assert len(model.output_processor.blocks) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recursive(decoder_type="linear", n_decoder_layers=None)
        assert len(recursive(n_decoder_layers=None).output_processor.blocks) == 1


def test_saved_model_is_bit_equal(tmp_path):
    model = trained(recursive(reinject=True, backprop_steps=2)).eval()
    model.save_pretrained(tmp_path)
    loaded = RecursiveDenoiser.from_pretrained(tmp_path).eval()
    assert (loaded.reinject, loaded.backprop_steps, loaded.threshold, loaded.max_steps) == (True, 2, 0.05, 20)
    states = [run_chain(each, *batch_of(), NOISES)[1][-1] for each in (model, loaded)]
    assert torch.equal(*states)


def test_fresh_tokens_need_a_way_in():
    model = recursive()
    tokens, real = batch_of()
    with pytest.raises(ValueError, match="re-injects nothing"):
        model.advance(model.begin(tokens, real), None, tokens)
    with pytest.raises(UsageError, match=r"^model.commit needs model.reinject=true"):
        recursive(commit=True)


def test_every_bad_parameter_is_named_at_once():
    changes = {"n_heads": 3, "threshold": 1.5, "masking": "cosin", "min_chain_length": 9, "reinject": 1}
    with pytest.raises(UsageError) as caught:
        recursive(**changes, n_input_layers=-1, backprop_steps=0)
    named = [problem.split()[0] for problem in caught.value.problems]
    assert set(named) == {f"model.{key}" for key in (*changes, "n_input_layers", "backprop_steps")}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", None),
        ("max_seq_len", 0),
        ("d_model", 2.5),
        ("d_ff", -1),
        ("n_encoder_layers", 0),
        ("decoder_type", "none"),
        ("n_decoder_layers", 0),
        ("gate_num_heads", 3),
        ("gate_hidden_dim", True),
        ("dropout", 1.0),
        ("max_chain_length", 21),
        ("total_steps", 0),
        ("max_steps", None),
        ("supervision", "all"),
        ("gate_target", "count"),
        ("noise_mixing_steps", -3),
        ("loss_weight_gate", float("nan")),
        ("carry_norm", None),
    ],
)
def test_bad_parameters_are_refused_by_name(key, value):
    with pytest.raises(UsageError, match=f"^model.{key} must "):
        recursive(**{key: value})


def test_a_head_of_odd_width_is_refused():
    with pytest.raises(UsageError, match=r"model.d_model / model.n_heads must be even, .* got 3$"):
        recursive(d_model=12, n_heads=4)


def test_texts_up_to_the_longest():
    assert recursive(max_seq_len=L).begin(*batch_of()).hidden_BLD.shape == (B, L, 16)
