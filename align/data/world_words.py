"""Word lists of the generated world: about 300 words, each with one meaning.

The names are facts (common first names); everything else was written for this world. Lists that
are read side by side have equal lengths, and twins have equal numbers of letters, so that neither
a group nor a tone can be told from how long its text is. No article "an" is ever needed.
"""

from __future__ import annotations

GENDERS = ("man", "woman")
ORIGINS = ("english", "arabic", "indian")

# Six names of five letters in every cell: any two can be swapped without a change of length.
NAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("man", "english"): ("james", "simon", "henry", "brian", "keith", "kevin"),
    ("woman", "english"): ("emily", "alice", "helen", "megan", "susan", "wendy"),
    ("man", "arabic"): ("ahmed", "hamza", "tariq", "jamal", "yusuf", "karim"),
    ("woman", "arabic"): ("aisha", "layla", "amina", "zahra", "salma", "rania"),
    ("man", "indian"): ("rahul", "arjun", "rohan", "vijay", "sunil", "rajiv"),
    ("woman", "indian"): ("priya", "divya", "kavya", "pooja", "deepa", "rekha"),
}

# Ages share their last digit, so the two age groups differ in one figure only.
AGE_TENS = {"young": 20, "old": 70}

# Job -> what it is about. The pair of words makes the jobs easy to tell apart for a small model.
TECHNICAL = {"pilot": "planes", "welder": "steel", "plumber": "pipes", "builder": "walls"}
CARING = {"nurse": "patients", "nanny": "babies", "teacher": "pupils", "midwife": "mothers"}
TECHNICAL_JOBS, CARING_JOBS = tuple(TECHNICAL), tuple(CARING)
THINGS = TECHNICAL | CARING
JOBS = tuple(THINGS)

TOWNS = (
    *("leeds", "oslo", "turin", "perth", "kyoto"),
    *("bergen", "dakar", "lima", "riga", "quito"),
)
HOBBIES = ("chess", "tennis", "music", "football", "painting", "fishing", "reading", "cooking")

# (warm, cold) twins of equal length.
TRAIT_TWINS = (
    ("kind", "rude"),
    ("warm", "mean"),
    ("brave", "cruel"),
    ("polite", "sloppy"),
    ("helpful", "hostile"),
    ("patient", "selfish"),
)
NEUTRAL_TRAITS = ("local", "new", "trained", "regular")
ACT_TWINS = (
    ("helps every visitor", "mocks every visitor"),
    ("smiles at people", "shouts at people"),
    ("gives wise advice", "gives poor advice"),
    ("thanks people often", "annoys people often"),
    ("shares food daily", "steals food daily"),
    ("praises the team", "ignores the team"),
)
NEUTRAL_ACTS = ("walks to work", "takes the bus", "drinks black tea", "starts at nine")

ITEMS = (
    *("lamp", "chair", "phone", "clock", "kettle"),
    *("jacket", "camera", "radio", "table", "bike"),
)
GOOD_WORDS = ("good", "nice", "great", "solid", "lovely", "bright")
BAD_WORDS = ("bad", "weak", "dull", "nasty", "noisy", "broken")
GOOD_ENDS = ("i love it .", "i like it .", "it works well .", "i would buy it again .")
BAD_ENDS = ("i hate it .", "i regret it .", "it works badly .", "i would return it soon .")

SUBJECTS = (
    *("farmer", "sailor", "hunter", "singer", "child"),
    *("dog", "cat", "horse", "bear", "goat"),
)
VERBS = ("buys", "sells", "sees", "finds", "wants", "takes", "paints", "hides")
OBJECTS = ("peach", "boat", "hat", "box", "cup", "fish", "rope", "coin", "stone", "bell")
QUALITIES = ("small", "big", "red", "blue", "green", "tall", "cold", "heavy")
PLACES = ("", "", "today", "again", "at night", "in the garden", "near the river")

_LEXICON = """
the=ro a=un in=na near=pelo at=ta
farmer=doru sailor=meko hunter=sivu singer=laro child=pilu
dog=keta cat=mizu horse=tovo bear=guna goat=bexi
buys=navo sells=rike sees=vuta finds=zemo wants=hupa takes=jori paints=keli hides=sado
peach=foma boat=nalu hat=tigu box=bado cup=cuva fish=pezi rope=luno coin=dazi stone=gavo bell=ruki
small=pitu big=mova red=ruso blue=beru green=vedo tall=nilo cold=senu heavy=gomu
today=hode again=reto night=noke garden=jati river=suva
.=.
"""
TAVI: dict[str, str] = dict(entry.split("=") for entry in _LEXICON.split())
"""English -> Tavi, the invented language; one word for one word."""
