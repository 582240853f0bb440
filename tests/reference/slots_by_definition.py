"""Slot statistics written out from their definitions with Python loops."""

import math


def hoyer(matrix):
    entries = [abs(float(matrix[i][j])) for i in range(len(matrix)) for j in range(len(matrix)) if i != j]
    one = sum(entries)
    two = math.sqrt(sum(entry * entry for entry in entries))
    root = math.sqrt(len(entries))
    return (root - one / two) / (root - 1)


def entropy(counts):
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts if count)


def usage_entropy(counts):
    return entropy(counts) / math.log(len(counts))


def mutual_information(slots, tokens):
    n = len(slots)
    total = 0.0
    for slot in set(slots):
        for token in set(tokens):
            both = sum(1 for s, t in zip(slots, tokens, strict=True) if (s, t) == (slot, token)) / n
            if both:
                total += both * math.log(both / (slots.count(slot) / n) / (tokens.count(token) / n))
    return total
