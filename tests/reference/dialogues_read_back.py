"""Summaries of the built-in dialogues from their text alone: who says what is found by pattern, nothing is drawn."""

import functools
import re

from rtx_lab.data.dialogue_words import DETAIL_TOKENS, LANGUAGES, SPEAKERS, choices

MATTERS = ("favour", "meeting", "purchase", "details")


def summary_of(dialogue, language):
    """The summary that the rules of made_dialogues give, or an AssertionError where the text is ambiguous."""
    known = LANGUAGES[language]
    turns = [re.fullmatch(r"(#Person\d#): (.+)", line).groups() for line in dialogue.split("\n")]
    (kind,) = [kind for kind in MATTERS if _said(known, turns, kind)]
    asker, facts = _said(known, turns, kind)
    after = turns[[who for who, _ in turns].index(asker) :]
    found = {key: hit for key in known.turns if (hit := _said(known, after, key))}
    outcome, people = _outcome(kind, asker, found, turns)
    facts = {**facts, **{key: word for _, words in found.values() for key, word in words.items()}, **people}
    topics = {f"{role}_topic": known.topics[SPEAKERS.index(who)] for role, who in people.items()}
    facts |= topics | _objects(known, facts)
    sentences = [known.summaries[key] for key in (kind, outcome) if key in known.summaries]
    return " ".join(sentences).format(**facts)


def _outcome(kind, asker, found, turns):
    by = {key: who for key, (who, _) in found.items()}
    people = {"asker": asker}
    if kind == "purchase":
        people["asked"] = by["tell price"]
        return ("haggled" if "haggle" in by else "left" if "leave" in by else "bought"), people
    if kind == "details":
        people["asked"] = by["tell"] if "tell" in by else by["keep"]
        return ("told" if "tell" in by else "kept"), people
    for key, outcome in (("other day", "moved"), ("other place", "elsewhere"), ("refuse", "refused")):
        if key in by:
            people["asked"] = by[key]
            if "take over" in by:
                people["third"] = by["take over"]
                outcome = "taken over"
            return outcome, people
    people["asked"] = by["agree"]
    return "agreed", people


def _objects(known, facts):
    """The words that a summary has in another form than the dialogue."""
    forms = dict(known.items) | {thing: thing for _, thing in known.items}
    details = dict(known.details)
    found = {}
    if item := facts.get("item") or facts.get("the_item"):
        found["the_item"] = forms[item]
    if detail := facts.get("detail"):
        found["the_detail"] = details[detail]
        found["token"] = DETAIL_TOKENS[[name for name, _ in known.details].index(detail)]
    return found


def _said(known, turns, key):
    """(speaker, words) of the only turn that holds one of the wordings of `key`, or None."""
    hits = {}
    for number, (who, text) in enumerate(turns):
        for wording in known.turns[key]:
            if match := _pattern(known.price, wording).search(text):
                hits[number] = (who, match.groupdict())
    assert len(hits) <= 1, (key, hits)
    return next(iter(hits.values()), None)


@functools.cache
def _pattern(price, wording):
    """A wording with every word that may stand in its places; `price` tells the language."""
    (known,) = [known for known in LANGUAGES.values() if known.price == price]
    words = choices(known)
    pieces = re.split(r"{(\w+)}", wording)
    whole = "".join(
        f"(?P<{piece}>{'|'.join(map(re.escape, sorted(set(words[piece]), key=len, reverse=True)))})"
        if place % 2
        else re.escape(piece)
        for place, piece in enumerate(pieces)
    )
    return re.compile(whole)
