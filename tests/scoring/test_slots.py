import json
import math
import random

import pytest
import slots_by_definition as naive
import torch
from sklearn.metrics import normalized_mutual_info_score

from rtx_lab.scoring.slots import (
    MAP_SIDE,
    connection_sparsity,
    effective_rank,
    slot_specialization,
    slot_usage,
    slot_usage_entropy,
    spectral_radius,
    strength_map,
)


def random_matrix(seed, rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sparsity_of_closed_forms():
    assert connection_sparsity(torch.ones(5, 5)) == pytest.approx(0.0, abs=1e-12)
    single = torch.zeros(5, 5)
    single[1, 3] = -7.0
    assert connection_sparsity(single) == pytest.approx(1.0)
    four = torch.zeros(4, 4)
    four[0, 1] = four[1, 2] = four[2, 3] = four[3, 0] = 2.0  # 4 of 12: (sqrt 12 - 2) / (sqrt 12 - 1)
    assert connection_sparsity(four) == pytest.approx((math.sqrt(12) - 2) / (math.sqrt(12) - 1))


def test_sparsity_ignores_the_diagonal_and_the_scale():
    matrix = random_matrix(0, 9, 9)
    value = connection_sparsity(matrix)
    assert value == pytest.approx(naive.hoyer(matrix.tolist()))
    for scale in (1e-200, 1e-3, -1.0, 1e5, 1e200):
        assert connection_sparsity(matrix * scale) == pytest.approx(value, rel=1e-9)
    assert connection_sparsity(matrix + 100 * torch.eye(9)) == pytest.approx(value)


def test_sparsity_of_nothing_is_zero_and_the_input_is_left_alone():
    assert connection_sparsity(torch.zeros(4, 4)) == 0.0
    assert connection_sparsity(torch.ones(1, 1)) == 0.0
    matrix = torch.eye(3, dtype=torch.float64, requires_grad=True)
    connection_sparsity(matrix)
    assert torch.equal(matrix.detach(), torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="square"):
        connection_sparsity(torch.ones(3, 4))


def test_effective_rank_of_closed_forms():
    assert effective_rank(torch.eye(6)) == pytest.approx(6.0)
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1.0)
    assert effective_rank(torch.zeros(3, 3)) == 0.0
    p = 3 / 4
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(p**-p * (1 - p) ** -(1 - p))


def test_effective_rank_is_scale_free_and_takes_low_precision():
    matrix = random_matrix(1, 8, 5)
    assert effective_rank(1e-6 * matrix) == pytest.approx(effective_rank(matrix))
    assert effective_rank(torch.eye(4, dtype=torch.bfloat16)) == pytest.approx(4.0)


def test_spectral_radius_of_closed_forms():
    assert spectral_radius(torch.diag(torch.tensor([1.0, -3.0, 2.0]))) == pytest.approx(3.0)
    assert spectral_radius(torch.tensor([[0.0, -2.0], [2.0, 0.0]])) == pytest.approx(
        2.0
    )  # a rotation: eigenvalues +-2i
    assert spectral_radius(torch.tensor([[0.0, 5.0], [0.0, 0.0]])) == pytest.approx(0.0)  # nilpotent, norm 5
    assert spectral_radius(torch.zeros(0, 0)) == 0.0


def test_usage_entropy():
    assert slot_usage_entropy(torch.tensor([5, 5, 5, 5])) == pytest.approx(1.0)
    assert slot_usage_entropy(torch.tensor([9, 0, 0])) == 0.0
    assert slot_usage_entropy(torch.tensor([3, 3, 0, 0])) == pytest.approx(0.5)
    assert slot_usage_entropy(torch.tensor([1.0, 2.0, 7.0])) == pytest.approx(naive.usage_entropy([1, 2, 7]))
    assert slot_usage_entropy(torch.zeros(4)) == 0.0
    assert slot_usage_entropy(torch.tensor([3])) == 0.0


def test_usage_counts_unused_slots():
    assert slot_usage(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]


def test_specialization_of_closed_forms():
    tokens = torch.tensor([7, 7, 8, 8])
    assert slot_specialization(torch.tensor([3, 3, 1, 1]), tokens) == pytest.approx(1.0)
    assert slot_specialization(torch.tensor([3, 1, 3, 1]), tokens) == pytest.approx(0.0, abs=1e-12)
    assert slot_specialization(torch.tensor([3, 3, 3, 3]), tokens) == 0.0
    assert slot_specialization(torch.tensor([]), torch.tensor([])) == 0.0
    with pytest.raises(ValueError, match="one slot per token"):
        slot_specialization(torch.tensor([1]), tokens)


@pytest.mark.parametrize("seed", range(8))
def test_specialization_equals_sklearn_and_the_definition(seed):
    numbers = random.Random(seed)
    tokens = [numbers.randrange(100, 112) for _ in range(150)]
    slots = [token % 4 if numbers.random() < 0.7 else numbers.randrange(6) for token in tokens]
    value = slot_specialization(torch.tensor(slots), torch.tensor(tokens))
    assert value == pytest.approx(normalized_mutual_info_score(slots, tokens), abs=1e-12)
    mean = (
        naive.entropy([slots.count(s) for s in set(slots)]) + naive.entropy([tokens.count(t) for t in set(tokens)])
    ) / 2
    assert value == pytest.approx(naive.mutual_information(slots, tokens) / mean)


def test_a_small_strength_map_is_the_matrix_itself():
    kept = strength_map(torch.tensor([[9.0, 1.23456], [2.0, 9.0]]))
    assert (kept["num_slots"], kept["slots_per_cell"]) == (2, 1)
    assert kept["strength"] == [[9.0, 1.235], [2.0, 9.0]]
    assert (kept["histogram"]["low"], kept["histogram"]["high"]) == (1.235, 2.0)
    assert sum(kept["histogram"]["counts"]) == 2, "the diagonal is no connection"


def test_a_large_strength_map_is_averaged_over_square_blocks():
    num_slots = 2 * MAP_SIDE + 1  # blocks of 3, the last one of 2
    matrix = random_matrix(0, num_slots, num_slots).abs()
    kept = strength_map(matrix)
    rows = kept["strength"]
    assert kept["slots_per_cell"] == 3
    assert {len(row) for row in rows} == {len(rows)} == {86}
    assert rows[0][1] == pytest.approx(float(matrix[:3, 3:6].mean()), rel=1e-3)
    assert rows[-1][0] == pytest.approx(float(matrix[-2:, :3].mean()), rel=1e-3)
    assert sum(kept["histogram"]["counts"]) == num_slots * (num_slots - 1)


@pytest.mark.parametrize("matrix", [torch.ones(1, 1), torch.zeros(3, 3), torch.full((2, 2), math.nan)])
def test_a_strength_map_of_nothing_is_plain_json(matrix):
    kept = json.loads(json.dumps(strength_map(matrix), allow_nan=False))
    assert len(kept["strength"]) == len(matrix)
