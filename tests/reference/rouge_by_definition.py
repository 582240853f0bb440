"""ROUGE as it is defined, with tables and loops: the slow twin of rtx_lab.scoring.rouge."""

from fractions import Fraction


def rouge_n(prediction, reference, n):
    """F1 of n-grams as an exact fraction; every n-gram of the reference is matched at most once."""
    ours = [tuple(prediction[i : i + n]) for i in range(len(prediction) - n + 1)]
    left = [tuple(reference[i : i + n]) for i in range(len(reference) - n + 1)]
    num_reference, matched = len(left), 0
    for gram in ours:
        if gram in left:
            left.remove(gram)
            matched += 1
    return _f1(matched, len(ours), num_reference)


def rouge_l(prediction, reference):
    """F1 of the longest common subsequence, by the table of all prefixes."""
    table = [[0] * (len(reference) + 1) for _ in range(len(prediction) + 1)]
    for i, ours in enumerate(prediction):
        for j, theirs in enumerate(reference):
            table[i + 1][j + 1] = table[i][j] + 1 if ours == theirs else max(table[i][j + 1], table[i + 1][j])
    return _f1(table[-1][-1], len(prediction), len(reference))


def rouge_by_definition(prediction, references):
    """The best of each metric over the references."""
    return {
        "rouge1": max(rouge_n(prediction, one, 1) for one in references),
        "rouge2": max(rouge_n(prediction, one, 2) for one in references),
        "rougeL": max(rouge_l(prediction, one) for one in references),
    }


def _f1(shared, num_predicted, num_reference):
    if shared == 0:
        return Fraction(0)
    precision, recall = Fraction(shared, num_predicted), Fraction(shared, num_reference)
    return 2 * precision * recall / (precision + recall)
