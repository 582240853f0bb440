"""Command lines of train.py that are right or wrong by Hydra's grammar, our keys, types and ranges.

The last row of WRONG is right with -m; the sweeps are what follows -m.
"""

RIGHT = (
    *(
        "model.num_slots=16",
        "budget.steps=3",
        "optim.lr=1e-3",
        "seed=7",
        "budget.micro_batch=auto",
        "model.dropout=0.1",
    ),
    *(
        "~seed",
        "budget={}",
        "++budget.steps=4",
        "tracking.tags=[a,b]",
        "model=bilinear_base",
        "optim=adamw_8bit",
        "phase=smoke",
    ),
    *("tracking.project='a b'", 'tracking.project="a, b"', "tracking.project='한국어'", "budget.epochs=0.5"),
    *("hydra.job.name=other", "hydra.verbose=true", "dataset=gsm8k", "hardware=rtx4090", "generation.num_beams=4"),
)
RIGHT_SWEEPS = (
    *(
        "model.num_slots=8,16",
        "model.num_slots=range(8,33,8)",
        "seed=choice(1,2,3)",
        "seed=range(3)",
        "optim.lr=1e-3,1e-4",
    ),
    *("model.connection=diag,scalar", "model=glob(bilinear_tiny*)", "seed=shuffle(1,2)", "seed=sort(3,1,2)"),
    *("tracking.tags=[a],[b,c]", "optim.betas=[0.9,0.99],[0.9,0.999]", "dataset=reasoning,arithmetic"),
)
WRONG = (
    *("model.num_slots=abc", "model.num_slots=-4", "model.num_slots=0", "model.num_slots=1.5", "model.num_slots=[1,2]"),
    *(
        "model.num_slots={a: 1}",
        "model.num_slots=true",
        "model.dropout=1.5",
        "model.dropout=-0.1",
        "model.d_model=null",
    ),
    *("optim.lr=inf", "optim.lr=nan", "optim.lr=-1", "optim.lr=abc", "optim.betas=3", "optim.betas=[2,3]"),
    *("budget.steps=abc", "budget.steps=-1", "budget.epochs=0", "budget.epochs=inf", "budget.global_batch=0"),
    *("budget.micro_batch=24", "budget.micro_batch=big", "budget.patience=0", "budget.keep_last=0", "budget.steps=1.5"),
    *("hardware.num_threads=0", "hardware.num_threads=100000", "hardware.device=tpu", "hardware.precision=int8"),
    *("hardware.num_workers=-1", "generation.num_beams=0", "generation.length_penalty=nan", "seed=-1", "seed=abc"),
    *("seed=99999999999999999999", "tracking.wandb=maybe", "tracking.tags=3", "model=null", "model=3", "model=[a]"),
    *("dataset={a: 1}", "model=", "phase=", "seed=", "model.num_slots=", "=3", "=", "nonsense", "budget=3", "+seed=3"),
    *("~model", "~dataset", "~budget.steps=7", "~model.num_slots", "~nonsense", "~", "+", "++", "+foo=1"),
    *("++foo=1", "+model.foo=1", "++budget.foo.bar=2", "+model@here=bilinear_tiny", "model@model.inner=bilinear_tiny"),
    *("+hydra.foo=1", "hydra.foo=1", "hydra.job.nam=x", "+hydra.job.foo=1", "hydra/launcher=slurm_typo", "hydra.run=3"),
    *("hydra/sweeper=nothing", "hydra.verbose={", "model.num_slots=[64", "model.num_slots=64]", "seed={1", "seed=1}"),
    *("tracking.project='open", 'tracking.project="open', "seed=(1", "seed=1)", "seed=range(", "seed=choice(1,2"),
    *("seed=a b", "model.num_slots=64 # note", "task=x", "task._target_=os.system", "model._target_=os.system"),
    *("model._target_=rtx_lab.nothing", "model._target_=3", "optim._target_=rtx_lab.core.rundir.signature"),
    *(
        "tracking.project=한국어",
        "resume_from=[a]",
        "run_anyway=perhaps",
        "seed=${nothing}",
        "seed=${seed}",
        "seed=${oc.env:NO_SUCH}",
    ),
    *("model.num_slots=" + "9" * 5000, "x" * 5000 + "=1", "seed=" + "[" * 300, "한국어=1", "모델.슬롯=3", "seed=é"),
    *("model.num_slots=8,16", "seed=range(3)", "model=bilinear_tiny,linear", "seed=choice(1,2)"),
)
WRONG_SWEEPS = (
    *(
        "model.num_slots=8,-2",
        "model.num_slots=8,abc",
        "model.num_slots=8,,16",
        "model.num_slots=,8",
        "model.num_slots=8,",
    ),
    *("seed=range(3,1)", "seed=range(a,b)", "seed=range(0,1,0)", "seed=range(1,2,3,4)", "seed=choice()", "seed=sort("),
    *("optim.lr=interval(1e-4,1e-2)", "optim.lr=interval(1)", "model=glob(zzz*)", "model=glob(", "seed=nothing(1,2)"),
    *("model=bilinear_tiny,bilinear_tny", "phase=main,smoke", "phase=nothing", "model.num_slot=8,16", "seed='1,2"),
    *(
        "optim.lr=1e-3,inf",
        "seed=shuffle()",
        "seed=tag(",
        "~seed,3",
        "hydra.foo=1,2",
        "+hydra.foo=1",
        "foo=1,2",
        "=1,2",
    ),
    *(
        "model.num_slots=[8,16",
        "model.num_slots=choice([8,16)",
        "budget.steps=1,2,x",
        "seed=int(a),1",
        "dataset=gsm8k,gsm9k",
    ),
)
