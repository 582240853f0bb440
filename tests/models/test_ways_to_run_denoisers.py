"""The same numbers however a denoiser is run: checkpointed, compiled, on fake tensors, in bfloat16; and its FLOPs."""

import pytest
import torch
from small_denoisers import B, L, batch_of, logits_of, loss_of, masked, recursive, run_chain, seed_denoiser, trained
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

BUILDERS = {
    "rdt": recursive,
    "rdt reinject": lambda **changes: recursive(reinject=True, backprop_steps=2, n_input_layers=2, **changes),
    "rdt linear": lambda **changes: recursive(**{"decoder_type": "linear", "n_decoder_layers": None} | changes),
    "seed": seed_denoiser,
    "seed transformer": lambda **changes: seed_denoiser(decoder_type="transformer", n_decoder_layers=2, **changes),
    "masked": masked,
}
every_model = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


@every_model
def test_gradient_checkpointing_changes_no_gradient(build):
    gradients = []
    for checkpointing in (False, True):
        model = trained(build(dropout=0.1).double())
        model.gradient_checkpointing = checkpointing
        assert model.gradient_checkpointing == checkpointing
        torch.manual_seed(2)
        loss_of(model, *batch_of()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("build", [recursive, seed_denoiser, masked])
def test_gradient_checkpointing_recomputes_every_block(build):
    model = build()
    model.gradient_checkpointing = True
    calls = []
    blocks = [module for module in model.modules() if type(module).__name__.endswith("Block") and _is_layer(module)]
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    loss = loss_of(model, *batch_of())
    before = len(calls)
    loss.backward()
    assert len(calls) == 2 * before


def _is_layer(module):
    return hasattr(module, "attention") or hasattr(module, "attention_norm")


@every_model
@pytest.mark.parametrize("padded", [True, False])
def test_traces_on_fake_tensors_without_a_host_sync(build, padded):
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = build()
        tokens = torch.empty(B, L, dtype=torch.int64)
        loss = loss_of(model, tokens, torch.empty(B, L, dtype=torch.bool) if padded else None)
        loss.backward()
        assert loss.shape == ()
        assert model.token.grad.shape == (31, 16)


@pytest.mark.parametrize("name", ["rdt reinject", "seed transformer", "masked"])
def test_compiles_without_a_graph_break(name):
    torch.compiler.reset()
    model = trained(BUILDERS[name]())
    expected = loss_of(model, *batch_of())
    compiled = torch.compile(loss_of, backend="eager", fullgraph=True)(model, *batch_of())
    torch.testing.assert_close(compiled, expected)


@every_model
def test_bfloat16_autocast_is_finite_and_close(build):
    model = trained(build())
    exact = loss_of(model, *batch_of())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, *batch_of())
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def _counted(run):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "masked"])
@pytest.mark.parametrize(("length", "steps", "num_read"), [(14, 1, 3), (14, 5, 14), (5, 3, 0)])
def test_flops_of_a_chain_equal_counted_ones(name, length, steps, num_read):
    model = BUILDERS[name]().eval()
    tokens = batch_of()[0][:1, :length]

    def run():
        thought = run_chain_without_reading(model, tokens, steps)
        logits_of(model, model.read(thought.hidden_BLD, None)[:, :num_read])

    assert model.flops(length, steps, num_read) == _counted(run)


def run_chain_without_reading(model, tokens, steps):
    thought = model.begin(tokens, None)
    for _ in range(steps):
        thought = model.advance(thought)
    return thought


@pytest.mark.parametrize("steps", [1, 4])
def test_flops_of_a_committing_model_count_what_happens_between_steps(steps):
    model = recursive(reinject=True, commit=True, n_input_layers=2).eval()
    tokens = batch_of()[0][:1]

    def run():
        thought = model.begin(tokens, None)
        for step in range(steps):
            thought = model.advance(thought, None, tokens if step else None)
            logits_of(model, model.read(thought.hidden_BLD, None)[:, :3])

    assert model.flops(L, steps, 3 * steps) == _counted(run)


@pytest.mark.parametrize(("length", "passes", "num_read"), [(14, 1, 3), (14, 4, 20), (5, 2, 0)])
def test_flops_of_passes_equal_counted_ones(length, passes, num_read):
    model = masked().eval()
    tokens = batch_of()[0][:1, :length]

    def run():
        for _ in range(passes):
            logits_of(model, model.encode(tokens, None)[:, : num_read // passes])

    assert model.flops(length, passes, num_read) == _counted(run)


def test_flops_follow_the_published_formula():
    with torch.device("meta"):
        model = recursive(d_model=768, n_heads=12, d_ff=3072, n_input_layers=2, n_encoder_layers=6, n_decoder_layers=2)
    per_token = [model.flops(256, steps, 0) / 256 for steps in (0, 1)]
    # 106.6 + 89.7 T MFLOP per token, of which 46.9 are a head over every token; gate and noise embedding add 2 %
    assert per_token[0] / 1e6 + 2 * 768 * 30522 / 1e6 == pytest.approx(106.6, rel=0.01)
    assert (per_token[1] - per_token[0]) / 1e6 == pytest.approx(89.7, rel=0.02)


def test_the_noise_given_to_a_chain_is_used():
    model = trained(recursive()).eval()
    ends = [run_chain(model, *batch_of(), [torch.full((B,), level)])[1][0] for level in (0.1, 0.9)]
    assert not torch.allclose(*ends)
