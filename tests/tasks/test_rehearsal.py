"""What a price rehearses of writing is what writing reads and holds: every answer as long as it can be."""

from dataclasses import replace

import pytest
import torch
from small_latent_memory import small

from rtx_lab.core.live_bytes import LiveBytes
from rtx_lab.core.repeats import repeated
from rtx_lab.core.sections import Generation, Ltpo
from rtx_lab.core.types import Cut
from rtx_lab.data.generated import arithmetic
from rtx_lab.pricing.work import Work, total_flops
from rtx_lab.tasks.answering import TuneTask

ROWS, TOKENS = 12, 48
WAYS = [
    {"insert": "never"}, {"insert": "prompt", "latents": "learnt"}, {"insert": "always"},
    {"insert": "always", "latents": "noise"},
]  # fmt: skip
SEARCHES = [
    Ltpo(enabled=True, max_steps=3), Ltpo(enabled=True, max_steps=4, estimator="antithetic", num_candidates=4),
    Ltpo(enabled=True, max_steps=3, control="best_of", num_candidates=2), Ltpo(enabled=True, max_steps=0),
    Ltpo(enabled=True, max_steps=3, where="prompt"),
]  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield arithmetic(num_train=48, num_validation=15, num_test=17, target="rationale", vocab_size=116)
    patch.undo()


class LateEnds:
    """Sentences that end with each of the last tokens of an answer."""

    def to(self, device):
        return self

    def advance(self, states, ids):
        return states + 1

    def decides(self, states):
        return states >= TOKENS - 2


def solver_of(dataset, ltpo, **way):
    """A solver whose answers never end, with all insertions just before they are cut."""
    cut = Cut(seed=3, global_batch=8, micro_batch=8, eval_batch=ROWS)
    writing = Generation(max_new_tokens=TOKENS)
    solver = TuneTask(dataset=dataset, cut=cut, generation=writing, ltpo=ltpo, **way).solver
    solver.limits = replace(solver.limits, stop_ids=())
    solver.delimiters = LateEnds()
    return solver


def measured(work):
    """Floating-point operations and the most bytes that lived at once."""
    counted = Work()
    with torch.no_grad(), LiveBytes(observe=counted.observe) as live:
        work()
    return total_flops(counted.operators()), live.peak


@pytest.mark.parametrize(
    ("ltpo", "way"), [*((Ltpo(), way) for way in WAYS), *((ltpo, {"insert": "always"}) for ltpo in SEARCHES)], ids=str
)
@pytest.mark.parametrize("context", ["shared_kv", "embeds"])
def test_a_rehearsal_reads_and_holds_what_writing_does(dataset, ltpo, way, context):
    size = dataset.vocab_size
    model = small(vocab_size=size, embedding_rows=size, max_seq_len=512, weaver_context=context)
    solver = solver_of(dataset, ltpo, **way)
    ids_BS = torch.randint(size, (ROWS, solver.dataset.max_source_length), generator=torch.Generator().manual_seed(0))
    batch = {"source": ids_BS, "source_mask": torch.ones_like(ids_BS, dtype=torch.bool), "index": torch.arange(ROWS)}
    written = []
    done, held = measured(lambda: written.append(solver.write(model, batch)))
    priced, price = measured(lambda: solver.rehearse(model, ROWS))
    most = solver.way.most(model)
    assert (written[0].length_B == TOKENS).all()
    assert (written[0].latents_B == 3 * most["prompt"] + 2 * most["inference"]).all()
    assert done <= priced <= 1.12 * done  # every place is priced as the last one
    assert 0.99 * held <= price <= 1.05 * held


def test_work_counts_as_often_as_it_is_repeated():
    x = torch.ones(4, 4)

    def work():
        with repeated(3):
            _ = x @ x
            with repeated(2):
                _ = x @ x
            with repeated(0):
                _ = x @ x
        _ = x @ x

    assert measured(work)[0] == (3 + 6 + 1) * 2 * 4**3
