"""Generation equals its definition: cached as uncached, batched as solo, one beam as greedy, wide as exhaustive."""

import decoding_by_definition as slow
import pytest
import torch

from rtx_lab.inference.generate import generate, generate_beam
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.models.transformer_baseline import TransformerBaseline
from rtx_lab.nn.attention import DecoderCache

PAD, START, EOS = 0, 1, 2
IDS = {"start_id": START, "eos_id": EOS, "pad_id": PAD}
SIZES = {"max_seq_len": 24, "d_model": 16, "num_slots": 6, "bilinear_rank": 4, "num_heads": 2, "num_decoder_layers": 2}


def _connection(vocab_size):
    return ConnectionTransformer(**SIZES, vocab_size=vocab_size, max_reasoning_steps=4)


def _baseline(vocab_size):
    return TransformerBaseline(**SIZES, vocab_size=vocab_size)


def _encoded(build, vocab_size, batch=8):
    torch.manual_seed(2)
    model = build(vocab_size).double().eval()
    # An untrained model repeats itself; positions, memory and a rotated head must matter for the answers to vary.
    model.decoder.norm.weight.data = 2 * torch.randn(16).double()
    model.embedding.target_position.data *= 4
    for block in model.decoder.blocks:
        block.cross.output.weight.data *= 4
    source = torch.randint(0, vocab_size, (batch, 9))
    mask = torch.arange(9)[None] < torch.randint(2, 10, (batch, 1))
    return model, model.encode(source, mask)


def _alone(memory, sample):
    return memory.select(torch.tensor([sample]))


def _strip(row):
    tokens = row.tolist()
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


@pytest.mark.parametrize("build", [_connection, _baseline])
def test_greedy_equals_its_definition_for_every_sample(build):
    model, memory = _encoded(build, 11, batch=24)
    tokens = generate(model, memory, **IDS, max_tokens=9)
    answers = [_strip(row) for row in tokens]
    for sample, answer in enumerate(answers):
        assert answer == slow.greedy(model, _alone(memory, sample), start_id=START, eos_id=EOS, max_tokens=9)
        assert (tokens[sample, len(answer) :] == PAD).all()
    assert len({len(answer) for answer in answers}) >= 3
    assert any(EOS in answer for answer in answers)


@pytest.mark.parametrize("build", [_connection, _baseline])
def test_cached_decoding_equals_uncached(build):
    model, memory = _encoded(build, 11)
    tokens = torch.randint(0, 11, (8, 7))
    whole = model.decode(memory, tokens)
    cache, pieces = DecoderCache(), []
    for start, stop in ((0, 1), (1, 2), (2, 5), (5, 7)):
        pieces.append(model.decode(memory, tokens[:, start:stop], cache, start))
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_one_beam_is_greedy(length_penalty):
    model, memory = _encoded(_connection, 11, batch=24)
    greedy = generate(model, memory, **IDS, max_tokens=9)
    beam = generate_beam(model, memory, **IDS, max_tokens=9, num_beams=1, length_penalty=length_penalty)
    assert [_strip(row) for row in beam] == [_strip(row) for row in greedy]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("build", [_connection, _baseline])
def test_a_beam_that_holds_everything_finds_the_best_sequence(build, length_penalty):
    model, memory = _encoded(build, 5, batch=6)
    beam = generate(model, memory, **IDS, max_tokens=3, num_beams=64, length_penalty=length_penalty)
    search = {"max_tokens": 3, "length_penalty": length_penalty, "vocab_size": 5, "start_id": START, "eos_id": EOS}
    for sample in range(6):
        assert _strip(beam[sample]) == slow.best_sequence(model, _alone(memory, sample), **search)


def test_beams_batched_equal_beams_alone():
    model, memory = _encoded(_connection, 11)
    together = generate(model, memory, **IDS, max_tokens=6, num_beams=3)
    for sample in range(8):
        alone = generate(model, _alone(memory, sample), **IDS, max_tokens=6, num_beams=3)
        assert _strip(alone[0]) == _strip(together[sample])


def test_more_beams_than_continuations():
    model, memory = _encoded(_connection, 5, batch=2)
    assert generate(model, memory, **IDS, max_tokens=1, num_beams=4).shape == (2, 1)
