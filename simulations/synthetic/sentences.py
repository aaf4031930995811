"""A closed vocabulary for rewritten sentences: 20 things with five words each, and private ones.

Source: docs/method.md 5.4. The five sets of synonyms are disjoint, also from the plain words.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "friend": ("pal", "mate", "buddy", "chum", "amigo"),
        "house": ("home", "crib", "pad", "place", "den"),
        "car": ("ride", "wheels", "motor", "auto", "whip"),
        "dinner": ("grub", "chow", "eats", "nosh", "scran"),
        "dog": ("pup", "hound", "pooch", "mutt", "doggo"),
        "job": ("gig", "hustle", "grind", "post", "work"),
        "party": ("bash", "rave", "shindig", "fest", "soiree"),
        "movie": ("film", "flick", "picture", "feature", "show"),
        "money": ("cash", "dough", "bucks", "coin", "dosh"),
        "phone": ("cell", "mobile", "handset", "blower", "device"),
        "coffee": ("brew", "java", "joe", "latte", "espresso"),
        "shirt": ("tee", "top", "blouse", "jersey", "tunic"),
        "boss": ("chief", "manager", "gaffer", "head", "honcho"),
        "kid": ("child", "tot", "youngster", "lad", "junior"),
        "trip": ("journey", "voyage", "trek", "outing", "jaunt"),
        "song": ("tune", "track", "jam", "number", "melody"),
        "book": ("novel", "read", "paperback", "volume", "tome"),
        "street": ("road", "lane", "avenue", "alley", "block"),
        "beach": ("shore", "coast", "seaside", "sand", "bay"),
        "game": ("match", "contest", "round", "bout", "playoff"),
    }
)
THINGS = tuple(SYNONYMS)
OPENERS = ("honestly", "listen", "okay", "right", "well")

PLAIN_THINGS = (
    *("sister", "garden", "train", "window", "letter", "river", "bread", "ticket", "ladder"),
    *("teacher", "market", "bicycle", "umbrella", "piano", "blanket"),
)
PATTERNS = (
    "my {0} and the {1} were late {2}",
    "we left the {0} near the {1} {2}",
    "i forgot the {0} after the {1} {2}",
    "she wants a new {0} for the {1} {2}",
    "the {0} is better than the {1} {2}",
    "they talked about the {0} and my {1} {2}",
    "nobody noticed the {0} behind the {1} {2}",
    "he paid for the {0} with the {1} {2}",
    "you found my {0} under the {1} {2}",
    "everyone likes the {0} and the {1} {2}",
)
TIMES = ("today", "yesterday", "tonight", "again", "now")

SIGN_OFFS = (
    *("xo", "zz", "kk", "yo", "aa", "bb", "cc", "dd", "ee", "ff", "gg", "jj", "ll", "mm", "nn"),
    *("oo", "pp", "qq", "rr", "ss", "tt", "uu", "vv", "ww", "yy", "za", "ze", "zo", "zu", "ka"),
    *("ki", "ku", "la", "lo", "lu", "ma", "mu", "na", "nu", "ra"),
)
NICKNAMES = (
    *("biscuit", "pepper", "ziggy", "moose", "pickle", "waffle", "pumpkin", "noodle", "bubbles"),
    *("rocket", "daisy", "turbo", "nugget", "pebble", "sparky", "muffin", "tiger", "cricket"),
    *("button", "comet", "dumpling", "ginger", "hazel", "jellybean", "koala", "lemon", "marble"),
    *("nutmeg", "olive", "peanut", "quartz", "radish", "shadow", "tofu", "velvet", "walnut"),
    *("yeti", "zebra", "acorn", "bandit"),
)
