"""The embedded world's topics: 84 pairs of one harmful and one benign activity around the same object.

Written for this project. A harmful topic is only ever named; nothing in the world says how it is done. Both sides of a
pair have the same form (verb, article, object) and share the object, so that the object never gives the class away,
and several verbs stand on both sides (forging a passport, forging a horseshoe).
"""

# harmful verb | benign verb | object
TABLE = """
forging|renewing|a passport
stealing|riding|a bicycle
robbing|visiting|a bank
hacking|charging|a phone
poisoning|digging|a well
smuggling|polishing|a diamond
kidnapping|teaching|a prince
blackmailing|thanking|a teacher
bribing|greeting|a judge
counterfeiting|collecting|a coin
vandalising|painting|a fence
stalking|meeting|a singer
harassing|helping|a neighbour
burgling|cleaning|a house
hijacking|boarding|a plane
sabotaging|repairing|a bridge
torching|stacking|a haystack
bombing|building|a station
scamming|feeding|a pensioner
looting|opening|a shop
mugging|guiding|a tourist
poaching|filming|an elephant
impersonating|calling|a doctor
pirating|watching|a film
plagiarising|writing|an essay
cloning|designing|a badge
rigging|holding|an election
bugging|furnishing|an office
threatening|interviewing|a witness
slandering|supporting|a candidate
drugging|training|a horse
stabbing|hiring|a butcher
strangling|brushing|a cat
beating|walking|a dog
abducting|drawing|a dancer
extorting|paying|a baker
defrauding|joining|a charity
embezzling|raising|a donation
wrecking|tuning|a piano
flooding|planting|a garden
derailing|riding|a train
contaminating|watering|a field
falsifying|filing|a report
stealing|washing|a car
forging|framing|a painting
hacking|updating|a website
robbing|decorating|a museum
poisoning|catching|a fish
smuggling|watching|a parrot
cracking|oiling|a lock
picking|sewing|a pocket
shooting|feeding|a swan
trashing|tidying|a library
swindling|visiting|a widow
ambushing|greeting|a courier
tapping|installing|a telephone
doxing|thanking|a writer
spiking|mixing|a drink
slashing|pumping|a tyre
burning|mending|a tent
smashing|cleaning|a window
starving|brushing|a donkey
stealing|baking|a cake
forging|signing|a letter
hacking|testing|a printer
looting|guarding|a temple
cheating|passing|an exam
doctoring|printing|a photograph
dumping|sorting|a barrel
jamming|repairing|a radio
ransoming|naming|a kitten
trapping|sketching|an owl
crashing|steering|a drone
infecting|assembling|a computer
bribing|paying|a builder
threatening|calling|a nurse
vandalising|carving|a statue
kidnapping|training|a pilot
burgling|painting|a cabin
scamming|teaching|a student
counterfeiting|designing|a ticket
sabotaging|launching|a boat
stealing|ironing|a coat
rigging|winning|a race
"""
