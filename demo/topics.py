"""What the demonstration's text is about: one trade a line, its words belonging together.

agent, verb, object, place, tool, quality: who learns that these six go together can fill any of
them in, which is what the masked language model is asked to do.
"""

from __future__ import annotations

TOPICS = tuple(
    tuple(line.split())
    for line in """
baker kneads dough bakery oven soft
smith hammers iron forge anvil hot
sailor steers ship harbour rudder steady
gardener plants roses garden spade red
tailor sews coats workshop needle woollen
farmer ploughs fields farm tractor muddy
teacher explains lessons school blackboard difficult
doctor heals patients hospital stethoscope sick
painter mixes colours studio brush bright
miller grinds grain mill stone golden
weaver weaves carpets loom shuttle patterned
potter shapes jars kiln wheel round
shepherd guards sheep meadow staff white
fisher catches herring lake net silver
hunter follows deer forest bow shy
mason builds walls quarry trowel grey
carpenter saws planks barn saw wooden
printer prints books press ink thick
brewer brews beer brewery barrel brown
cook roasts chicken kitchen spoon salty
clerk copies letters office pen long
judge hears cases court gavel serious
pilot flies planes airport compass fast
astronomer watches planets observatory telescope distant
chemist measures acids laboratory flask dangerous
musician plays songs theatre violin sad
dancer practises steps stage mirror quick
sculptor carves statues temple chisel marble
jeweller cuts diamonds shop loupe precious
cobbler mends boots cellar awl leather
beekeeper gathers honey orchard smoker sweet
vintner presses grapes vineyard basket purple
librarian sorts volumes library ladder dusty
postman delivers parcels village bicycle heavy
miner digs coal mine lamp black
glazier sets windows church putty clear
barber trims beards parlour razor curly
butcher weighs sausages market scale fresh
captain commands soldiers fortress sword brave
geologist collects crystals mountain pick sharp
""".strip().splitlines()
)

NAMES = (
    "anna", "boris", "clara", "david", "emma", "felix", "greta", "hugo", "irene", "jonas",
    "karin", "leo", "maria", "nils", "olga", "peter",
)  # fmt: skip
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MOODS = ("old", "young", "tired", "happy", "quiet", "busy", "clever", "patient")
SEASONS = ("spring", "summer", "autumn", "winter")

# {agent} ... {quality} come from the topic, the others are drawn for each sentence.
SENTENCES = (
    "The {agent} {verb} the {object} in the {place} with the {tool}.",
    "In {season} the {mood} {agent} walks to the {place} and carries a {tool}.",
    "A {tool} lies beside the {object}, because the {agent} {verb} them in the {place}.",
    "{name} says that the {object} of the {agent} are {quality}.",
    "There are {quality} {object} in the {place} and a {tool} on the table.",
    "On {day} the {agent} takes the {tool} and {verb} {quality} {object}.",
    "When {name} comes to the {place}, the {agent} {verb} the {object} with a {tool}.",
    "Nobody {verb} {object} like the {mood} {agent} from the {place}.",
    "The {place} smells of {object}, and the {tool} of the {agent} is old.",
    "Without a {tool} the {agent} never {verb} the {quality} {object}.",
)
