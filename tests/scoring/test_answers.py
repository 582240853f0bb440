"""Tables of answers as models and people write them, each with the one reading that is right."""

import random
from fractions import Fraction

import pytest

from rtx_lab.scoring.answers import (
    extract_number,
    last_boxed,
    normalise,
    numbers_equal,
    parse_number,
)

F = Fraction

SHORT_ANSWERS = [
    ("18", F(18)),
    ("-5", F(-5)),
    ("−5", F(-5)),  # U+2212
    ("- 5", F(-5)),
    ("+7", F(7)),
    ("3.5", F(7, 2)),
    ("3.50", F(7, 2)),
    (".5", F(1, 2)),
    ("-.5", F(-1, 2)),
    ("5.", F(5)),
    ("007", F(7)),
    ("1,234", F(1234)),
    ("1,234,567.89", F(123456789, 100)),
    ("1234567", F(1234567)),
    ("1,23", None),
    ("12,34,567", None),
    ("1,2345", None),
    ("1.2.3", None),
    ("5:30", None),
    ("1/2/2020", None),
    ("$18", F(18)),
    ("$ 18", F(18)),
    ("-$18", F(-18)),
    ("$-18", F(-18)),
    ("€1,000.50", F(2001, 2)),
    ("£3", F(3)),
    ("₩50,000", F(50000)),
    ("US$20", F(20)),
    ("18 dollars", F(18)),
    ("18USD", F(18)),
    ("50%", F(50)),
    ("50 %", F(50)),
    ("12.5%", F(25, 2)),
    ("5kg", F(5)),
    ("60 km/h", F(60)),
    ("25 cm²", F(25)),
    ("3/4", F(3, 4)),
    ("-3/4", F(-3, 4)),
    ("1 1/2", F(3, 2)),
    ("-1 1/2", F(-3, 2)),
    ("6/3", F(2)),
    ("3/0", None),
    (r"\frac{3}{4}", F(3, 4)),
    (r"\dfrac34", F(3, 4)),
    (r"1\frac{1}{2}", F(3, 2)),
    (r"-\frac{1}{2}", F(-1, 2)),
    (r"\$1{,}200", F(1200)),
    (r"12\,000\text{ apples}", None),  # two numbers: 12 and 000
    (r"12\text{ apples}", F(12)),
    (r"40\%", F(40)),
    ("1e3", F(1000)),
    ("1.5e-3", F(3, 2000)),
    ("1e999999999", None),
    ("9" * 5000, None),
    ("1.5 million", F(1500000)),
    ("2 thousand", F(2000)),
    ("１２３", F(123)),
    ("x = 5", F(5)),
    ("5 + 3 = 8", F(8)),
    ("5 + 3", None),
    ("5 5", F(5)),
    ("3-5", None),
    ("10-5", None),
    ("", None),
    ("   ", None),
    ("-", None),
    ("$", None),
    (",", None),
    (".", None),
    ("A", None),
    ("five", None),
    ("nan", None),
    ("inf", None),
    ("1e", F(1)),
    ("x2", None),
    ("H2O", None),
    ("None", None),
]

SOLUTIONS = [
    ("She eats 3 and sells 4.\n#### 18", F(18)),
    ("#### 1,234", F(1234)),
    ("####18", F(18)),
    ("#### $18.00 per day", F(18)),
    ("#### -5", F(-5)),
    ("#### - 5", F(-5)),
    ("#### 5\n#### 6", F(6)),
    ("#### 5\nand then 9 more", F(5)),
    ("there are 9\n####", None),
    ("there are 9\n#### nothing", None),
    ("there are 9\n#### 3 or 4", None),
    ("#### 5 + 3 = 8", F(8)),
    ("#### 18\n#### Step 2: check it with 3", F(18)),  # a heading of Markdown
    ("#### **Step 1:** add 3\n#### 2. Multiply by 4\nThe answer is 18.", F(18)),
    ("#### 3. Add 4\n#### Part 2\nso it is 7", F(7)),
    ("#### 2.5", F(5, 2)),
    ("#### 18 ####", F(18)),
    ("#### 18\n####", F(18)),
    (r"so \boxed{42}", F(42)),
    (r"so \boxed{\frac{3}{4}} of 8", F(3, 4)),
    (r"\boxed{1} then \boxed{2}", F(2)),
    (r"\boxed{\text{about } {7}}", F(7)),
    (r"\boxed{12", None),
    (r"5 \boxed{}", None),
    (r"\boxed {8}", F(8)),
    (r"$\boxed{\$1,200}$", F(1200)),
    ("The answer is 18. There were 3 eggs.", F(18)),
    ("The answer is 3.5.", F(7, 2)),
    ("Answer: 1,000", F(1000)),
    ("The final answer is $-5", F(-5)),
    ("the answer is -5", F(-5)),
    ("the answer is 5 + 3 = 8", F(8)),
    ("The answer is unclear. 7", F(7)),
    ("She has 5 apples and buys 3, so 8.", F(8)),
    ("5 - 3 = 2", F(2)),
    ("between 3-5", F(5)),
    ("GPT-4 says 12", F(12)),
    ("12 says GPT4", F(12)),
    ("1, 2, 3", F(3)),
    ("it was 1.2.3", None),
    ("no number here", None),
    ("", None),
    ("Total: 3,4", None),
]


@pytest.mark.parametrize(("text", "value"), SHORT_ANSWERS)
def test_short_answer_is_read(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize(("text", "value"), SOLUTIONS)
def test_final_number_of_a_solution(text, value):
    assert extract_number(text) == value


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("5", "5.0", True),
        ("-5", "5", False),
        ("3.5", "35", False),
        ("35", "3.5", False),
        ("0.5", "1/2", True),
        ("50%", "0.5", False),
        ("0.3333333", "1/3", True),
        ("0.333", "1/3", False),
        ("10000001", "10000000", False),
        ("1,000", "1000", True),
        ("$1,000.00", "1000", True),
        ("", "", False),
        ("A", "A", False),
        ("A", "0", False),
        ("1e16", "10000000000000001", False),
    ],
)
def test_numbers_equal(left, right, equal):
    assert numbers_equal(parse_number(left), parse_number(right)) is equal


def test_nested_braces_are_kept_whole():
    assert last_boxed(r"a \boxed{\frac{1}{2} + {3}} b") == r"\frac{1}{2} + {3}"
    assert last_boxed("no box") is None
    assert last_boxed("\\boxed") is None


def test_every_integer_and_cent_survives_formatting():
    numbers = random.Random(0)
    for _ in range(300):
        cents = numbers.randrange(-(10**9), 10**9)
        value = F(cents, 100)
        plain = f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"
        grouped = f"{'-' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02d}"
        assert parse_number(plain) == parse_number(grouped) == extract_number(f"so\n#### {grouped}") == value


def test_random_text_never_raises():
    noise = random.Random(1)
    alphabet = "0123456789.,-+$%/\\{}#boxedfrac =eE:\n Aé٣²"
    for _ in range(3000):
        text = "".join(noise.choices(alphabet, k=noise.randrange(1, 25)))
        parse_number(text), extract_number(text), normalise(text)
