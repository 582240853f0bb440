"""Names of values hold only where their condition does."""

from rtx_lab.core.labels import holds, label_of

LABELS = {"model.num_slots=64 at model.d_model=256": "4to1", "model.bilinear_rank=8": "minimal"}


def test_a_label_holds_at_its_width_alone():
    wide, narrow = {"model": {"d_model": 256}}, {"model": {"d_model": 64}}
    assert label_of(LABELS, "model.num_slots=64", wide) == "4to1"
    assert label_of(LABELS, "model.num_slots=64", narrow) is None
    assert label_of(LABELS, "model.num_slots=6", wide) is None
    assert label_of(LABELS, "model.bilinear_rank=8", narrow) == "minimal"


def test_a_condition_on_what_is_not_there_does_not_hold():
    assert not holds("a=1 at b.c=2", {"b": 3})
    assert holds("a=1", {})
