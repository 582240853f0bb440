"""What is said in the built-in dialogues, in English and Korean, and the tokenizer that is made from it.

`assets/dialogues/tokenizer.json` is the output of `build`; a test makes it anew and compares every byte. Remake it with
`python -m rtx_lab.data.dialogue_words` after changing a phrase. It is byte-level BPE: any text in any language comes
back exactly, line breaks too, and every word of the built-in dialogues is one token.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, END, START, UNKNOWN = SPECIALS = ("<pad>", "</s>", "<s>", "<unk>")
ASSET = Path(__file__).parent / "assets" / "dialogues"
PRICES = tuple(range(2, 10))
"""In tens of dollars and in units of 10,000 won; a haggler offers one less."""
SPEAKERS = ("#Person1#", "#Person2#", "#Person3#")
DETAIL_TOKENS = (
    "#PhoneNumber#", "#Address#", "#PassportNumber#", "#DateOfBirth#", "#SSN#", "#CardNumber#", "#CarNumber#",
    "#Email#",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The words and sentences of one language; `{...}` in a sentence is filled from the words.

    `items` are pairs of name and object of a sentence, `details` stand in the order of DETAIL_TOKENS. `turns` are what
    may be said, several wordings each; `summaries` what is written of it. `topics` are a speaker as the topic of a
    sentence, by the number of the speaker.
    """

    days: tuple[str, ...]
    places: tuple[str, ...]
    tasks: tuple[str, ...]
    reasons: tuple[str, ...]
    items: tuple[tuple[str, str], ...]
    details: tuple[tuple[str, str], ...]
    purposes: tuple[str, ...]
    topics: tuple[str, ...]
    price: str
    chat: tuple[tuple[str, str], ...]
    closings: tuple[tuple[str, str], ...]
    turns: dict[str, tuple[str, ...]]
    summaries: dict[str, str]


# fmt: off
ENGLISH = Language(
    days=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    places=("beach", "cinema", "lake", "library", "market", "museum", "park", "restaurant"),
    tasks=(
        "wash the dishes", "clean the room", "walk the dog", "fix the door", "move the boxes", "return the books",
        "pick up the mail", "wash the car", "print the report", "cook dinner", "buy a cake", "book the tickets",
    ),
    reasons=("an exam", "a cold", "work", "a trip", "a class", "a meeting"),
    items=tuple(
        (name, f"the {name}") for name in ("lamp", "bag", "chair", "clock", "coat", "guitar", "desk", "camera")
    ),
    details=tuple(
        (name, name)
        for name in (
            "phone number", "address", "passport number", "date of birth", "security number", "card number",
            "car number", "email",
        )
    ),
    purposes=("booking", "form", "delivery", "contract", "order", "membership"),
    topics=SPEAKERS,
    price="{tens}0 dollars",
    chat=(
        ("Hi, how are you?", "Fine, thank you."),
        ("How was your {day}?", "Busy, I was at the {place}."),
        ("It rained on {day}.", "Yes, I stayed at home."),
        ("I saw you at the {place}.", "I was looking for a {item}."),
        ("You look tired.", "I could not sleep."),
        ("Did you watch the game?", "No, I had to {task}."),
    ),
    closings=(("Thanks a lot.", "You are welcome."), ("See you soon.", "Bye."), ("Take care.", "You too.")),
    turns={
        "favour": ("Could you {task} on {day}?", "Someone has to {task} on {day}. Would you?"),
        "meeting": ("Shall we go to the {place} on {day}?", "Would you like to come to the {place} on {day}?"),
        "purchase": ("How much is {the_item}?", "I like {the_item}. What does it cost?"),
        "details": ("May I have your {detail} for the {purpose}?", "The {purpose} needs your {detail}."),
        "agree": ("Sure, no problem.", "Yes, gladly."),
        "other day": ("{day} is difficult. Would {other_day} do?", "I am busy on {day}. How about {other_day}?"),
        "other place": ("The {place} is closed. How about the {other_place}?", "I prefer the {other_place}."),
        "accept": ("Good idea.", "Fine with me."),
        "refuse": ("Sorry, I cannot because of {reason}.", "No, I have {reason}."),
        "take over": ("I can do it instead.", "Let me do that."),
        "tell price": ("It is {price}.", "That one costs {price}."),
        "buy": ("I will take it.", "Good, here is the money."),
        "haggle": ("Could you make it {lower}?", "That is a lot. What about {lower}?"),
        "leave": ("That is too expensive.", "No, I will leave it."),
        "tell": ("Of course, it is {token}.", "Yes, {token}."),
        "keep": ("I would rather not say.", "Sorry, that is private."),
    },
    summaries={
        "favour": "{asker} asks {asked} to {task} on {day}.",
        "meeting": "{asker} invites {asked} to the {place} on {day}.",
        "details": "{asker} asks {asked} for the {detail} for the {purpose}.",
        "agreed": "{asked} agrees.",
        "moved": "They settle on {other_day}.",
        "elsewhere": "They choose the {other_place} instead.",
        "refused": "{asked} refuses because of {reason}.",
        "taken over": "{asked} refuses because of {reason}, so {third} will do it.",
        "bought": "{asker} buys {the_item} from {asked} for {price}.",
        "haggled": "{asker} buys {the_item} from {asked} for {lower} after haggling.",
        "left": "{asker} does not buy {the_item} from {asked} for {price}.",
        "told": "It is {token}.",
        "kept": "{asked} does not tell.",
    },
)

KOREAN = Language(
    days=("월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"),
    places=("바닷가", "극장", "호수", "도서관", "시장", "박물관", "공원", "식당"),
    tasks=(
        "설거지를 해", "방을 청소해", "강아지를 산책시켜", "문을 고쳐", "상자를 옮겨", "책을 반납해", "우편물을 찾아",
        "차를 닦아", "보고서를 인쇄해", "저녁을 준비해", "케이크를 사", "표를 예매해",
    ),
    reasons=("시험이 있어서", "감기에 걸려서", "일이 많아서", "여행을 가서", "수업이 있어서", "회의가 있어서"),
    items=(
        ("램프", "램프를"), ("가방", "가방을"), ("의자", "의자를"), ("시계", "시계를"), ("코트", "코트를"),
        ("기타", "기타를"), ("책상", "책상을"), ("카메라", "카메라를"),
    ),
    details=(
        ("전화번호", "전화번호를"), ("주소", "주소를"), ("여권 번호", "여권 번호를"), ("생년월일", "생년월일을"),
        ("주민등록번호", "주민등록번호를"), ("카드 번호", "카드 번호를"), ("차 번호", "차 번호를"),
        ("이메일", "이메일을"),
    ),
    purposes=("예약", "서류", "배달", "계약", "주문", "회원 가입"),
    topics=("#Person1#은", "#Person2#는", "#Person3#은"),
    price="{tens}만 원",
    chat=(
        ("안녕하세요, 잘 지냈어요?", "네, 잘 지냈어요."),
        ("{day}은 어땠어요?", "바빴어요, {place}에 있었어요."),
        ("{day}에 비가 왔어요.", "네, 저는 집에 있었어요."),
        ("{place}에서 봤어요.", "네, {item} 때문에 갔어요."),
        ("피곤해 보여요.", "잠을 못 잤어요."),
        ("경기 봤어요?", "아니요, {task}야 했어요."),
    ),
    closings=(("정말 고마워요.", "천만에요."), ("또 봐요.", "안녕히 가세요."), ("조심히 가요.", "네, 가요.")),
    turns={
        "favour": ("{day}에 {task} 줄 수 있어요?", "누가 {day}에 {task} 줘야 해요. 해 줄래요?"),
        "meeting": ("{day}에 {place}에 갈까요?", "{day}에 {place}에 같이 가고 싶어요?"),
        "purchase": ("{item} 얼마예요?", "{item} 마음에 들어요. 값이 어떻게 돼요?"),
        "details": ("{purpose} 때문에 그러는데 {detail} 좀 알려 주세요.", "{purpose}에 {detail} 필요해요."),
        "agree": ("그럼요, 문제없어요.", "네, 기꺼이요."),
        "other day": ("{day}은 어려워요. {other_day}은 어때요?", "{day}에는 바빠요. {other_day}에 할까요?"),
        "other place": ("{place} 문 닫았어요. {other_place} 어때요?", "저는 {other_place} 쪽이 좋아요."),
        "accept": ("좋은 생각이에요.", "저는 괜찮아요."),
        "refuse": ("미안해요, {reason} 안 돼요.", "아니요, {reason} 못 해요."),
        "take over": ("제가 대신 할게요.", "저한테 맡겨요."),
        "tell price": ("{price}이에요.", "그건 {price} 해요."),
        "buy": ("그걸로 할게요.", "좋아요, 돈 여기 있어요."),
        "haggle": ("{lower}에 안 될까요?", "너무 많아요. {lower} 어때요?"),
        "leave": ("너무 비싸요.", "아니요, 그만둘게요."),
        "tell": ("물론이죠, {token}이에요.", "네, {token}."),
        "keep": ("말하고 싶지 않아요.", "미안해요, 그건 비밀이에요."),
    },
    summaries={
        "favour": "{asker_topic} {asked}에게 {day}에 {task} 달라고 부탁한다.",
        "meeting": "{asker_topic} {asked}에게 {day}에 {place}에 가자고 한다.",
        "details": "{asker_topic} {asked}에게 {purpose}에 필요한 {the_detail} 묻는다.",
        "agreed": "{asked_topic} 그러기로 한다.",
        "moved": "두 사람은 {other_day}로 정한다.",
        "elsewhere": "두 사람은 대신 {other_place}에 가기로 한다.",
        "refused": "{asked_topic} {reason} 거절한다.",
        "taken over": "{asked_topic} {reason} 거절하고 {third_topic} 대신 하기로 한다.",
        "bought": "{asker_topic} {asked}에게서 {the_item} {price}에 산다.",
        "haggled": "{asker_topic} {asked}에게서 {the_item} {lower}에 깎아서 산다.",
        "left": "{asker_topic} {asked}에게서 {the_item} {price}에 사지 않는다.",
        "told": "{token}이다.",
        "kept": "{asked_topic} 알려 주지 않는다.",
    },
)
# fmt: on
LANGUAGES = {"english": ENGLISH, "korean": KOREAN}


def build() -> Tokenizer:
    """Make the tokenizer: byte-level BPE whose merges join each word of the phrases into one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    cutter: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = Counter(piece for text in _texts() for piece, _ in cutter.pre_tokenize_str(text))
    merges = learn_merges(pieces)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*SPECIALS, *alphabet, *("".join(pair) for pair in merges)]
    vocab = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = cutter
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def learn_merges(pieces: Counter[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding until every piece is one token: always the most frequent pair, ties by its text.

    Source: Sennrich et al., Neural machine translation of rare words with subword units (2016).
    """
    words = {piece: tuple(piece) for piece in pieces}
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for piece, parts in words.items() for pair in [*pairwise(parts)] * pieces[piece]):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        words = {piece: _merged(parts, best) for piece, parts in words.items()}
    return merges


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    if pair[0] not in parts:
        return parts
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return tuple(found)


def choices(language: Language) -> dict[str, tuple[str, ...]]:
    """What may stand in each place of a sentence."""
    prices = tuple(language.price.format(tens=tens) for tens in range(PRICES[0] - 1, PRICES[-1] + 1))
    return {
        "day": language.days,
        "other_day": language.days,
        "place": language.places,
        "other_place": language.places,
        "task": language.tasks,
        "reason": language.reasons,
        "item": tuple(name for name, _ in language.items),
        "the_item": tuple(thing for _, thing in language.items),
        "detail": tuple(name for name, _ in language.details),
        "the_detail": tuple(thing for _, thing in language.details),
        "purpose": language.purposes,
        "price": prices,
        "lower": prices,
        "token": DETAIL_TOKENS,
        **dict.fromkeys(("asker", "asked", "third"), SPEAKERS),
        **{f"{who}_topic": language.topics for who in ("asker", "asked", "third")},
    }


def _texts() -> Iterator[str]:
    """Every phrase with every word in every place where it can stand, as the pieces between special tokens."""
    for language in LANGUAGES.values():
        known = choices(language)
        said = [text for pair in (*language.chat, *language.closings) for text in pair]
        said += [text for wordings in language.turns.values() for text in wordings]
        for phrase in [*(f": {text}" for text in said), *(f" {text}" for text in language.summaries.values())]:
            places = re.findall(r"{(\w+)}", phrase)
            first = {place: known[place][0] for place in places}
            filled = {phrase.format(**{**first, place: word}) for place in places for word in known[place]}
            for text in sorted(filled or {phrase}):
                yield from filter(None, re.split(r"#\w+#", text))


if __name__ == "__main__":
    ASSET.mkdir(parents=True, exist_ok=True)
    build().save(str(ASSET / "tokenizer.json"), pretty=False)
    roles = {"bos_token": START, "eos_token": END, "pad_token": PAD, "unk_token": UNKNOWN}
    (ASSET / "tokenizer_config.json").write_text(json.dumps(roles, indent=2) + "\n", encoding="utf-8")
