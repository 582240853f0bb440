"""Which job starts next on which device."""

import random

import pytest

from rtx_lab.core.memory import USABLE
from rtx_lab.sweep.slots import MOST_PASSES, Demand, choose, find_devices, fits, parse_listing


def _draw(rng):
    return Demand(
        rng.choice([0.0, 1.0, 5.0, 11.0, 23.0, 40.0]), rng.choice([24.0, 24.0, 12.0, None]), rng.random() < 0.2
    )


@pytest.mark.parametrize("seed", range(100))
def test_every_job_runs_within_the_limits_and_none_waits_for_ever(seed):
    rng = random.Random(seed)
    jobs = [(_draw(rng), rng.randint(1, 6)) for _ in range(rng.randint(0, 40))]
    num_devices, jobs_per_device = rng.randint(1, 3), rng.randint(1, 4)
    waiting = [[number, demand, 0] for number, (demand, _) in enumerate(jobs)]
    running = {str(device): [] for device in range(num_devices)}
    started, overtaken = [], {number: 0 for number, *_ in waiting}
    while waiting or any(running.values()):
        loads = {device: [jobs[number][0] for number, _ in held] for device, held in running.items()}
        chosen = choose([(demand, passes) for _, demand, passes in waiting], loads, jobs_per_device)
        if chosen is not None:
            position, device = chosen
            number = waiting.pop(position)[0]
            for entry in waiting[:position]:
                entry[2] += 1
                overtaken[entry[0]] += 1
            started.append(number)
            running[device].append([number, jobs[number][1]])
            _check_limits([jobs[number][0] for number, _ in running[device]], jobs_per_device)
            continue
        assert any(running.values()), "jobs wait and nothing runs"
        for device, held in running.items():
            running[device] = [[number, left - 1] for number, left in held if left > 1]
    assert sorted(started) == list(range(len(jobs)))
    longest = max((ticks for _, ticks in jobs), default=0)
    others = (num_devices - 1) * jobs_per_device * (longest + 1) * (len(jobs) + 1)
    assert all(count <= MOST_PASSES + others for count in overtaken.values())


def _check_limits(together, jobs_per_device):
    assert len(together) <= jobs_per_device
    if len(together) > 1:
        assert not any(demand.exclusive for demand in together)
        capacities = [demand.capacity_gb for demand in together if demand.capacity_gb is not None]
        if capacities:
            assert sum(demand.memory_gb for demand in together) <= USABLE * min(capacities)


def test_on_one_device_a_job_is_passed_over_a_bounded_number_of_times():
    alone, small = Demand(exclusive=True), Demand()
    running = {"0": [small, small]}
    for passes in range(MOST_PASSES):
        assert choose([(alone, passes), (small, 0)], running, 3) == (1, "0")
    assert choose([(alone, MOST_PASSES), (small, 0)], running, 3) is None
    assert choose([(alone, MOST_PASSES), (small, 0)], {"0": []}, 3) == (0, "0")


def test_a_job_that_waited_long_keeps_one_device_free_and_not_all():
    alone, small = Demand(exclusive=True), Demand()
    running = {"0": [small, small], "1": [small]}
    assert choose([(alone, MOST_PASSES), (small, 0)], running, 3) == (1, "0")


def test_jobs_spread_before_they_share():
    small = Demand()
    assert choose([(small, 0)], {"0": [small], "1": []}, 2) == (0, "1")
    assert choose([(small, 0)], {"0": [small], "1": [small]}, 1) is None


def test_memory_packs():
    assert fits(Demand(10, 24), [Demand(11, 24)], 2)
    assert not fits(Demand(10, 24), [Demand(12.5, 24)], 2), "22.5 of 24 GB leave too little for the driver"
    assert fits(Demand(40, 24), [], 2), "alone it may run: whether it fits has been priced"


@pytest.mark.parametrize(
    ("visible", "devices"),
    [("0,1", ("0", "1")), ("GPU-a, MIG-c", ("GPU-a", "MIG-c")), ("", ("cpu",)), ("-1", ("cpu",)), ("1,-1,0", ("1",))],
)  # fmt: skip
def test_visible_devices_are_respected(visible, devices):
    assert find_devices({"CUDA_VISIBLE_DEVICES": visible}) == devices


def test_the_listing_of_a_machine_with_a_divided_card():
    shown = (
        "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)\n"
        "GPU 1: NVIDIA H200 (UUID: GPU-2)\n"
        "  MIG 1g.18gb     Device  0: (UUID: MIG-3)\n"
        "  MIG 1g.18gb     Device  1: (UUID: MIG-4)\n"
    )
    assert parse_listing(shown) == ("0", "MIG-3", "MIG-4")
    assert parse_listing("No devices found.\n") == ()
