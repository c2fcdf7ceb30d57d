"""Reviews of the project's own for `penjing demo`: a small grammar in which composition, not vocabulary, decides.

A template is written for a label L and says the same of either: `+` is a statement that agrees with L and `-` one that
contradicts it. So its own words tell nothing of L, and a judgement ("bland") tells it only together with the negation,
contrast, report or comparison around it. Where English has no such symmetry ("if only"), a pair of templates of nearly
the same words takes its place. Standard library only; the texts are made up, and free to copy.

    [a|b]      one of the alternatives                     {n1}    aspect 1: "the soup"
    {+1} {-1}  a statement about aspect 1                  {v1}    "was" or "were"
    {p1} {m1}  the same, but never with a negation         {it1}   "it" or "they"
    {a+1}      an adjective for aspect 1                   {who}   people who hold an opinion
    {here} {at} {differs} {after}                          see `Domain`
"""

import random
import re
from dataclasses import dataclass

WORDS = (8, 40)  # the fewest and the most words of a review
DIRECT = 0.5  # share of reviews that say it straight: what n-grams can learn, and what composition is learnt from
TURNED = 0.2  # share of statements that negate their opposite
NEUTRAL = 0.5  # share of reviews with a sentence that has no opinion


@dataclass(frozen=True)
class Aspect:
    """Something that can be good or bad: a noun, singular or plural, and the adjectives that suit it."""

    noun: str
    good: tuple[str, ...]
    bad: tuple[str, ...]
    plural: bool


@dataclass(frozen=True)
class Domain:
    """A kind of thing reviewed: what fills the slots of the same names, sentences without opinion, and aspects."""

    here: str
    at: tuple[str, ...]  # where the comparison is
    differs: str  # whoever thinks otherwise
    after: tuple[str, ...]  # how long it was tried
    neutral: tuple[str, ...]
    aspects: tuple[Aspect, ...]


def _aspects(table: str) -> tuple[Aspect, ...]:
    """Lines of `noun: good, good / bad, bad`; a `*` before the noun marks a plural."""
    rows = []
    for line in table.strip().splitlines():
        noun, good, bad = (part.strip() for part in re.split("[:/]", line))
        rows.append(Aspect(noun.lstrip("*"), tuple(good.split(", ")), tuple(bad.split(", ")), noun.startswith("*")))
    return tuple(rows)


_DOMAINS = (
    Domain(
        here="in this film",
        at=("in the first film", "in the sequel", "in the version from 1987", "in the director's last film"),
        differs="must have seen a different film",
        after=("watching it twice", "two long hours", "a second viewing"),
        neutral=(
            "We saw it on a Tuesday evening.",
            "It runs for just over two hours.",
            "I had seen no trailer.",
            "The story is set in a small harbour town.",
            "It was the second film of the festival.",
            "We watched it at home with the subtitles on.",
        ),
        aspects=_aspects("""
            plot: clever, gripping, original / predictable, muddled, tedious
            acting: natural, convincing, subtle / wooden, forced, clumsy
            dialogue: witty, natural, believable / stilted, corny, clumsy
            *jokes: witty, clever, original / stale, crude, predictable
            music: memorable, haunting, subtle / intrusive, monotonous, forgettable
            ending: satisfying, moving, convincing / contrived, predictable, hollow
            *characters: likeable, believable, memorable / shallow, annoying, forgettable
            camerawork: inventive, elegant, subtle / shaky, distracting, clumsy
            *costumes: elegant, inventive, convincing / drab, shabby, forgettable
        """),
    ),
    Domain(
        here="here",
        at=("at the place next door", "at the old restaurant", "at the bistro by the station", "at our usual place"),
        differs="must have eaten in a different restaurant",
        after=("three courses", "a long meal", "a second visit"),
        neutral=(
            "We were a party of five.",
            "We had booked a table for eight o'clock.",
            "It is a short walk from the station.",
            "I ordered the set menu.",
            "We sat near the window.",
            "They moved here last spring.",
        ),
        aspects=_aspects("""
            soup: fragrant, delicate, delicious / bland, watery, greasy
            bread: crusty, fresh, fragrant / stale, dry, soggy
            fish: tender, fresh, delicate / rubbery, dry, bland
            *desserts: delicious, inventive, delicate / sickly, bland, soggy
            *waiters: attentive, friendly, cheerful / rude, careless, surly
            service: prompt, attentive, gracious / sluggish, careless, chaotic
            *prices: fair, reasonable, modest / steep, excessive, outrageous
            dining room: cosy, elegant, inviting / noisy, cramped, gloomy
            wine list: varied, inventive, impressive / dull, careless, predictable
        """),
    ),
    Domain(
        here="here",
        at=("at the hotel across the street", "at the hotel by the lake", "at our usual hotel", "at the airport hotel"),
        differs="must have stayed in a different hotel",
        after=("the first night", "a look around", "our stay"),
        neutral=(
            "We stayed for three nights in October.",
            "Our room was on the fourth floor.",
            "I was in town for a conference.",
            "We arrived by train at about six.",
            "It has some forty rooms.",
            "We had booked two months ahead.",
        ),
        aspects=_aspects("""
            room: spacious, spotless, cosy / cramped, dingy, stuffy
            bed: comfortable, inviting, cosy / lumpy, creaky, uncomfortable
            breakfast: generous, varied, delicious / meagre, bland, monotonous
            *staff: friendly, helpful, attentive / rude, indifferent, surly
            bathroom: spotless, spacious, modern / grubby, mouldy, cramped
            pool: clean, inviting, spacious / murky, crowded, grubby
            lobby: elegant, inviting, cheerful / gloomy, shabby, noisy
            *towels: soft, clean, fresh / scratchy, grubby, shabby
            bar: cosy, cheerful, elegant / noisy, dingy, dull
        """),
    ),
    Domain(
        here="on this one",
        at=("on the older model", "on my last laptop", "on the cheaper version", "on my sister's laptop"),
        differs="must have bought a different laptop",
        after=("a month of daily use", "the first weekend", "a long train journey"),
        neutral=(
            "I bought it for my evening classes.",
            "It came in a plain brown box.",
            "I mostly use it for writing.",
            "Mine is the grey one.",
            "It replaced a machine from 2015.",
            "I carry it to work every day.",
        ),
        aspects=_aspects("""
            keyboard: comfortable, precise, responsive / mushy, noisy, cramped
            screen: sharp, bright, vivid / dim, blurry, grainy
            battery: dependable, impressive, durable / feeble, unreliable, erratic
            *speakers: clear, rich, impressive / tinny, feeble, muffled
            *hinges: sturdy, durable, precise / flimsy, creaky, wobbly
            software: intuitive, responsive, dependable / clumsy, sluggish, unreliable
            touchpad: responsive, precise, dependable / erratic, sluggish, unreliable
            case: sturdy, elegant, durable / flimsy, ugly, creaky
            webcam: sharp, clear, bright / grainy, blurry, dim
        """),
    ),
)

_WHO = (
    "my friends", "my colleagues", "my parents", "my neighbours", "the critics", "several reviewers", "people online",
    "both my sisters", "the local papers",
)  # fmt: skip

# A statement: `a+` are its plain forms, `a-` those that negate the opposite.
_PLAIN = (
    "{n1} {v1} {a+1}",
    "{n1} {v1} [really|truly|remarkably] {a+1}",
)
_TURNED = (
    "{n1} {v1} never anything but {a+1}",
    "{n1} {v1} [anything but|far from|not in the least|by no means|hardly] {a-1}",
    "{n1} never [once |]seemed [truly |really |]{a-1}",
    "there was nothing {a-1} about {n1}",
    "nobody could call {n1} [truly |really |]{a-1}",
)

_DIRECT = (
    "After {after}, I can say that {+1}.",
    "{+1}, [I thought|in my opinion|if you ask me], and {+2}.",
    "{+1}. I felt the same about {n2}: {it2} {v2} {a+2}.",
    "It was {n1} that struck me first: {it1} {v1} {a+1}. After {after}, I can add that {+2}.",
    "{n1} {v1} [just |really |]as {a+1} as {who} had said, and {+2}.",
    "I had heard [a lot|so much] about {n1}, and indeed {+1}.",
)

# The truth said outright, after a statement that was turned down; the noun where "they" are the people.
_IT_WAS = "[|: {it1} {v1} {a+1}|: {it1} {v1} truly {a+1}]."
_THE_NOUN_WAS = _IT_WAS.replace("{it1}", "{n1}")

_COMPOSED = (
    # contrast: the verdict decides, wherever it stands
    "{-1}, [but|yet] {+2}, and that is what [counts|matters] for me.",
    "[Although|Even though|While] {-1}, {+2}, and in the end that [mattered|counted for] more.",
    "{+1}, and that mattered more in the end, [although|even though] {-2}.",
    "It is true that {-1}, [but|yet] this did not change my mind: {+2}.",
    "That {-1} is a detail. [What counts is that|What I will remember is that] {+2}.",
    "The fact that {-1} could not outweigh the fact that {+2}.",
    "{+1}, which easily outweighed the fact that {-2}.",
    # which of two aspects matters
    "I came for {n1} rather than for {n2}, and while {m2}, {p1}.",
    "What I care about is {n1}, not {n2}. [{m2}, but {p1}|{p1}, but {m2}].",
    # opinions of others
    "{who} said that {-1}[; they|. They|, but they] [were wrong|could not have been more wrong]" + _THE_NOUN_WAS,
    "{who} said that {+1}[; they|. They|, and they] were right.",
    "{who} told me that {-1}[. I disagree|, but I disagree][|: I found {it1} {a+1}].",
    "{who} told me that {+1}[. I agree|, and I agree].",
    "{who} will tell you that {-1}. Do not believe them" + _THE_NOUN_WAS,
    "{who} said that {-1}, but I side with those who said that {+1}.",
    "Whoever says that {-1} {differs}[|: {here} {it1} {v1} {a+1}].",
    # expectation, condition, things unsaid
    "[From what I had read,|At first] I expected {n1} to be {a-1}, [but|and yet] after {after} I knew that {p1}.",
    "I expected {n1} to be {a-1}. I was wrong" + _IT_WAS,
    "I expected {n1} to be {a+1}. I was right.",
    "I would be lying if I said that {-1}[|, because {it1} {v1} {a+1}].",
    "If {m1}, I would [say so|write so here], but the opposite is true" + _IT_WAS,
    "You might think that {-1}. You would be wrong" + _IT_WAS,
    # comparison: who is compared with whom
    "{n1} {v1} nowhere near as {a-1} as {at}.",
    "{at}, {n1} {v1} nowhere near as {a+1}.",
    "{n1} {v1} {a-1} {at}; {here} {it1} {v1} quite the opposite[|, {a+1}].",
    "{n1} {v1} {a+1} {at}, and {here} even more so.",
)

_OPPOSITE = str.maketrans("+-", "-+")

# What is written when the label is positive, and when it is negative.
_PAIRS = (
    ("If only {n1} were this {a+1} {at}!", "If only {n1} were as {a-1} as {at}!"),
    ("{p1}, and I wish I could say the same of {n1} {at}.", "I wish I could say that {m1}, as {it1} {v1} {at}."),
)


class _Writer:
    """Fills one template for one domain and label; aspects 1 and 2 differ."""

    def __init__(self, domain: Domain, positive: bool, rng: random.Random) -> None:
        self._domain = domain
        self._positive = positive
        self._rng = rng
        self._aspects = rng.sample(domain.aspects, 2)
        self._used: set[str] = set()
        self._turns = 1  # a second negated statement would be hard on the reader

    def write(self, template: str) -> str:
        """The template with every alternative chosen and every slot filled."""
        chosen = re.sub(r"\[([^]]*)]", lambda match: self._rng.choice(match[1].split("|")), template)
        return re.sub(r"{([^}]*)}", lambda match: self._fill(match[1]), chosen)

    def _fill(self, slot: str) -> str:
        if slot == "who":
            return self._rng.choice(_WHO)
        if not slot[-1].isdigit():
            phrases: str | tuple[str, ...] = getattr(self._domain, slot)
            return phrases if isinstance(phrases, str) else self._rng.choice(phrases)
        name, number = slot[:-1], slot[-1]
        aspect = self._aspects[int(number) - 1]
        match name:
            case "n":
                return f"the {aspect.noun}"
            case "v":
                return "were" if aspect.plural else "was"
            case "it":
                return "they" if aspect.plural else "it"
            case "a+" | "a-":
                return self._adjective(aspect.good if self._positive == (name == "a+") else aspect.bad)
            case "+" | "p":
                return self.write(self._statement(name == "+").replace("1", number))
            case "-" | "m":
                return self.write(self._statement(name == "-").translate(_OPPOSITE).replace("1", number))
        raise AssertionError(f"no slot {slot!r}")

    def _adjective(self, suitable: tuple[str, ...]) -> str:
        """One that this review has not used."""
        adjective = self._rng.choice([word for word in suitable if word not in self._used])
        self._used.add(adjective)
        return adjective

    def _statement(self, may_turn: bool) -> str:
        """A form of statement, about aspect 1 and agreeing with the label."""
        if may_turn and self._turns and self._rng.random() < TURNED:
            self._turns -= 1
            return self._rng.choice(_TURNED)
        return self._rng.choice(_PLAIN)


def _review(positive: bool, rng: random.Random) -> str:
    """One review: a template, with a sentence without opinion before or after it in some."""
    domain = rng.choice(_DOMAINS)
    template = rng.choice(_DIRECT if rng.random() < DIRECT else (*_COMPOSED, *_PAIRS))
    if not isinstance(template, str):
        template = template[0 if positive else 1]
    sentences = [_Writer(domain, positive, rng).write(template)]
    if rng.random() < NEUTRAL:
        sentences.insert(rng.randrange(2), rng.choice(domain.neutral))
    return re.sub(r"(?:^|[.!?] )[a-z]", lambda match: match[0].upper(), " ".join(sentences))


def reviews(count: int, seed: int) -> list[dict[str, str]]:
    """`count` different reviews, half of them positive: rows of "text" and "label", "negative" or "positive"."""
    rng = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = ("negative", "positive")[len(rows) % 2]
        text = _review(label == "positive", rng)
        if text not in rows and WORDS[0] <= len(text.split()) <= WORDS[1]:
            rows[text] = label
    shuffled = [{"text": text, "label": label} for text, label in rows.items()]
    rng.shuffle(shuffled)
    return shuffled
