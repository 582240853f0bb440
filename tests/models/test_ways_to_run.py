"""The same numbers however the model is run: cut, checkpointed, compiled, on fake tensors, in bfloat16."""

import pytest
import torch
from small_connection_transformer import B, S, T, batch_of, loss_of, model_of
from torch._subclasses import FakeTensorMode

from rtx_lab.nn.connections import CONNECTIONS


def test_gradient_does_not_depend_on_the_cut():
    source, mask, tokens, labels = batch_of()
    gradients = []
    for size in (12, 4, 1):
        model = model_of().double()
        torch.manual_seed(5)
        for start in range(0, B, size):
            cut = slice(start, start + size)
            loss_of(model, source[cut], mask[cut], tokens[cut], labels[cut]).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() <= 1e-10 * gradients[0].norm()


@pytest.mark.parametrize("changes", [{}, {"connection": "dense", "step_norm": "per_step"}, {"connection": "core"}])
def test_gradient_checkpointing_changes_no_gradient(changes):
    gradients = []
    for checkpointing in (False, True):
        model = model_of(**changes, dropout=0.1).double()
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(2)
        loss_of(model, *batch_of()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("halting", ["threshold", "ponder", "none"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiles_without_a_graph_break(halting, mode):
    torch.compiler.reset()
    model = model_of(halting=halting)
    model.train(mode == "train")
    source, mask, _, _ = batch_of()
    torch.manual_seed(3)
    expected = model.encode(source, mask)
    torch.manual_seed(3)
    compiled = torch.compile(model.encode, backend="eager", fullgraph=True)(source, mask)
    assert torch.equal(compiled.steps, expected.steps)
    torch.testing.assert_close(compiled.states, expected.states)


def test_a_whole_loss_compiles_without_a_graph_break():
    torch.compiler.reset()
    model, batch = model_of(), batch_of()
    compiled = torch.compile(loss_of, backend="eager", fullgraph=True)
    for seed in (3, 4):
        losses = []
        for loss in (loss_of, compiled):
            torch.manual_seed(seed)
            losses.append(loss(model, *batch))
        torch.testing.assert_close(*losses)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_traces_on_fake_tensors(connection):
    with FakeTensorMode(allow_non_fake_inputs=False):
        model = model_of(connection=connection)
        source, labels = torch.empty(B, S, dtype=torch.int64), torch.empty(B, T, dtype=torch.int64)
        loss = loss_of(model, source, torch.empty(B, S, dtype=torch.bool), labels, labels)
        loss.backward()
        assert loss.shape == ()
        assert model.output_weight.grad.shape == (31, 16)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_bfloat16_autocast_is_finite_and_close(connection):
    model = model_of(connection=connection)
    torch.manual_seed(3)
    exact = loss_of(model, *batch_of())
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, *batch_of())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
