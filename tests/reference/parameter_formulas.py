"""How many parameters a Connection Transformer has, written out.

Letters as in the formulas: N slots, D width, r rank, K reasoning steps, V vocabulary, S longest source.
"""

from rtx_lab.models.counts import attention_parameters, encoder_parameters, feed_forward_parameters


def pair_parameters(connection: str, *, num_slots: int, d_model: int, bilinear_rank: int) -> int:
    """Return the parameters of the pair maps of one family: dense 2 N^2 D r, core 2 N D r + N^2 r^2,
    diag 2 N D r + N^2 r, scalar 2 N^2 r, linear N^2."""
    n, d, r = num_slots, d_model, bilinear_rank
    match connection:
        case "dense":
            return 2 * n * n * d * r
        case "core":
            return 2 * n * d * r + n * n * r * r
        case "diag":
            return 2 * n * d * r + n * n * r
        case "scalar":
            return 2 * n * n * r
        case "linear":
            return n * n
        case _:
            raise ValueError(f"no pair maps are called {connection!r}")


def decoder_parameters(d_model: int, num_layers: int, d_ff: int) -> int:
    """Return the parameters of a stack of decoder blocks and the norms of memory and output."""
    block = 2 * attention_parameters(d_model) + feed_forward_parameters(d_model, d_ff) + 6 * d_model
    return num_layers * block + 4 * d_model


def embedding_parameters(vocab_size: int, max_seq_len: int, d_model: int) -> int:
    """Return the parameters of the tied token table and the two position tables."""
    return (vocab_size + 2 * max_seq_len) * d_model


def connection_transformer_parameters(
    *,
    vocab_size: int,
    max_seq_len: int,
    d_model: int,
    num_slots: int,
    bilinear_rank: int,
    connection: str,
    num_encoder_layers: int,
    num_decoder_layers: int,
    num_heads: int,
) -> int:
    """Return the parameters of a ConnectionTransformer with fixed slots, a shared step norm and no ponder halting."""
    d = d_model
    encoder = encoder_parameters(d, num_encoder_layers, 4 * d) if num_encoder_layers else 0
    compression = 3 * d * d + 2 * d
    readout = num_heads * d + num_heads * d * d + 2 * d
    return (
        embedding_parameters(vocab_size, max_seq_len, d)
        + encoder
        + compression
        + pair_parameters(connection, num_slots=num_slots, d_model=d, bilinear_rank=bilinear_rank)
        + 2 * d
        + readout
        + decoder_parameters(d, num_decoder_layers, 4 * d)
    )


def original_parameters(
    *, vocab_size: int, max_seq_len: int, d_model: int, num_slots: int, bilinear_rank: int, max_reasoning_steps: int
) -> int:
    """Return the parameters of the original single-stack model, 2 N^2 D r + 6 D^2 + (V + S) D + D V + 2 K D.

    For comparison only: 285,346,816 at its base sizes, 4,329,578,496 at its large ones.
    """
    pairs = pair_parameters("dense", num_slots=num_slots, d_model=d_model, bilinear_rank=bilinear_rank)
    tables = (2 * vocab_size + max_seq_len) * d_model
    return pairs + 6 * d_model**2 + tables + 2 * max_reasoning_steps * d_model
