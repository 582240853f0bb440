"""Every YAML of conf/: composed, settled, and each _target_ held against its signature."""

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rtx_lab.core.components import check_component
from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import COMPONENTS, settle
from rtx_lab.core.sections import Budget, Generation, Hardware, Tracking
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("model", "dataset", "hardware", "optim", "phase")


@pytest.fixture
def composed():
    with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
        yield lambda *overrides: compose("config", overrides=list(overrides), return_hydra_config=True)


def _options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


PRETRAINED = ("mt5_xlsum", "t5_korean", "kobart", "tiny_t5", "tiny_mt5", "tiny_bart")
"""Models whose settings are those of a checkpoint, of its tokenizer and of its adapters: longer than others."""


def _partner(group, option):
    """What an option is used with where the default is not made for it: denoisers, running text, texts with classes."""
    if group == "model" and option.startswith(("rdt", "mlm", "cmlm", "mdlm")):
        return ("dataset=stories",)
    if option == "memgen_checkpoint":
        return ("dataset=gsm8k", f"model.checkpoint={Path(__file__).parent / 'reference' / 'causal_folder'}")
    if group == "model" and option.startswith("memgen"):
        return ("dataset=gsm8k",)
    if group == "model" and option in PRETRAINED:
        return ("dataset=dialogues",)
    if option == "sst2_texts":
        return ("phase=rdt_multitask",)
    if option in ("dialogues", "dialogsum", "dialogsum_200", "dialogue_csv"):
        return ("model=tiny_t5", *((f"dataset.path={CONF}",) if option == "dialogue_csv" else ()))
    running = ("stories", "text", "wikitext2", "wikitext103")
    path = (f"dataset.path={CONF}",) if option == "text" else ()
    return ("model=rdt_tiny", *path) if group == "dataset" and option in running else ()


def test_a_model_and_a_dataset_that_do_not_fit_are_one_sentence(composed):
    with pytest.raises(UsageError, match="dataset=reasoning holds questions with answers, and this model learns from"):
        settle(composed("model=rdt_tiny"))
    with pytest.raises(UsageError, match="dataset=stories holds running text, and this model learns from questions"):
        settle(composed("dataset=stories"))
    for phase in ("weaver_sft", "trigger_grpo", "weaver_grpo"):
        with pytest.raises(UsageError, match="is about a LatentMemory, not a ConnectionTransformer: choose"):
            settle(composed(f"phase={phase}", "model=bilinear_tiny", "dataset=arithmetic"))
    with pytest.raises(UsageError, match="this data has no worked solutions to choose; dataset=gsm8k"):
        settle(composed("phase=base_eval", "model=memgen_tiny", "dataset=strategyqa"))


def test_every_option_of_every_group_composes_and_binds(composed):
    seen = 0
    for group in GROUPS:
        for option in _options(group):
            config = composed(f"{group}={option}", *_partner(group, option))
            settled = settle(config)
            for name in COMPONENTS:
                assert check_component(name, settled.config[name]) == [], f"{group}={option}"
                assert settled.config[name]["_target_"].startswith("rtx_lab.")
                assert settled.config[name]["_partial_"] is True
            seen += 1
    assert seen == sum(1 for group in GROUPS for _ in (CONF / group).glob("*.yaml")) >= 22


def test_every_phase_names_itself(composed):
    for phase in _options("phase"):
        assert composed(f"phase={phase}").phase == phase


def test_yaml_files_are_short_and_say_what_they_are():
    files = sorted(CONF.rglob("*.yaml"))
    assert len(files) >= 24
    for path in files:
        lines = path.read_text().splitlines()
        adapts = path.stem in PRETRAINED or any("lora_targets" in line for line in lines)
        assert len(lines) <= (45 if adapts else 25), path
        assert any(line.startswith("# ") for line in lines[:2]), path


def test_a_settled_config_settles_to_itself(composed):
    first = settle(composed("budget.micro_batch=16"))
    again = settle(first.config)
    assert again.config == first.config
    assert again.directory == first.directory


def test_two_spellings_are_one_directory(composed):
    directories = {
        settle(composed(*overrides)).directory
        for overrides in (
            (),
            ("model.num_slots=32",),
            ("hardware=cpu",) if not _has_gpu() else (),
            ("tracking.wandb=offline", "model.d_model=64", "budget.micro_batch=64"),
            ("hardware.num_workers=1",),
        )
    }
    assert len(directories) == 1


def _has_gpu():
    import torch

    return torch.cuda.is_available()


def test_nulls_become_values(composed):
    settled = settle(composed("model=bilinear_large", "dataset=gsm8k", "hardware=cpu"))
    assert settled.run.budget.micro_batch == 16
    assert settled.run.budget.eval_batch == 32
    assert settled.run.optim["lr"] == pytest.approx(1e-4)
    assert settled.run.model["vocab_size"] == 32000
    assert settled.run.hardware.num_threads == len(os.sched_getaffinity(0)) or settled.run.hardware.num_threads >= 1
    base = settle(composed("model=bilinear_base", "dataset=gsm8k"))
    assert (base.run.budget.micro_batch, base.run.budget.eval_batch) == (32, 64)
    tiny = settle(composed())
    assert tiny.run.optim["lr"] == pytest.approx(1.6e-3)


def test_the_seed_defaults_stand(composed):
    settled = settle(composed("model=bilinear_base"))
    budget, optim = settled.run.budget, settled.run.optim
    assert (budget.epochs, budget.patience, budget.eval_every, budget.global_batch) == (20, 5, 500, 64)
    assert (optim["weight_decay"], list(optim["betas"]), optim["schedule"]) == (0.01, [0.9, 0.999], "cosine")
    assert (optim["warmup_ratio"], optim["min_lr_ratio"], optim["max_grad_norm"]) == (0.1, 0.1, 1.0)


def test_steps_win_over_epochs(composed):
    assert settle(composed("budget.steps=3")).run.budget.epochs is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+foo=1"], "unknown key `foo`"),
        (["+budget.stpes=3"], "did you mean `budget.steps`?"),
        (["+model.num_slot=3"], "did you mean `model.num_slots`?"),
        (["budget.micro_batch=24"], "budget.micro_batch=24 does not divide budget.global_batch=64: use 16 or 32"),
        (["budget.micro_batch=abc"], "budget.micro_batch must be a positive integer or `auto`, got 'abc'"),
        (["budget.epochs=-1"], "budget.epochs must be a positive number"),
        (["budget.epochs=inf"], "budget.epochs must be a positive number"),
        (["budget.epochs=null"], "give one of them"),
        (["hardware.precision=fp8"], "hardware.precision must be one of fp32, bf16, fp16"),
        (["hardware.num_threads=0"], "hardware.num_threads must be a positive integer"),
        (["tracking.wandb=onlin"], "did you mean"),
        (["model._target_=os.system"], "only targets under rtx_lab."),
        (["seed=1", "+seed.x=2"], "seed"),
    ],
)
def test_wrong_values_are_one_sentence(composed, overrides, words):
    with pytest.raises(Exception, match=re.escape(words)):
        settle(composed(*overrides))


def test_all_problems_come_at_once(composed):
    config = composed("budget.micro_batch=24", "+model.num_slot=3", "+foo=1", "hardware.num_threads=-2")
    with pytest.raises(UsageError) as caught:
        settle(config)
    assert len(caught.value.problems) == 4


def test_every_key_of_the_fixed_sections_is_read_somewhere():
    code = [path.read_text() for path in (CONF.parent / "rtx_lab").rglob("*.py") if path.name != "sections.py"]
    keys = {item.name for section in (Budget, Hardware, Generation, Tracking) for item in fields(section)}
    unread = {key for key in keys if not any(re.search(rf"\.{key}\b", text) for text in code)}
    assert unread <= {"peak_tflops", "bandwidth_gb_s"}, "only the rates for a price may wait for their reader"
