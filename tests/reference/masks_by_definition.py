"""Masks and their numbers as the definitions say: python integers and lists, one token at a time."""

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def scramble(word):
    """The finaliser of splitmix64 of an integer modulo 2^64."""
    word &= WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & WORD
    return word ^ (word >> 31)


def word_of(seed, position, stream):
    """The 64 random bits of a position, counted from 0."""
    return scramble(scramble(scramble(seed + GOLDEN) + stream) + (position + 1) * GOLDEN)


def uniform_of(seed, position, stream=0):
    return (word_of(seed, position, stream) >> 40) / 2**24


def masked_alone(seed, maskable, visible):
    """The masked positions of one sample: all maskable ones but the `visible` with the smallest numbers."""
    order = sorted((position for position, yes in enumerate(maskable) if yes), key=lambda p: uniform_of(seed, p))
    return set(order[visible:])
