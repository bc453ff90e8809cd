"""Words and phrases that are refused, each with what to write instead.

Text is for engineers in a hurry whose first language may not be English. What is refused: persons
for tasks and values, metaphors that only this project knows, and phrases that a dictionary does
not explain.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Pattern(NamedTuple):
    """What is refused, and why."""

    name: str
    expression: str
    """What matches it from the beginning of a word, in small letters."""
    instead: str


PERSONS: Final = ("user", "users", "people", "person", "author", "authors", "reader", "readers")
_NOT_A_PERSON: Final = "".join(f"(?<!{one} )" for one in PERSONS)

PATTERNS: Final = (
    Pattern("whoever", r"(?:whoever|whomever|whosoever)\b", "name the thing: each task that ..."),
    Pattern("whyever", r"whyever\b", "for whatever reason"),
    Pattern(
        "nobody",
        r"(?:nobody|somebody|everybody|anybody|no one|someone|everyone|anyone)\b",
        "name the thing: no client, a task, every session",
    ),
    Pattern("who", rf"{_NOT_A_PERSON}who\b(?![^.!]*\?)", "that, which; or name the thing"),
    Pattern("whom", r"whom\b", "which; or name the thing"),
    Pattern("any more", r"any ?more\b|no more\b(?! than)", "no longer; after that, not"),
    Pattern(
        "is no",
        r"(?<!there )(?:is|are|was|were|be) (?:no (?!longer|such|more)\w+|none of\b)",
        "is not a ...",
    ),
    Pattern("learn that", r"learns? that\b", "called when ..."),
    Pattern("tell whether", r"tells? (?:whether|if)\b", "return whether"),
    Pattern("tell of", r"(?:tells?|telling|told) (?:of|nothing)\b", "notify, report"),
    Pattern("hear of", r"(?:hears?|heard|hearing) of\b", "be notified of, receive"),
    Pattern("be", r"(?:^|(?<=[.:] ))be \w", "say what it does: rebind, wait"),
    Pattern("shake hands", r"(?:shakes?|shook|shaken|shaking) (?:no )?hands\b", "handshake"),
    Pattern("goodbye", r"(?:good-?byes?|farewells?)\b", "flush, the last message"),
    Pattern("house", r"houses?\b", "the sessions nursery"),
    Pattern("guest", r"guests?\b(?![ -](?:mode|runs?)\b)", "borrower"),
    Pattern("dress", r"dress(?:es|ed|ing)?\b", "complete the result"),
    Pattern("outlet", r"outlets?\b", "sink"),
    Pattern("pulse", r"(?:pulses?|sleepers?)\b", "ticker, wakeup"),
    Pattern("stranger", r"strangers?\b", "an unknown client, other code"),
    Pattern("newcomer", r"newcomers?\b", "the new session"),
    Pattern("accord", r"of (?:its|their) own accord\b|for want of\b", "by itself; without"),
    Pattern("stands for itself", r"stands? (?:for (?:itself|themselves)|alone)\b", "stateless"),
    Pattern("strike", r"(?:strikes?|struck)\b", "expire, end, happen"),
    Pattern("let go of", r"(?:lets?|letting) go of\b", "release, close"),
    Pattern("come back", r"(?:comes?|came|is) (?:back|again)\b", "retry, reconnect, return"),
    Pattern("go on", r"(?:go|goes|going|went) on\b", "continue, resume"),
    Pattern("has to go", r"(?:has|have|had) to go\b(?! on\b)", "is evicted, is removed"),
    Pattern("turn away", r"(?:turns?|turned|turning) away\b", "reject"),
    Pattern("manners", r"manners\b", "recommendations"),
    Pattern("nothing here", r"nothing here\b", "not found"),
    Pattern("no such", r"no such\b", "name it: the user is unknown, the module does not exist"),
    Pattern("become of", r"(?:becomes?|became) of\b", "what happens to, how it ended"),
    Pattern("as many as", r"as (?:many|much) as\b", "the same number, at most, up to"),
    Pattern("is that of", r"(?:is|are) (?:that|those) of\b", "belongs to, comes from, the same as"),
)

_CODE: Final = re.compile(r"(`+).+?\1")
_COMPILED: Final = [(one, re.compile(rf"\b(?:{one.expression})")) for one in PATTERNS]
# One search decides about most texts.
_ANY: Final = re.compile(rf"\b(?:{'|'.join(one.expression for one in PATTERNS)})")


def find(text: str) -> list[tuple[Pattern, str]]:
    """Return each match of each pattern in a text, with the words that match in small letters.

    What is marked as code is left out.
    """
    text = _CODE.sub("…", text.lower())
    if not _ANY.search(text):
        return []
    return [
        (pattern, match.group())
        for pattern, expression in _COMPILED
        for match in expression.finditer(text)
    ]
