"""Writing with latents: a batch on caches writes what re-encoding every text for every token writes."""

import itertools

import pytest
import torch
from memory_by_reencoding import all_logits
from memory_by_reencoding import write as written_again
from small_latent_memory import STOPS, VOCAB, every_third, in_double, limits_of, prompts, small, written

from rtx_lab.inference import choices, latents
from rtx_lab.inference.latent_writing import write
from rtx_lab.models import latent_stream
from rtx_lab.models.latent_memory import CONTEXTS, TRIGGERS

LENGTHS, SEEDS = (9, 4, 12, 6, 1), torch.tensor([5, 6, 7, 8, 9])
HALF = choices.at_random(0.5)


@torch.no_grad()
def again(model, texts, seeds, limits, choose, **more):
    found = [
        written_again(model, text, seed, limits=limits, delimiters=every_third(), choose=choose, **more)
        for text, seed in zip(texts, seeds, strict=True)
    ]
    return [(one.ids, one.actions, one.places, one.latents, one.cut) for one in found]


@pytest.mark.parametrize(
    ("temperature", "rules"), [(0.0, (choices.always, choices.by_trigger)), (0.9, (choices.by_trigger, HALF))]
)
@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_batch_on_caches_writes_what_reencoding_writes(context, trigger, temperature, rules):
    model = small(weaver_context=context, trigger=trigger).double()
    texts, *batch = prompts(LENGTHS)
    limits, seen, lengths = limits_of(temperature, max_new_tokens=14), set(), set()
    for choose in rules:
        found = written(model, *batch, SEEDS, limits, choose)
        assert found == again(model, texts, SEEDS, limits, choose)
        seen |= {action for row in found for action in row[1]}
        lengths |= {len(row[0]) for row in found}
        assert any(len(row[1]) > 1 for row in found)  # decisions in the answer as well
    assert seen == {0, 1}
    assert len(lengths) > 2  # rows finish at different times


@pytest.mark.parametrize(("kind", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("context", CONTEXTS)
def test_logits_are_those_of_one_pass_over_the_finished_text(monkeypatch, context, kind, error):
    model = in_double(small(weaver_context=context)) if kind is torch.float64 else small(weaver_context=context)
    texts, ids_BS, mask_BS = prompts((9,))
    limits = limits_of(0.9, stop_ids=())
    plain, seen = model.logits, []
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(plain(hidden)) or seen[-1])
    (found,) = written(model, ids_BS, mask_BS, SEEDS[:1], limits, choices.always)
    with torch.no_grad():
        answer = written_again(
            model, texts[0], SEEDS[0], limits=limits, delimiters=every_third(), choose=choices.always
        )
        wanted = all_logits(model, answer)
    assert (found[0], found[3]) == (answer.ids, answer.latents)
    assert found[3] > 3
    own = torch.cat(seen)
    assert own.shape == wanted.shape == (20 - 1 + found[3] - 3 + 1, VOCAB)  # one for each place that was read
    assert wanted.std() > 0.5
    torch.testing.assert_close(own, wanted, rtol=0, atol=error)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_weaver_reads_up_to_its_last_latents_and_never_twice(monkeypatch, context):
    model = small(weaver_context=context)
    plain, read = latent_stream.read, {"reader": [], "weaver": []}

    def recorded(body, stream, x_BTD, real_BT):
        read[model.role.name].append(x_BTD.shape[1])
        return plain(body, stream, x_BTD, real_BT)

    monkeypatch.setattr(latent_stream, "read", recorded)
    _, ids_BS, mask_BS = prompts((9,))
    ((ids, _, places, num_latents, _),) = written(
        model, ids_BS, mask_BS, SEEDS[:1], limits_of(0.9, stop_ids=()), choices.always
    )
    assert len(places) > 2
    assert (places[-1], num_latents) == (places[2], 3 + 2 + 2)  # the prompt's, and two in the answer
    assert sum(read["reader"]) == 9 + len(ids) - 1 + num_latents
    own = 0 if context == "shared_kv" else 9 + 3 + places[1] + 2 + places[2] - places[1]
    assert sum(read["weaver"]) == own + num_latents  # its queries each time


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_row_in_a_batch_is_written_as_it_is_alone(context):
    model = small(weaver_context=context, trigger="lora")
    _, ids_BS, mask_BS = prompts(LENGTHS)
    for source in (latents.woven, latents.noise):
        batch = written(model, ids_BS, mask_BS, SEEDS, limits_of(0.7), HALF, source=source)
        for row, length in enumerate(LENGTHS):
            one = slice(row, row + 1)
            alone = ids_BS[one, :length], mask_BS[one, :length], SEEDS[one]
            assert written(model, *alone, limits_of(0.7), HALF, source=source) == [batch[row]]
        order = torch.tensor([4, 2, 0])
        mixed = written(model, ids_BS[order], mask_BS[order], SEEDS[order], limits_of(0.7), HALF, source=source)
        assert mixed == [batch[row] for row in order.tolist()]


def plain_generate(model, text, num_tokens):
    """What transformers' own generation writes behind one prompt, the stop included."""
    with model.role.play("reader"), torch.no_grad():
        found = model.network.generate(
            text[None], attention_mask=torch.ones_like(text)[None], do_sample=False, max_new_tokens=num_tokens,
            eos_token_id=list(STOPS), pad_token_id=0,
        )  # fmt: skip
    return found[0, len(text) :].tolist()


NOTHING = [
    ({}, None), ({}, choices.at_random(0.0)),
    ({"max_prompt_aug_num": 0, "max_inference_aug_num": 0}, choices.always),
    ({"prompt_latents_len": 0, "inference_latents_len": 0}, choices.always),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "choose"), NOTHING)
def test_without_insertions_it_is_plain_generation(changes, choose):
    model = small(embedding_rows=VOCAB, **changes)
    texts, *batch = prompts(LENGTHS)
    found = written(model, *batch, SEEDS, limits_of(), choose)
    assert [row[0] for row in found] == [plain_generate(model, text, 20) for text in texts]
    assert {row[3] for row in found} == {0}
    inserting = written(small(embedding_rows=VOCAB), *batch, SEEDS, limits_of(), choices.always)
    assert [row[0] for row in inserting] != [row[0] for row in found]


@pytest.mark.parametrize(("num_prompt", "num_inference"), [*itertools.product((0, 1, 2), (0, 1, 3))])
def test_the_knobs_count_insertions(num_prompt, num_inference):
    changes = {"max_prompt_aug_num": num_prompt, "max_inference_aug_num": num_inference}
    model = small(**changes).double()
    texts, *batch = prompts(LENGTHS)
    limits = limits_of(stop_ids=(), max_new_tokens=16)
    found = written(model, *batch, SEEDS, limits, choices.always)
    assert found == again(model, texts, SEEDS, limits, choices.always)
    for _, actions, places, num_latents, cut in found:
        in_answer = sum(place > 0 for place in places)
        assert in_answer <= num_inference
        assert len(actions) == in_answer + (num_prompt > 0)
        assert num_latents == 3 * num_prompt + 2 * in_answer
        assert cut
    assert max(sum(place > 0 for place in row[2]) for row in found) == num_inference
    prompt_alone = written(model, *batch, SEEDS, limits, choices.always, in_answer=False)
    assert {row[3] for row in prompt_alone} == {3 * num_prompt}
    assert prompt_alone == again(model, texts, SEEDS, limits, choices.always, in_answer=False)


def test_a_full_context_cuts_the_answer_whatever_stands_beside_it():
    model = small(max_seq_len=15).double()
    lengths = (4, 11, 12, 13, 15, 16, 21)
    seeds = torch.arange(len(lengths))
    texts, ids_BS, mask_BS = prompts(lengths)
    for stop_ids in ((), STOPS):
        found = written(model, ids_BS, mask_BS, seeds, limits_of(stop_ids=stop_ids), choices.always)
        assert found == again(model, texts, seeds, limits_of(stop_ids=stop_ids), choices.always)
    cut = [row[4] for row in found]
    assert all(cut[4:])
    assert [len(row[0]) for row in found][4:] == [0, 0, 0]
    unstopped = written(model, ids_BS, mask_BS, seeds, limits_of(stop_ids=()), choices.always)
    assert all(row[4] for row in unstopped)
    assert [len(row[0]) + row[3] for row in unstopped] == [15 - min(15, length) for length in lengths]


def test_padding_in_front_is_the_same_text():
    model = small().double()
    texts, ids_BS, mask_BS = prompts(LENGTHS)
    longest = max(LENGTHS)
    front = torch.stack([torch.nn.functional.pad(text, (longest - len(text), 0)) for text in texts])
    own = written(model, ids_BS, mask_BS, SEEDS, limits_of(), choices.always)
    assert written(model, front, mask_BS.flip(1), SEEDS, limits_of(), choices.always) == own


def test_temperature_zero_is_greedy_and_others_draw_from_the_softmax():
    model = small()
    _, ids_BS, mask_BS = prompts((5,))
    num_draws = 4000
    ids_BS, mask_BS, seeds = ids_BS.expand(num_draws, -1), mask_BS.expand(num_draws, -1), torch.arange(num_draws)
    greedy = written(model, ids_BS[:9], mask_BS[:9], seeds[:9], limits_of(0.0), None)
    assert all(row == greedy[0] for row in greedy)
    for temperature in (0.5, 2.0):
        drawn = written(model, ids_BS, mask_BS, seeds, limits_of(temperature, max_new_tokens=1), None)
        counts = torch.zeros(VOCAB).index_add(0, torch.tensor([row[0][0] for row in drawn]), torch.ones(num_draws))
        with torch.no_grad():
            logits_V = model.network(ids_BS[:1]).logits[0, -1, :VOCAB]
        p = (logits_V / temperature).softmax(0)
        far = ((counts - num_draws * p).pow(2) / (num_draws * p).clamp_min(1)).sum()
        assert far < 2 * VOCAB  # chi squared of 39 degrees: 1 in 10^4


def test_rows_of_several_writings_are_those_that_stand_alone():
    """Split rows: every path of decisions is what forcing these decisions on one text writes."""
    model = small(trigger="lora").double()
    texts, ids_BS, mask_BS = prompts((9, 4))
    ends = every_third()
    for choose in (HALF, choices.with_flips):
        found = write(
            model, ids_BS, mask_BS, SEEDS[:2], limits=limits_of(), ends=ends.to("cpu"), choose=choose,
            source=latents.woven, decides=True, weight=6, keep_states=True,
        )  # fmt: skip
        assert found.weight_B.sum() == 12
        paths = {(int(o), tuple(a.tolist())) for o, a in zip(found.owner_B, found.action_BJ, strict=True)}
        assert len(paths) == len(found.owner_B) > 4  # no path twice
        for row, owner in enumerate(found.owner_B.tolist()):
            taken = found.action_BJ[row].tolist()

            def forced(decision, taken=taken):
                return decision.weight_N * taken[int(decision.number_N)]

            with torch.no_grad():
                one = written_again(
                    model, texts[owner], SEEDS[owner], limits=limits_of(), delimiters=ends, choose=forced
                )
            assert found.token_BT[row, : found.length_B[row]].tolist() == one.ids
            assert [a for a in taken if a >= 0] == one.actions
            assert int(found.latents_B[row]) == one.latents
