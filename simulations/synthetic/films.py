"""A closed vocabulary for film descriptions: 24 topics of six short phrases, and filler.

A topic's words occur in no other topic, apart from a few everyday verbs and adjectives that many
topics share, so that a description tells its topic by two to four words (docs/method.md 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass

# LaMP-2M's labels, docs/method.md 2.2.
TAGS = (
    *("sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy"),
    *("classic", "psychology", "fantasy", "romance", "thought-provoking", "social commentary"),
    *("violence", "true story"),
)


@dataclass(frozen=True)
class Topic:
    """Who does what where, two phrases each; `name` is what an unpersonalised text calls it."""

    name: str
    who: tuple[str, str]
    does: tuple[str, str]
    where: tuple[str, str]

    @classmethod
    def read(cls, line: str) -> Topic:
        """A topic from `name: who, who | does, does | where, where`."""
        name, _, parts = line.partition(": ")
        who, does, where = (part.split(", ") for part in parts.split(" | "))
        return cls(name, (who[0], who[1]), (does[0], does[1]), (where[0], where[1]))


_LINES = """
crime: detective, inspector | follows clues, solves a murder | in silent streets, behind a dark alley
space: astronaut, captain | chases comets, repairs a rocket | on a distant planet, inside a silent starship
heist: thief, burglar | cracks a vault, steals a diamond | under a busy casino, inside a silent museum
love: florist, poet | writes verses, sends roses | at a small wedding, in a hidden garden
war: soldier, medic | digs a trench, carries the wounded | near the silent front, under a dark bridge
frontier: cowboy, sheriff | rides a mustang, draws a pistol | across a distant prairie, inside a busy saloon
ghosts: widow, medium | hears whispers, lights a candle | in a hidden attic, inside a cold mansion
cooking: chef, baker | opens a bistro, perfects a recipe | in a busy kitchen, near a small bakery
sport: boxer, coach | wins a championship, loses a match | in a busy stadium, inside a small gym
school: teacher, student | fails an exam, starts a debate | in a busy classroom, at a distant academy
sea: sailor, fisherman | chases a whale, survives a storm | on a cold ocean, near a silent lighthouse
music: singer, drummer | records an album, joins a band | on a small stage, in a dark nightclub
trial: lawyer, judge | defends a client, questions a witness | in a silent courtroom, near a busy jury
machines: engineer, robot | builds an engine, repairs a circuit | in a hidden laboratory, inside a cold factory
magic: wizard, witch | breaks a spell, brews a potion | under a hidden tower, behind a dark mirror
knights: knight, squire | fights a dragon, lifts a sword | across a cold kingdom, near a distant fortress
medicine: doctor, surgeon | cures a fever, saves a patient | in a busy hospital, inside a small clinic
travel: driver, hitchhiker | repairs a truck, loses a map | on a distant highway, at a silent motel
politics: senator, mayor | buys a vote, wins an election | in a cold parliament, at a busy rally
family: father, grandmother | sells the farm, plans a reunion | on a small porch, near a cold orchard
prison: prisoner, warden | digs a tunnel, plans a riot | behind cold bars, inside a silent cell
spies: spy, agent | steals a code, carries a passport | at a distant embassy, near a hidden border
jungle: explorer, guide | finds a temple, survives a snakebite | in a dark jungle, across a hidden valley
circus: clown, acrobat | rides an elephant, lifts a lion | inside a small circus, under a busy tent
"""
TOPICS = tuple(Topic.read(line) for line in _LINES.strip().splitlines())

# Words every topic may use. All adjectives start with a consonant, so "a" always fits.
PLAIN_WHO = ("man", "woman", "stranger", "couple", "neighbour")
PLAIN_DOES = (
    *("finds the truth", "keeps a secret", "makes a choice", "waits too long", "leaves home"),
)
PLAIN_WHERE = (
    *("in a small town", "one long winter", "far from home", "in a single night"),
    "after many years",
)
ADJECTIVES = (
    *("lonely", "young", "quiet", "brave", "stubborn", "clever", "shy", "tired", "restless"),
    *("gentle", "proud", "nervous", "cheerful", "bitter", "famous"),
)
FORMS = (
    "a {adjective} {who} {does} {where}",
    "{where} a {adjective} {who} {does}",
    "the story of a {adjective} {who} who {does} {where}",
    "this time a {adjective} {who} {does} {where}",
)
# Which of who, does and where are the topic's own.
TOPICAL = ((1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1))
