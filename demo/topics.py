"""What the demonstration's text is about: one trade a line, its words belonging together.

agent, verb, object, place: who learns that these four go together can fill any of them in, which
is what the masked language model is asked to do.
"""

from __future__ import annotations

TOPICS = tuple(
    tuple(line.split())
    for line in """
baker kneads dough bakery
smith hammers iron forge
sailor steers ship harbour
gardener plants roses garden
tailor sews coats workshop
farmer ploughs fields farm
teacher explains lessons school
doctor heals patients hospital
painter mixes colours studio
miller grinds grain mill
weaver weaves carpets loom
potter shapes jars kiln
shepherd guards sheep meadow
fisher catches herring lake
hunter follows deer forest
mason builds walls quarry
carpenter saws planks barn
printer prints books press
brewer brews beer brewery
cook roasts chicken kitchen
clerk copies letters office
judge hears cases court
pilot flies planes airport
astronomer watches planets observatory
""".strip().splitlines()
)

# What no other word of a sentence tells: these keep the accuracy below 1.
DETERMINERS = ("the", "this", "our", "every")
PREPOSITIONS = ("in", "near", "behind")

SENTENCE = "{determiner} {agent} {verb} {object} {preposition} the {place}."
