"""Answer extraction and comparison: text in, a number or None out.

Whatever cannot be read is None, and None never equals anything: an unreadable answer is a wrong answer.
Numbers are exact fractions, so 0.1 + 0.2 is 0.3 and 10000001 is not 10000000.
"""

import re
from collections import Counter
from fractions import Fraction

NUMBER_TOLERANCE = Fraction(1, 1_000_000)
MAX_DIGITS = 300  # longer digit strings are noise of a looping decoder, and quadratic to convert
MAX_EXPONENT = 300

_LOOKALIKES = str.maketrans("０１２３４５６７８９．，−－＋％＄／", "0123456789.,--+%$/")
_LATEX_SPACE = re.compile(r"\\[,;:!\s]|~")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(
    r"(?:(?<=[0-9])\s*)?\\[dtc]?frac\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))"
)
_CURRENCY = r"(?:US\$|[$€£¥₩₹]|(?:USD|EUR|GBP)\s)"
# A token is the whole run of digits, separators and slashes; whether it is well formed is decided afterwards, so
# that '1,23' or '1.2.3' is refused as a whole instead of being read as its first or last piece.
_TOKEN = re.compile(
    rf"(?<![A-Za-z_0-9.,])(?P<sign>[-+](?={_CURRENCY}|[0-9.]))?(?:{_CURRENCY}\s?(?P<inner>[-+]?))?"
    r"(?P<whole>[0-9]+\s+(?=[0-9]+/[0-9]))?"
    r"(?P<body>\.?[0-9](?:[0-9]|[.,:/](?=[0-9]))*(?:[eE][-+]?[0-9]+(?![A-Za-z0-9]))?)"
    r"(?:\s(?P<scale>thousand|million|billion)\b)?"
)
_DECIMAL = re.compile(r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?|\.[0-9]+")
_HEADING = re.compile(
    r"[*_\s]*(?:(?:step|part|solution|explanation|calculation)s?\b|[0-9]+[.):]\s+[A-Za-z])", re.IGNORECASE
)
_SCALES = {None: 1, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_ANSWER = re.compile(r"\banswer\b(?:\s+(?:is|was|equals|to\s+\w+\s+is))?\s*[:=]?\s*", re.IGNORECASE)
_ARTICLES = frozenset({"a", "an", "the"})
_EDGE_PUNCTUATION = "!\"#&'()*,./:;<=>?@[\\]^_`{|}~“”‘’…-"


def _plain(text: str) -> str:
    text = _LATEX_SPACE.sub(
        " ", text.translate(_LOOKALIKES).replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    )
    text = _LATEX_TEXT.sub(r" \1 ", text)
    return _LATEX_FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)


def _decimal(body: str) -> Fraction | None:
    mantissa, _, exponent = body.lower().partition("e")
    if not _DECIMAL.fullmatch(mantissa) or len(mantissa) > MAX_DIGITS or len(exponent) > 5:
        return None
    power = int(exponent or 0)
    if abs(power) > MAX_EXPONENT:
        return None
    return Fraction(mantissa.replace(",", "")) * Fraction(10) ** power


def _value(match: re.Match[str]) -> Fraction | None:
    parts = match["body"].split("/")
    numbers = [_decimal(part) for part in parts]
    if len(parts) > 2 or any(number is None for number in numbers):
        return None
    value = numbers[0] or Fraction(0)
    if len(numbers) == 2:
        if not numbers[1]:
            return None
        value /= numbers[1]
    if match["whole"]:
        if len(match["whole"]) > MAX_DIGITS:
            return None
        value += int(match["whole"])
    negative = (match["sign"] == "-") != (match["inner"] == "-")
    return (-value if negative else value) * _SCALES[match["scale"]]


def _spaced_sign(text: str) -> str:
    """Close the gap of a leading sign, as in '- 5', which inside a sentence would be a dash."""
    return re.sub(r"^\s*([-+])\s+(?=[$€£0-9.])", r"\1", text)


def last_boxed(text: str) -> str | None:
    r"""Return what the last ``\boxed{...}`` holds, nested braces kept; None without one or when it is not closed."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    position = start + len("\\boxed")
    while position < len(text) and text[position].isspace():
        position += 1
    if position >= len(text) or text[position] != "{":
        return None
    depth = 0
    for end in range(position, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[position + 1 : end]
    return None


def marked_answer(text: str) -> str | None:
    """Return the line behind the last '####' that begins no heading ('#### Step 3: ...'), or None without one.

    A mark with nothing behind it counts only where no other has something.
    """
    lines = [part.strip().partition("\n")[0] for part in reversed(text.split("####")[1:])]
    return next((line for line in lines if line and not _HEADING.match(line)), "" if "" in lines else None)


def parse_number(text: str) -> Fraction | None:
    """Return the one number of a short answer ('$1,200.50', '-5 kg', '3/4', '50%'), or None.

    Currency, units and the percent sign are dropped (50% is 50, as GSM8K writes it). Two different numbers, a
    malformed one ('1,23', '1.2.3', '5:30') or none at all give None. After an '=' only the right side counts.
    """
    right = _spaced_sign(_plain(text).rpartition("=")[2])
    values = [_value(match) for match in _TOKEN.finditer(right)]
    return values[0] if len(set(values)) == 1 else None


def extract_number(text: str) -> Fraction | None:
    r"""Return the final number of a solution, or None.

    Looked for in this order: after the last '####' (`marked_answer`), in the last ``\boxed{}``, in the sentence after
    the last 'answer is' / 'answer:', else the last number of the text. A marker that is followed by nothing readable
    gives None: a solution that announces an answer is judged by it alone.
    """
    marked = marked_answer(text)
    if marked is not None:
        return parse_number(marked)
    if "\\boxed" in text:
        boxed = last_boxed(text)
        return None if boxed is None else parse_number(boxed)
    text = _plain(text)
    announced = list(_ANSWER.finditer(text))
    if announced:
        sentence = re.split(r"\n|(?<=[^0-9])\.\s|\.\s+(?=[A-Z])", text[announced[-1].end() :])[0]
        right = _spaced_sign(sentence.rpartition("=")[2])
        first = _TOKEN.search(right)
        if first:
            return _value(first)
    tokens = list(_TOKEN.finditer(_spaced_sign(text)))
    return _value(tokens[-1]) if tokens else None


def numbers_equal(left: Fraction | None, right: Fraction | None) -> bool:
    """Return whether two read numbers agree within 1e-6 (absolute); None equals nothing, not even None."""
    return left is not None and right is not None and abs(left - right) <= NUMBER_TOLERANCE


def normalise(text: str) -> str:
    """Return lower-cased words without edge punctuation, numbers in one spelling, articles dropped before a word.

    Unlike SQuAD's, this keeps '-5', '3.5' and a lone or final 'A': an option letter is not an article.
    """
    words = [word for raw in text.translate(_LOOKALIKES).lower().split() if (word := _word(raw))]
    return " ".join(word for i, word in enumerate(words) if i + 1 == len(words) or word not in _ARTICLES)


def _word(raw: str) -> str:
    body = raw.lstrip("([\"'“‘")
    match = _TOKEN.match(body)
    if match and not body[match.end() :].strip(_EDGE_PUNCTUATION + "%"):
        value = _value(match)
        if value is not None:
            return str(value)
    return raw.strip(_EDGE_PUNCTUATION)


def exact_match(prediction: str, gold: str) -> bool:
    """Return whether both texts are equal once normalised; an empty prediction matches nothing."""
    normal = normalise(prediction)
    return bool(normal) and normal == normalise(gold)


def token_f1(prediction: str, gold: str) -> float:
    """Return the F1 of the two bags of normalised words, in [0, 1]; 0 when either side is empty."""
    left, right = Counter(normalise(prediction).split()), Counter(normalise(gold).split())
    shared = sum((left & right).values())
    return 2 * shared / (left.total() + right.total()) if shared else 0.0
